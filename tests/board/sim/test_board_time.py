"""The clock of a virtual board: what it skips, whom it waits for, that load is nothing to it.

What is held against real time is that something takes *at least* so long.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from tests.support.boards import Board

HOUR = 3600.0
BLOCKS = 64


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    number = itertools.count()
    with ExitStack() as stack:

        def build(main: str, **options: object) -> Board:
            given = {"blocks": BLOCKS, "clock": "own", **options}
            folder = tmp_path / f"board{next(number)}"
            board = stack.enter_context(Board(folder, **given))  # type: ignore[arg-type]
            board.format({"/main.py": main.encode()})
            board.radio(networks={"home": ""})
            return board

        yield build


Make = Callable[..., Board]

JOIN = """
import machine, network, socket, time
w = network.WLAN(network.WLAN.IF_STA)
w.active(True)
w.connect('home', '')
while not w.isconnected(): time.sleep_ms(100)
"""


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that gives each connection to `answer`, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=answer, args=(peer,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def busy() -> Iterator[None]:
    """A host whose processors have other things to do."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


# --- waiting takes no real time, and exactly its own


def test_an_hour_of_sleep(make: Make) -> None:
    board = make(
        """
import time
begin = time.ticks_ms()
for _ in range(3600): time.sleep(1)
print(time.ticks_diff(time.ticks_ms(), begin), time.time())
"""
    )
    assert board.life(timeout=2 * HOUR).console == "3600000 3600\n"
    assert 3600 <= board.age < 3601


def test_days_of_deep_sleep(make: Make) -> None:
    board = make(
        """
import machine, time
n = len(machine.RTC().memory())
machine.RTC().memory(bytes(n + 1))
print('life', n, time.time() // 3600)
if n < 3: machine.deepsleep(24 * 3600 * 1000)
"""
    )
    board.start()
    assert board.wait("life 3 72", 80 * HOUR), board.console


def test_what_is_due_comes_in_its_order_and_at_its_time(make: Make) -> None:
    board = make(
        """
import machine, time
begin = time.ticks_ms()
def tell(what): print(what, time.ticks_diff(time.ticks_ms(), begin) // 10)
late = machine.Timer(-1)
late.init(mode=machine.Timer.ONE_SHOT, period=90000, callback=lambda t: tell('once'))
often = machine.Timer(-1)
often.init(period=40000, callback=lambda t: tell('often'))
time.sleep(50)
tell('slept')
time.sleep(50)
tell('slept')
"""
    )
    assert board.life(timeout=HOUR).console.split("\n")[:-1] == [
        "often 4000", "slept 5000", "often 8000", "once 9000", "slept 10000",
    ]  # fmt: skip


def test_asyncio_wakes_up_in_time(make: Make) -> None:
    board = make(
        """
import asyncio, time
begin = time.ticks_ms()
async def every(s):
    while True:
        await asyncio.sleep(s)
        print(s, time.ticks_diff(time.ticks_ms(), begin) // 100)
async def main():
    tasks = [asyncio.create_task(every(s)) for s in (700, 300)]
    await asyncio.sleep(1450)
asyncio.run(main())
"""
    )
    assert board.life(timeout=HOUR).console.split("\n")[:-1] == [
        "300 3000", "300 6000", "700 7000", "300 9000", "300 12000", "700 14000",
    ]  # fmt: skip


def test_a_board_stands_where_it_said_what_was_waited_for(make: Make) -> None:
    board = make("import time\nfor n in range(9**9):\n    print('turn', n)\n    time.sleep(100)")
    board.start()
    for n in (3, 50):
        assert board.wait(f"turn {n}\n", HOUR * 10)
        assert f"turn {n + 1}\n" not in board.console
    assert not board.wait("turn 60\n", 950)
    assert "turn 59\n" in board.console


def test_without_a_wait_its_time_is_real(make: Make) -> None:
    board = make("import time\nprint('here')\ntime.sleep(1000)\nprint('later')")
    board.start()
    assert board.wait("here")
    began, age = time.monotonic(), board.age
    time.sleep(0.3)
    assert 0 < board.age - age <= time.monotonic() - began + 0.02
    board.go_on(1000)
    assert "later" in board.console


# --- computing


COUNT = """
import machine
rtc = machine.RTC()
machine.WDT()
n = 0
while True:
    n += 1
    if n % 64 == 0: rtc.memory(n.to_bytes(4, 'big'))
"""


def test_a_loop_meets_its_watchdog_after_as_many_turns_on_a_busy_host(make: Make) -> None:
    board = make(COUNT, speed=10)
    turns = []
    for host in (nullcontext(), busy()):
        with host:
            age = board.age
            assert board.life(timeout=HOUR).cause == "watchdog"
            assert 3.2 <= board.age - age < 4
            turns.append(int.from_bytes(board.rtc[:4], "big"))
    # Processors that others use as well are slower, but it is no fifth that is left of the count.
    assert turns[1] > turns[0] / 3


