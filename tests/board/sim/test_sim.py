"""The virtual board: boot order, resets, flash, radio, heap and clock, on real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from littlefs import LittleFS, UserContext

from mipy_ota.tools.flash import image
from mipy_ota.tools.sim.micropython import binary
from tests.support import ROOT
from tests.support.boards import Board

BLOCKS = 64


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    boards: list[Board] = []

    def build(main: str = "", boot: str = "", **options: object) -> Board:
        options = {"blocks": BLOCKS, "clock": "own", **options}
        board = Board(tmp_path / f"board{len(boards)}", **options)  # type: ignore[arg-type]
        board.format({"/boot.py": boot.encode(), "/main.py": main.encode()})
        boards.append(board)
        return board

    yield build
    for board in boards:
        board.close()


Make = Callable[..., Board]


# --- boot order


def test_boot_then_main_then_repl(make: Make) -> None:
    life = make("print('main', x, __name__)", "print('boot', dir()); x = 1").life()
    assert (life.cause, life.console) == (
        "repl",
        "boot ['__name__', '__file__']\nmain 1 __main__\n",
    )


@pytest.mark.parametrize("failure", ["1/0", "raise KeyboardInterrupt"])
def test_main_does_not_run_when_boot_raised(make: Make, failure: str) -> None:
    life = make("print('main')", failure).life()
    assert life.cause == "repl"
    assert "Traceback" in life.console and "main\n" not in life.console


def test_soft_reset_in_boot_goes_on_on_esp8266_and_resets_esp32(make: Make) -> None:
    boot = "import machine; machine.soft_reset()"
    assert make("print('main')", boot).life().console == "main\n"
    assert make("print('main')", boot, chip="esp32").life().cause == "soft reset"


def test_only_py_files_start_by_themselves(make: Make) -> None:
    board = make()
    board.remove("/main.py")
    board.write("/main.mpy", b"M\x06\x00\x1f")
    assert board.life().console == ""


# --- resets


def test_reset_causes_read_as_on_the_chip(make: Make) -> None:
    main = """
import machine
n = machine.RTC().memory()
print(machine.reset_cause(), len(n))
machine.RTC().memory(n + b'x')
if len(n) == 0: machine.reset()
if len(n) == 1: machine.deepsleep(1000)
machine.WDT()
while True: pass
"""
    for chip, numbers in (("esp8266", "0 4 5 3"), ("esp32", "1 2 4 3")):
        board = make(main, chip=chip, speed=5)
        lives = [board.life(timeout=20) for _ in range(4)]
        assert [life.cause for life in lives] == ["reset", "deepsleep", "watchdog", "watchdog"]
        assert " ".join(life.console.split()[0] for life in lives) == numbers
        assert [life.console.split()[1] for life in lives] == list("0123")
        board.power_cut()
        assert board.life().console.split() == [numbers.split()[0], "0"]


def test_rtc_memory_has_the_chips_size(make: Make) -> None:
    main = """
from machine import RTC
for size in (492, 493, 2048, 2049):
    try:
        RTC().memory(bytes(size)); print(size)
    except ValueError:
        print('refused')
"""
    assert make(main).life().console.split() == ["492", "refused", "refused", "refused"]
    assert make(main, chip="esp32").life().console.split() == ["492", "493", "2048", "refused"]


def test_feeding_keeps_the_watchdog_away_and_sleep_does_not(make: Make) -> None:
    fed = """
import machine, time
wdt = machine.WDT()
t = machine.Timer(-1)
t.init(period=500, callback=lambda _: wdt.feed())
time.sleep(8)
print('alive')
t.deinit()
time.sleep(60)
"""
    life = make(fed, speed=4).life(timeout=20)
    assert (life.cause, life.console) == ("watchdog", "alive\n")


def test_esp8266_takes_no_other_timeout(make: Make) -> None:
    life = make("import machine; machine.WDT(timeout=1000)").life()
    assert "ValueError" in life.console


def test_ctrl_c_reaches_the_app_and_leaves_the_repl(make: Make) -> None:
    board = make(
        """
import time
try:
    print('running')
    while True: time.sleep(1)
except KeyboardInterrupt:
    print('interrupted')
seven = 7
"""
    )
    board.start()
    assert board.wait("running")
    board.ctrl_c()
    assert board.wait("interrupted") and board.wait(">>>")
    board.type("seven * 6\n")
    assert board.wait("42")
    board.type("import machine; machine.reset()\n")
    assert board.wait(lambda b: b.stats.boots == 2)


def test_ctrl_c_reaches_a_loop_that_calls_nothing(make: Make) -> None:
    board = make("print('running')\nwhile True: pass")
    board.start()
    assert board.wait("running")
    board.ctrl_c()
    assert board.wait("KeyboardInterrupt") and board.wait(">>>")


def test_ctrl_c_reaches_asyncio(make: Make) -> None:
    board = make(
        """
import asyncio
async def main():
    print('running')
    await asyncio.sleep(100)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print('interrupted')
"""
    )
    board.start()
    assert board.wait("running")
    board.ctrl_c()
    assert board.wait("interrupted")


def test_a_started_board_goes_on_through_resets_and_power_cuts(make: Make) -> None:
    board = make(
        """
import machine, time
n = machine.RTC().memory()
machine.RTC().memory(n + b'x')
print('life', len(n), machine.reset_cause())
if len(n) == 0: machine.reset()
if len(n) == 1: machine.deepsleep(100)
time.sleep(100)
"""
    )
    board.start()
    assert board.wait("life 2 5")
    board.power_cut()
    assert board.wait(lambda b: b.console.count("life 0 0") == 2)
    board.stop()
    assert [life.cause for life in board.lives[:3]] == ["reset", "deepsleep", "killed"]


# --- flash

WRITER = """
import os
try: os.mkdir('/d')
except OSError: pass
with open('/d/state', 'w') as f: f.write('new' * 40)
with open('/big', 'w') as f:
    for _ in range(20): f.write('new' * 100)
os.rename('/big', '/d/big')
print('done')
"""


def test_operations_are_counted_and_deterministic(make: Make) -> None:
    lives = [make(WRITER).life() for _ in range(3)]
    assert lives[0].ops > 5 and lives[0].erases > 1
    assert len({(life.ops, life.erases) for life in lives}) == 1
    assert make("print(1)").life().ops == 0


def test_a_cut_at_any_operation_leaves_old_or_new(make: Make) -> None:
    board = make(WRITER)
    old, new = b"old" * 40, b"new" * 40
    board.write("/d/state", old)
    start = board.save()
    total = board.life().ops
    images = {}
    seen = set()
    for torn in (False, True):
        for cut in range(1, total + 1):
            board.restore(start)
            life = board.life(cut=cut, torn=torn)
            assert (life.cause, life.ops) == ("cut", cut)
            images[torn, cut] = board._image.read_bytes()
            state = board.read("/d/state")
            assert state in (old, new)
            seen.add(state)
            assert board.life().console == "done\n"
            assert board.read("/d/big") == b"new" * 2000
    assert seen == {old, new}
    assert any(images[False, cut] != images[True, cut] for cut in range(1, total + 1))


def test_a_cut_loses_rtc_memory_and_a_later_cut_never_comes(make: Make) -> None:
    board = make("import machine; machine.RTC().memory(b'x'); open('/f', 'w').close()")
    life = board.life()
    assert board.rtc == b"x"
    assert board.life(cut=life.ops + 1).cause == "repl"
    board.write("/main.py", b"open('/g', 'w').close()")
    board.life(cut=1)
    assert board.rtc == b""


def test_the_storage_model_tears_what_littlefs_keeps_whole(make: Make) -> None:
    main = "with open('/state', 'w') as f:\n    f.write('new')\n    f.write('er')\nprint('done')"
    board = make(main, storage="model")
    board.write("/state", b"old")
    start = board.save()
    assert board.life().ops == 3
    assert board.read("/state") == b"newer"
    left = []
    for cut in (1, 2, 3):
        for torn in (False, True):
            board.restore(start)
            assert board.life(cut=cut, torn=torn).cause == "cut"
            left.append(board.read("/state"))
    assert left == [b"old", b"old", b"", b"n", b"new", b"newe"]


def test_the_storage_model_serves_imports_and_folders(make: Make) -> None:
    main = """