def test_a_loop_that_a_timer_feeds_goes_on(make: Make) -> None:
    board = make(
        """
import machine, time
wdt = machine.WDT()
timer = machine.Timer(-1)
timer.init(period=500, callback=lambda _: wdt.feed())
begin = time.ticks_ms()
while time.ticks_diff(time.ticks_ms(), begin) < 20000: pass
print('alive')
timer.deinit()
time.sleep(60)
""",
        speed=10,
    )
    with busy():
        life = board.life(timeout=HOUR)
    assert (life.cause, life.console) == ("watchdog", "alive\n")


# --- who is waited for


ASK = (
    JOIN
    + """
s = socket.socket()
s.settimeout(10)
s.connect(('127.0.0.1', {port}))
begin = time.ticks_ms()
s.write(b'question')
try: print('got', s.read(6))
except OSError as e: print('error', e.errno)
print(time.ticks_diff(time.ticks_ms(), begin))
"""
)


def test_a_slow_answer_is_not_overtaken(make: Make) -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(100)
        time.sleep(1.5)
        peer.sendall(b"answer")

    with listening(answer) as port:
        told, ms = make(ASK.format(port=port)).life(timeout=HOUR).console.splitlines()
    assert told == "got b'answer'"
    assert 1400 <= int(ms) < 10000


def test_an_answer_is_not_overtaken_on_a_busy_host(make: Make) -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(100)
        sum(range(3_000_000))  # it has to get its turn for that
        peer.sendall(b"answer")

    with listening(answer) as port, busy():
        console = make(ASK.format(port=port)).life(timeout=HOUR).console
    assert console.startswith("got b'answer'")


def test_who_never_answers_costs_no_real_time(make: Make) -> None:
    def hear(peer: socket.socket) -> None:
        while peer.recv(100):
            pass

    with listening(hear) as port:
        ask = ASK.format(port=port).removeprefix(JOIN).replace("\n", "\n    ")
        board = make(f"{JOIN}\nfor _ in range(30):{ask}")
        told = board.life(timeout=HOUR).console.splitlines()
    assert told[::2] == ["error 110"] * 30
    assert all(10000 <= int(ms) < 10100 for ms in told[1::2])


PAIR = (
    JOIN
    + """
s = socket.socket()
s.settimeout(20)
s.connect(('127.0.0.1', {port}))
for n in range(100):
    time.sleep(3)
    s.write(b'%d\\n' % n)
    assert s.readline() == b'%d\\n' % n
print('done', time.ticks_ms() // 1000)
"""
)


def test_two_boards_talk_and_keep_together(make: Make) -> None:
    waiting: list[socket.socket] = []

    def pair(peer: socket.socket) -> None:
        waiting.append(peer)
        if len(waiting) < 2:
            return
        for one, other in (waiting, waiting[::-1]):
            threading.Thread(target=pass_on, args=(one, other), daemon=True).start()

    def pass_on(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(100):
                other.sendall(data)

    with listening(pair) as port:
        boards = [make(PAIR.format(port=port), speed=5) for _ in range(2)]
        for board in boards:
            board.start()
        for board in boards:
            assert board.wait("done 30", HOUR), [board.console for board in boards]
        assert abs(boards[0].age - boards[1].age) < 5


def test_what_somebody_here_waits_for_takes_no_real_time(make: Make) -> None:
    board = make(
        """
import network, socket, time
network.WLAN(network.AP_IF).active(True)
s = socket.socket()
s.bind(('0.0.0.0', 80))
s.listen(1)
print('listening')
c, _ = s.accept()
n = c.readline()
time.sleep(500)
c.write(n)
"""
    )
    board.start()
    assert board.wait("listening")
    with socket.create_connection((board.address, 8080), timeout=60) as peer, board.passing():
        peer.sendall(b"hello\n")
        assert peer.recv(6) == b"hello\n"
    assert board.age >= 500


# --- the wall's clock


def test_by_the_walls_clock_a_second_is_a_second(make: Make) -> None:
    began = time.monotonic()
    life = make(
        "import time\nt = time.ticks_ms()\ntime.sleep_ms(400)\n"
        "print(time.ticks_diff(time.ticks_ms(), t) >= 400)",
        clock="wall",
    ).life()
    assert life.console == "True\n" and time.monotonic() - began >= 0.4


def test_a_wait_inside_a_wait_is_refused(make: Make) -> None:
    """It would wait for the very thread that asks: for ever, and without a word."""
    board = make("import time\nwhile True:\n time.sleep(1)\n print('beat')\n")
    board.start()
    with pytest.raises(RuntimeError, match="must not wait"):
        board.wait(lambda b: b.wait("beat", 1), 60)
    assert board.wait("beat", 60), "it goes on"