import os, sys
os.mkdir('/lib')
with open('/lib/m.py', 'w') as f: f.write('x = 5')
import m
print(m.x, sorted(os.listdir('/')), os.stat('/lib/m.py')[6])
os.rename('/lib/m.py', '/n.py')
os.remove('/n.py')
os.rmdir('/lib')
os.chdir('/')
print(sorted(os.listdir()), open('main.py').read(6))
try: os.rename('/a', '/b')
except OSError as e: print(e.errno)
"""
    life = make(main, storage="model").life()
    assert life.console == "5 ['boot.py', 'lib', 'main.py'] 5\n['boot.py', 'main.py'] \nimpor\n2\n"
    assert life.ops == 7


def test_image_is_what_the_librarys_own_memory_would_hold() -> None:
    files = {"/a": b"", "/b/c": b"y" * 129, "/b/inline": b"x" * 128, "/d": bytes(9000)}
    system = LittleFS(
        **image._GEOMETRY, block_count=BLOCKS, disk_version=image._DISK_VERSION, mount=False
    )
    system.format()
    system.mount()
    for path, data in files.items():
        image._put(system, path, data)
    system.unmount()
    assert isinstance(system.context, UserContext)
    assert image.build(files, BLOCKS) == system.context.buffer


def test_image_round_trip(tmp_path: Path) -> None:
    files = {"/boot.py": b"b", "/a/b/c.mpy": bytes(9000), "/empty": b""}
    built = image.build(files, BLOCKS)
    assert len(built) == BLOCKS * image.BLOCK and image.read(built) == files
    assert image.build(files, BLOCKS) == built
    path = tmp_path / "flash.img"
    path.write_bytes(built)
    image.remove(path, "/empty")
    image.put(path, {"/a/new": b"n"})
    assert image.get(path, "/a/new") == b"n"
    with pytest.raises(FileNotFoundError):
        image.get(path, "/empty")


# --- heap and clock


@pytest.mark.parametrize(("chip", "size"), [("esp8266", 38912), ("esp32", 112 * 1024)])
@pytest.mark.parametrize("options", [{}, {"speed": 10}, {"storage": "model"}])
def test_free_heap_is_the_chips(make: Make, chip: str, size: int, options: dict) -> None:
    code = "import gc\ngc.collect()\nprint(gc.mem_free())"
    bare = subprocess.run(
        [*binary(), "-X", f"heapsize={size}", "-c", code], capture_output=True, check=True
    )
    free = int(make(code, chip=chip, **options).life().console)
    # What is missing are the file system's own buffers, which a chip pays too.
    assert -1536 <= free - int(bare.stdout) <= 256


def test_peak_heap(make: Make) -> None:
    main = "import time\nb = bytearray(20000)\ntime.sleep_ms(30)\nb = None\ntime.sleep_ms(30)"
    board = make(main, heap_profile=True)
    assert board.life().cause == "repl"
    assert 20000 < board.stats.peak < 25000


def test_memory_runs_out_where_the_chips_does(make: Make) -> None:
    life = make("try:\n    bytearray(38000)\nexcept MemoryError:\n    print('out')").life()
    assert life.console == "out\n"


def test_the_clock_runs_faster_also_for_asyncio(make: Make) -> None:
    main = """
import asyncio, time, machine
t = time.ticks_ms()
time.sleep(10)
print(time.ticks_diff(time.ticks_ms(), t) >= 10000)
hits = []
timer = machine.Timer(-1)
timer.init(period=1000, callback=lambda _: hits.append(1))
async def work(n):
    try:
        await asyncio.sleep(n)
        return n
    except asyncio.CancelledError:
        print('cancelled')
        raise
async def main():
    await asyncio.sleep(10)
    try:
        await asyncio.wait_for_ms(work(100), 5000)
    except asyncio.TimeoutError:
        print('timeout')
    print(await asyncio.gather(work(2), work(1)))
    task = asyncio.create_task(work(50))
    await asyncio.sleep(0)
    task.cancel()
    try: await task
    except asyncio.CancelledError: print(task.done())
    event = asyncio.Event()
    asyncio.create_task(work(1)).state = lambda *_: event.set()
    await event.wait()
asyncio.run(main())
print(len(hits) > 5, time.time() >= 25, time.gmtime()[0])
machine.RTC().datetime((2026, 5, 1, 0, 12, 0, 0, 0))
print(time.gmtime()[:4], machine.RTC().datetime()[:3])
machine.reset()
"""
    board = make(main, speed=50)
    begun = time.monotonic()
    life = board.life()
    assert time.monotonic() - begun < 10
    assert life.console == (
        "True\ncancelled\ntimeout\n[2, 1]\ncancelled\nTrue\n"
        "True True 2000\n(2026, 5, 1, 12) (2026, 5, 1)\n"
    )


# --- radio and network


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back every line; "who" is answered by the peer's address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, address = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(peer, address[0]), daemon=True).start()

        def answer(peer: socket.socket, address: str) -> None:
            with suppress(ConnectionError), peer, peer.makefile("rwb") as stream:
                for line in stream:
                    stream.write(address.encode() + b"\n" if line == b"who\n" else line)
                    stream.flush()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


JOIN = """
import network, time, socket
w = network.WLAN(network.WLAN.IF_STA)
w.active(True)
w.connect('home', '{password}')
for _ in range(30):
    if w.status() not in (1, 1001): break
    time.sleep_ms(100)
"""


def test_status_follows_the_air(make: Make) -> None:
    board = make(JOIN.format(password="secret") + "print(w.status(), w.isconnected())", speed=10)
    board.radio(networks={"home": "secret"})
    assert board.life().console == "5 True\n"
    board.radio(networks={"home": "other"})
    assert board.life().console == "2 False\n"
    board.radio(networks={})
    assert board.life().console == "3 False\n"
    board.radio(networks={"home": {"password": "secret", "hidden": True}})
    assert board.life().console == "5 True\n"
    board.radio(up=False)
    assert board.life().console == "3 False\n"


def test_esp32_hides_a_wrong_password_behind_endless_reconnects(make: Make) -> None:
    board = make(JOIN.format(password="wrong") + "print(w.status())", chip="esp32", speed=20)
    board.radio(networks={"home": "secret"})
    assert board.life().console == "1001\n"
    board.write(
        "/main.py",
        (JOIN.format(password="wrong") + "w.config(reconnects=2)\nprint(w.status())").encode(),
    )
    assert board.life().console == "15\n"


def test_scan_and_config(make: Make) -> None:
    main = """
import network
w = network.WLAN()
w.active(True)
for n in w.scan(): print(n[0], n[3], n[4], n[5])
for key in ('reconnects', 'nonsense'):
    try: w.config(key)
    except ValueError as e: print(e)
a = network.WLAN(network.AP_IF)
print(a.active(), a.config('ssid'))
a.active(False)
"""
    board = make(main, speed=20)
    board.radio(networks={"a": "x" * 8, "b": {"rssi": -80, "hidden": True}})
    first = board.life().console
    assert first == (
        "b'a' -55 3 False\nb'' -80 0 True\nunknown config param\nunknown config param\n"
        f"True MicroPython-{board.mac[9:].replace(':', '')}\n"
    )
    # The ESP8266 remembers that its access point was switched off.
    assert "False MicroPython" in board.life().console


def test_sockets_need_a_link_and_have_the_boards_address(make: Make, echo: int) -> None:
    main = (
        JOIN.format(password="secret")
        + f"""
a = socket.getaddrinfo('127.0.0.1', {echo})[0][-1]
s = socket.socket()
s.settimeout(5)
try:
    s.connect(a)
    s.write(b'who\\n')
    print(s.readline())
    s.send(b'x' * 100 + b'\\n')
    b = bytearray(101)
    print(s.readinto(b), b[-1], s.recv(10) if False else '')
    s.settimeout(0.05)
    try: s.read(1)
    except OSError as e: print(e.errno)
except OSError as e:
    print('refused', e.errno)
s.close()
"""
    )
    board = make(main)
    assert board.life().console == "refused 113\n"
    board.radio(networks={"home": "secret"})
    assert board.life().console == f"b'{board.address}\\n'\n101 10 \n110\n"
    assert (board.stats.sent, board.stats.received) == (4 + 101, len(board.address) + 1 + 101)


def test_asyncio_streams_and_inflate_from_a_socket(make: Make, echo: int) -> None:
    raw = zlib.compressobj(wbits=-10)
    deflated = raw.compress(b"abc") + raw.flush()
    main = (
        JOIN.format(password="")
        + f"""
import asyncio, deflate
async def main():
    r, w = await asyncio.open_connection('127.0.0.1', {echo})
    w.write(b'who\\n')
    await w.drain()
    print(await r.readline())
    w.close()
    await w.wait_closed()
asyncio.run(main())
DEFLATED = {deflated}
s = socket.socket()
s.connect(socket.getaddrinfo('127.0.0.1', {echo})[0][-1])
s.write(DEFLATED + b'\\n')
print(deflate.DeflateIO(s, deflate.RAW, 10).read())
try:
    socket.socket().connect(('127.0.0.1', 1))
except OSError as e:
    print(e.errno)
"""
    )
    board = make(main, speed=5)
    board.radio(networks={"home": ""})
    assert board.life().console == f"b'{board.address}\\n'\nb'abc'\n111\n"


def test_a_connection_hangs_when_the_air_goes(make: Make, echo: int) -> None:
    main = (
        JOIN.format(password="")
        + f"""
s = socket.socket()
s.settimeout(1)
s.connect(('127.0.0.1', {echo}))
print('joined')
while w.isconnected(): time.sleep_ms(10)
s.write(b'who\\n')
try: print(s.readline())
except OSError as e: print('hangs', e.errno)
while not w.isconnected(): time.sleep_ms(10)
print('back')
"""
    )
    board = make(main)
    board.radio(networks={"home": ""})
    board.start()
    assert board.wait("joined")
    board.radio(up=False)
    assert board.wait("hangs 110"), board.console
    board.radio(up=True)
    assert board.wait("back")


def test_a_board_serves_at_its_own_address(make: Make) -> None:
    main = """
import network, socket
network.WLAN(network.AP_IF).active(True)
s = socket.socket()
s.bind(('0.0.0.0', 80))
s.listen(1)
print('listening')
c, a = s.accept()
c.write(c.readline() + a[0].encode())
c.close()
"""
    board = make(main)
    board.start()
    assert board.wait("listening")
    with socket.create_connection((board.address, 8080), timeout=5) as peer:
        peer.sendall(b"hello\n")
        assert peer.makefile("rb").read() == b"hello\n127.0.0.1"


# --- pins, several boards, the end


def test_pins(make: Make) -> None:
    main = """
from machine import Pin
import time
led = Pin(2, Pin.OUT, value=1)
button = Pin(0, Pin.IN, Pin.PULL_UP)
button.irq(lambda p: print('edge', p.value()), Pin.IRQ_FALLING)
print('ready', button.value())
while True: time.sleep_ms(5)
"""
    board = make(main)
    board.start()
    assert board.wait("ready 1")
    assert (board.level(2), board.level(0)) == (1, None)
    board.drive(0, 0)
    assert board.wait("edge 0")


def test_several_boards_at_once(make: Make, echo: int) -> None:
    main = (
        JOIN.format(password="")
        + f"""
s = socket.socket()
s.connect(('127.0.0.1', {echo}))
s.write(b'who\\n')
print('I am', s.readline().decode())
while True: time.sleep(1)
"""
    )
    boards = [make(main, speed=10) for _ in range(6)]
    for board in boards:
        board.radio(networks={"home": ""})
        board.start()
    for board in boards:
        assert board.wait(f"I am {board.address}\n")


def test_callbacks_and_collection_live_together(make: Make) -> None:
    main = """
import gc, machine, time
hits = []
n = [0]
def hit(_):
    bytearray(100)
    n[0] += 1
timers = [machine.Timer(-1) for _ in range(4)]
for t in timers: t.init(period=1, callback=hit)
end = time.ticks_add(time.ticks_ms(), 2000)
while time.ticks_diff(end, time.ticks_ms()) > 0:
    x = [bytearray(50) for _ in range(20)]
    gc.collect()
print(n[0] > 500)
"""
    life = make(main).life()
    assert (life.cause, life.console) == ("repl", "True\n")


def test_no_board_outlives_its_host(tmp_path: Path) -> None:
    script = f"""
import os, time
from mipy_ota.tools.sim.board import VirtualBoard
board = VirtualBoard({str(tmp_path)!r}, blocks={BLOCKS})
board.format({{"/main.py": b"while True: pass"}})
board.start()
while not board._current: time.sleep(0.01)
print(board._current.process.pid, flush=True)
time.sleep(0.2)
os._exit(0)
"""
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    for _ in range(100):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the board still runs")


def test_a_life_ends_at_its_timeout_and_at_a_text(make: Make) -> None:
    board = make("print('here')\nwhile True: pass")
    assert board.life(timeout=0.3).cause == "killed"
    assert board.life(until="here").cause == "killed"
    assert board.life(until=lambda b: b.stats.boots == 3).cause == "killed"
