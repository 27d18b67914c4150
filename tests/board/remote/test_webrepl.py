"""WebREPL on boards: who gets in, who does not, and what it costs."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import threading
import time
import webrepl as other
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server import policy
from mipy_ota.signing import board_file, envelope, trust, unlock
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import places
from mipy_ota.tools.board import session, target, webrepl
from mipy_ota.tools.board import unlock as verb
from mipy_ota.tools.board.remote import Remote
from mipy_ota.tools.board.repl import Repl
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client, enrol
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import fleet, loopback
from tests.support.boards import Board
from tests.support.websocket_client import HEAD, Client

PASSWORD = "pass-4711"
ADDRESS = loopback.address()
SPEED = 10
# Writes to flash all the time, as a log does.
PLAIN = """
import os
import time
import ota
print("app runs")
n = 0
while True:
    ota.check()
    time.sleep_ms(200)
    n += 1
    if n % 5 == 0:
        with open("/data/log", "w") as f:
            f.write("n = %d\\n" % n * 100)
"""
RELEASE: Mapping[str, str] = {"main.py": PLAIN}


@pytest.fixture(scope="module", autouse=True)
def debug_key() -> Iterator[None]:
    """These boards' trust names a debug key."""
    named = [(role, PublicKey.of(fleet.key(role))) for role in ("root", "release", "debug")]
    raw = trust.add_signature(trust.first(fleet.FLEET, named).encode(), fleet.key("root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "first_trust", lambda fleet=fleet.FLEET: raw)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("server"), interval=5) as found:
        yield found


@pytest.fixture(scope="module")
def made(server: Running) -> fleet.Fleet:
    return fleet.Fleet(server)


Make = Callable[..., VirtualBoard]


@pytest.fixture
def make(made: fleet.Fleet, tmp_path: Path) -> Iterator[Make]:
    boards = []

    def board(
        name: str,
        *,
        dev: bool = False,
        chip: Chip = "esp8266",
        files: Mapping[str, str | bytes] | None = RELEASE,
        speed: int = SPEED,
    ) -> VirtualBoard:
        cls = f"{chip}-generic"
        who = replace(
            fleet.identity(name, (made.server.url,), "mydev" if dev else ""),
            webrepl=PASSWORD,
            cls=cls,
        )
        made.enrol(who)
        release = fleet.release(files, 1000, cls=cls) if files else None
        boards.append(
            fleet.prepared(
                tmp_path / name, who, release, chip=chip, address=ADDRESS, speed=speed, clock="wall"
            )
        )
        return boards[-1]

    yield board
    for one in boards:
        one.close()


def up(board: VirtualBoard, times: int = 1) -> None:
    """Wait until the app has started so often and WebREPL listens."""
    assert board.wait(lambda b: b.console.count("app runs") >= times, 60), board.console


@pytest.mark.parametrize("chip", ["esp8266", "esp32"])
def test_a_dev_board_is_open(make: Make, made: fleet.Fleet, chip: Chip) -> None:
    board = make(f"dev-{chip}", dev=True, chip=chip)
    board.start()
    up(board)
    with Client(ADDRESS) as first:
        assert "WebREPL connected" in first.login(PASSWORD)
        # Another who knows the password takes over, and both are told.
        with Client(ADDRESS) as second:
            assert "127.0.0.1 is here" in second.until("Password: ")
            second.send(PASSWORD + "\r")
            second.until(">>> ")
            assert "127.0.0.1 has taken over" in first.rest()
            content = bytes(range(256)) * 20
            if chip == "esp8266":
                second.ask(1, "/data/x", 10)
                assert "stop the app first (Ctrl-C)" in second.rest()
            else:
                second.put("/data/x.new", content)  # while the app goes on writing
    with Client(ADDRESS) as third:
        third.login(PASSWORD)
        third.send("\x03")
        third.until(">>> ")
        third.put("/data/x.new", content)
        third.send("import os, machine; os.rename('/data/x.new', '/data/x')\r")
        third.until(">>> ")
        third.send("len(open('/data/x', 'rb').read())\r")
        assert "5120" in third.until("\r\n>>> ")
        third.send("machine.reset()\r")
        up(board, 2)
    # A stopped app is no crash.
    assert board.wait(lambda _: made.get(f"/api/boards/dev-{chip}")["open"] == 0, 60)
    assert PASSWORD not in board.console
    board.stop()
    assert board.read("/data/x") == content
    log = board.read("/data/log")
    assert not log.strip(b"n= \n0123456789")


def test_what_is_typed_right_behind_the_password_counts(make: Make) -> None:
    """It may come together with the password, before the terminal is the client's."""
    board = make("ahead", dev=True)
    board.start()
    up(board)
    with Client(ADDRESS) as client:
        client.until("Password: ")
        client.send(PASSWORD + "\r", "\x03")
        client.until("\n>>> ")
        client.until(">>> ")  # the app is stopped
        client.send("6 * 7\r")
        assert "42" in client.until("\n>>> ")
        client.send("machine.reset()\r")


@pytest.mark.parametrize("chip", ["esp8266", "esp32"])
def test_a_board_proves_who_and_where_it_is(make: Make, chip: Chip) -> None:
    """By its device key, for this connection alone; so its password may go there unasked."""
    board = make(f"proof-{chip}", dev=True, chip=chip)
    who = board_file.parse(board.read("/trust/0/board"))
    board.start()
    up(board)
    record = enrol.Record(who)
    found = target.Target("proof", host=ADDRESS, number=webrepl.PORT, record=record)
    with session.opened(found) as repl:
        assert repl.evaluate("6 * 7") == 42
    up(board, 2)
    other = enrol.Record(replace(who, key=bytes(32)))
    with pytest.raises(webrepl.Unproved):
        replace(found, record=other).open()
    # What passes it on from another address gets nothing.
    elsewhere = loopback.address()
    with relay(elsewhere, ADDRESS) as heard, pytest.raises(webrepl.Unproved):
        replace(found, host=elsewhere).open()
    assert f"ota-proof: {ADDRESS} ".encode() in heard and b"Password: " in heard
    # The same for the same nonce, and another one for another.
    first, again, another = (proof(head) for head in (HEAD, HEAD, HEAD.replace(b"AAEC", b"BAEC")))
    assert first == again != another


def proof(head: bytes) -> bytes:
    """What a board answers to a request with this head."""
    with Client(ADDRESS, head) as client:
        client.until("Password: ")
        [line] = [line for line in client.answer.split(b"\r\n") if b"proof" in line]
        return line


@contextlib.contextmanager
def relay(here: str, there: str) -> Iterator[bytearray]:
    """Passes connections on to the board, and keeps what the board says."""
    heard = bytearray()
    with socket.create_server((here, webrepl.PORT)) as door:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = door.accept()[0]
                    with client, socket.create_connection((there, webrepl.PORT)) as board:
                        pass_on(client, board, heard)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield heard
        door.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def pass_on(client: socket.socket, board: socket.socket, heard: bytearray) -> None:
    """Bytes between two sockets, until one closes."""
    ways = {client: board, board: client}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select(list(ways), [], [])[0]:
                data = ready.recv(4096)
                if not data:
                    return
                if ready is board:
                    heard.extend(data)
                ways[ready].sendall(data)


# Writes and reads back a file without a pause, and says so when it is not what was written. An
# ESP32 listens to nobody while it does not sleep.
BUSY = """
import sys
import time
import ota
print("app runs")
n = 0
while True:
    ota.feed()
    n += 1
    text = "%d\\n" % n * 300
    with open("/data/log", "w") as f:
        f.write(text)
    with open("/data/log") as f:
        if f.read() != text:
            print("damaged at", n)
    if sys.platform == "esp32":
        time.sleep_ms(20)
"""


@pytest.mark.parametrize("chip", ["esp8266", "esp32"])
def test_files_and_an_app_that_writes_all_the_time(make: Make, chip: Chip) -> None:
    """A file asked for at many moments of the app's own flash operations damages none of them.

    An ESP8266 takes none then; an ESP32 does, between two operations.
    """
    board = make(f"busy-{chip}", dev=True, chip=chip, files={"main.py": BUSY})
    board.start()
    up(board)
    content = random.Random(5).randbytes(6000)
    for n in range(25):
        with Client(ADDRESS) as client:
            client.login(PASSWORD)
            time.sleep(n * 0.0017)
            if chip == "esp8266":
                client.ask(1, f"/data/{n}", len(content))
                client.send(content[:1024], kind=2)
                assert "stop the app first (Ctrl-C)" in client.rest()
            else:
                client.put(f"/data/{n}", content)
    assert board.console.count("app runs") == 1
    assert "damaged" not in board.console
    board.stop()
    if chip == "esp32":
        assert all(board.read(f"/data/{n}") == content for n in range(25))


# Two clients in the boot stage's WebREPL; the second takes over in the midst of what the
# firmware has the first do.
MIDST = """
import os
import sys
sys.path.insert(0, "/")
sys.modules["ota"] = type("ota", (), {"ticks": 0, "wdt": None, "poll_extra": {}})
from bootloader import webrepl_session as w

class Line:
    def __init__(self):
        self.closed = False
        self.meanwhile = None

    def come(self):
        then, self.meanwhile = self.meanwhile, None
        if then:
            then()
        if self.closed:
            raise OSError(9)

    def setblocking(self, on):
        pass

    settimeout = setblocking

    def setsockopt(self, *option):
        pass

    def close(self):
        self.closed = True

class WebSocket:
    def __init__(self, line):
        self.line = line

    def readinto(self, buf):
        self.line.come()
        return 1

    def write(self, buf):
        self.line.come()
        return len(buf)

    def ioctl(self, request, value):
        return 1

def client(name):
    line = Line()
    made = w.Session(line, name)
    made.ws = WebSocket(line)
    made.data = None  # the password was right
    made.repl = w._webrepl._webrepl(made)
    return made

byte = bytearray(1)
for call in (lambda c: c.readinto(byte), lambda c: c.write(b"x")):
    first, second = client("1.1.1.1"), client("2.2.2.2")
    assert first.readinto(byte) is None and w.active is first
    first.s.meanwhile = lambda: second.readinto(byte)
    call(first)
    first.readinto(byte), first.write(b"y")
    assert first.s.closed and not second.s.closed and w.active is second
    assert os.dupterm(None) is second.repl
    w.active = None
print("good")
"""


def test_who_is_closed_in_the_midst_of_a_call_does_nothing_more(tmp_path: Path) -> None:
    """Callbacks run at any point; what the first one raised would close the second (os.dupterm)."""
    parts = {
        f"/bootloader/{name}.mpy": fleet.mpy(f"bootloader/{name}.py", source.read_text())
        for name in ("webrepl_session", "hmac256")
        if (source := places.sources("bootloader") / f"{name}.py")
    }
    with Board(tmp_path / "board") as board:
        board.format({"/main.py": MIDST.encode(), "/bootloader/__init__.py": b"", **parts})
        console = board.life().console
    assert console == "good\n"


class Cut:
    """A socket that goes after so many more bytes, in the middle of a frame or command."""

    def __init__(self, real: socket.socket, left: int) -> None:
        self.real, self.left = real, left

    def sendall(self, data: bytes) -> None:
        sent, self.left = data[: max(0, self.left)], self.left - len(data)
        self.real.sendall(sent)
        if self.left < 0:
            self.real.close()
            raise OSError("cut")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_a_put_cut_at_any_byte_leaves_the_file_old_or_whole(make: Make) -> None:
    board = make("cut", dev=True)
    board.start()
    up(board)
    contents = [random.Random(n).randbytes(5000 + n) for n in range(13)]
    room = 1 << 30
    found = Known("cut", host=ADDRESS, number=webrepl.PORT)
    used, kept = put_until_cut(found, contents[0], room), contents[0]
    whole = 0
    for at, content in zip(random.Random(7).sample(range(used), 12), contents[1:], strict=True):
        put_until_cut(found, content, at)
        with session.opened(found) as repl:
            remote = Remote(repl)
            holds = remote.read(b"/data/kept", remote.size(b"/data/kept") or 0)
            repl.gone = True  # the app stays stopped
        assert holds in (kept, content), at
        whole += holds == content
        kept = holds
    put_until_cut(found, contents[-1], room)
    board.stop()
    assert board.read("/data/kept") == contents[-1]
    assert whole < 12


def put_until_cut(found: target.Target, content: bytes, left: int) -> int:
    """Put a file over a connection that lasts for so many bytes; how many it took."""
    repl = Repl(found.open(), "cut")
    stream: Any = repl.stream
    stream._socket = cut = Cut(stream._socket, left)
    with contextlib.suppress(Failure):
        repl.enter(soft_reset=False)
        Remote(repl).put(b"/data/kept", content)
        repl.leave()
    stream._socket.close()
    return left - cut.left


class Known(target.Target):
    """A board whose password is known."""

    def _password(self, doubt: str) -> str:
        return PASSWORD


def test_somebody_elses_client(make: Make, tmp_path: Path) -> None:
    """The PyPI package `webrepl` at the boot stage's door: login, version, files both ways."""
    board = make("theirs", dev=True)
    board.start()
    up(board)
    local = tmp_path / "local"
    local.write_bytes(random.Random(1).randbytes(3000))
    client = other.Webrepl(host=ADDRESS, port=8266, password="wrong")
    assert not client.connected
    client.disconnect()
    board.wait(lambda _: False, 1)  # the pause after it
    with Client(ADDRESS) as ours:
        ours.login(PASSWORD)
        ours.send("\x03")
        ours.until(">>> ")
    client = other.Webrepl(host=ADDRESS, port=8266, password=PASSWORD)
    try:
        assert client.connected
        assert (client.get_ver() or ()) >= (1, 22, 0)
        client.put_file(str(local), "/data/remote")
        assert client.get_file_content("/data/remote") == local.read_bytes()
    finally:
        client.disconnect()


def test_recovery_makes_room_for_a_release(make: Make, made: fleet.Fleet) -> None:
    """Beside an open WebREPL an ESP8266 has no room for an install: a round without it follows."""
    board = make("empty", dev=True, files=None)
    board.start()
    assert board.wait("recovery: again in", 60), board.console
    with Client(ADDRESS) as client:
        assert "WebREPL connected" in client.login(PASSWORD)
    release = fleet.release({**fleet.runtime(), "main.py": PLAIN}, 1001)
    # At once: the server has the boards of the other tests too, and one of those would be canary.
    digest = made.publish(release, waves=[100])
    try:
        up(board)
    finally:
        made.post(f"/api/releases/{digest}/withdraw")  # the boards of the other tests stay
    assert board.console.count("webrepl: open on port") == 2, board.console
    with Client(ADDRESS) as client:
        assert "WebREPL connected" in client.login(PASSWORD)


def test_a_production_board_is_closed(make: Make) -> None:
    board = make("closed")
    board.start()
    up(board)
    with pytest.raises(ConnectionRefusedError):
        Client(ADDRESS)
    assert "webrepl" not in board.console


def test_rude_clients_stop_nothing(make: Make) -> None:
    """Silent, cut at any byte of the handshake, many at once: the app goes on, the door too."""
    board = make("rude", dev=True)
    board.start()
    up(board)
    for size in range(0, len(HEAD), 7):
        Client(ADDRESS, HEAD[:size]).close()
    assert Client(ADDRESS, b"\0" * 3000).rest() == ""
    crowd = [Client(ADDRESS, b"GET") for _ in range(12)]
    with Client(ADDRESS, b"") as silent:
        assert silent.rest() == ""  # hung up on
    for one in crowd:
        one.close()
    # A minute of the board's time at the prompt without a password.
    with Client(ADDRESS) as dumb:
        dumb.until("Password: ")
        assert dumb.rest() == ""
    with Client(ADDRESS) as good:
        assert "WebREPL connected" in good.login(PASSWORD)
        good.send("\x03")
        good.until(">>> ")
        good.send("import ota; print(ota.ticks > 100)\r")
        good.until("True")
    assert board.console.count("app runs") == 1


def test_guessing_is_slowed_and_told(make: Make, made: fleet.Fleet) -> None:
    board = make("guess", dev=True, speed=40)
    board.start()
    up(board)
    tried = waited = 0
    while tried < 10:
        with Client(ADDRESS) as client:
            _, said = client.frame()
            if said == b"Password: ":
                client.send(f"guess-{tried}\r")
                tried += "Access denied" in client.rest()
                continue
            # Nothing at all where this clock was too fast for us.
            waited += b"wrong passwords, wait " in said
            time.sleep(0.1)
    assert waited > 10
    facts: dict[str, Any] = {}

    def told(_: VirtualBoard) -> bool:
        facts.update(made.get("/api/boards/guess"))
        return facts["wrong"] == 10

    assert board.wait(told, 60), facts
    events = str(made.get("/api/boards/guess/events"))
    assert "'wrong-password'" in events
    assert "guess-" not in board.console + events and PASSWORD not in str(facts) + events


# --- orders


class Orders:
    """A production board, and the server between it and who wants in."""

    def __init__(self, made: fleet.Fleet, board: VirtualBoard, name: str) -> None:
        self.made, self.board, self.name = made, board, name

    def facts(self) -> dict[str, Any]:
        return self.made.get(f"/api/boards/{self.name}")

    def life(self) -> str:
        """What the board calls its life, once it has said so in this one."""
        before = self.facts()["life"]
        assert self.board.wait(lambda _: self.facts()["life"] not in ("", before), 60)
        return self.facts()["life"]

    def signed(self, life: str, minutes: int = 30, *, by: str = "debug", board: str = "") -> str:
        found = unlock.Unlock(board or self.name, life, minutes)
        return found.sign(fleet.key(by)).decode()

    def slip(self, order: str) -> None:
        """What a stolen server does: no check, straight into the queue."""
        server = self.made.server
        give = server.storage.amend(self.name, lambda known: policy.give(known, order), time.time())
        server.do(give)


def test_orders(make: Make, made: fleet.Fleet) -> None:
    """A debug key opens this board in this life; nothing else opens anything."""
    board = make("shop")
    orders = Orders(made, board, "shop")
    board.start()
    up(board)
    life = orders.life()
    good = orders.signed(life)
    refused = {
        "release key": orders.signed(life, by="release"),
        "strange key": orders.signed(life, by="mydev"),
        "other board": orders.signed(life, board="other"),
        "altered": good.replace("minutes 30", "minutes 70"),
        "other life": orders.signed("0123456789abcdef"),
        "unsigned": good[: good.index("sig ")],
    }
    for why, order in refused.items():
        with pytest.raises(AssertionError, match='"error"'):
            made.post("/api/boards/shop/orders", json={"order": order})
        assert why
    made.post("/api/boards/shop/orders", json={"order": good})
    assert board.wait("webrepl: opened for 30 minutes", 60), board.console
    assert board.wait("webrepl: open on port", 60), board.console
    with Client(ADDRESS) as client:
        assert "WebREPL connected" in client.login(PASSWORD)
    assert board.wait(lambda _: orders.facts()["open"], 60)
    assert 0 < orders.facts()["open"] <= 1800
    # A reset keeps it open, but for whole tens of minutes only.
    with Client(ADDRESS) as client:
        client.login(PASSWORD)
        client.send("\x03")
        client.until(">>> ")
        client.send("import machine; machine.reset()\r")
    assert board.wait(lambda b: b.console.count("webrepl: open on port") == 2, 60), board.console
    assert board.wait(lambda _: (orders.facts()["open"] or 9999) <= 1200, 60)
    board.power_cut()
    up(board, board.console.count("app runs") + 1)
    with pytest.raises(ConnectionRefusedError):
        Client(ADDRESS)


# Judges the orders in /data/N by the boot stage's own code.
JUDGE = """
import os
import time
import ota
n = 0
while str(n) in os.listdir("/data"):
    with open("/data/%d" % n) as f, open("/state/order", "w") as g:
        g.write(f.read())
    try:
        print("judged", n, ota.stage("unlock").verify_order("vault"))
    except Exception as e:
        print("judged", n, repr(e))
    n += 1
print("judged all")
while True:
    time.sleep(1)
"""


def test_judging(make: Make, made: fleet.Fleet) -> None:
    board = make("vault", files={"main.py": JUDGE})
    orders = Orders(made, board, "vault")
    life = "0123456789abcdef"
    good = orders.signed(life)
    end = good.index("sig ")
    cases = {
        good: "3",
        orders.signed(life, 10): "1",
        orders.signed(life, 70): "7",
        orders.signed(life, by="release"): "key",
        orders.signed(life, by="root"): "key",
        orders.signed(life, by="mydev"): "key",
        orders.signed(life, board="other"): "syntax",
        good.replace("minutes 30", "minutes 70"): "key",
        good.replace("board vault", "board  vault"): "key",
        good.replace(life, life[::-1]): "key",
        good.replace("end\n", "end\nend\n"): "syntax",
        good[:end]: "unsigned",
        good + good[end:]: "syntax",
        good + f"life {life}\n": "syntax",
        good[:-1]: "syntax",
        good.replace("sig ", "sig x"): "syntax",
        good[: end // 2]: "syntax",
        "": "syntax",
    }
    # What a debug key signs, but no order is, and an order behind another file's prefix.
    for body in (b"minutes 80", b"minutes 0", b"minutes 15", b"minutes -10", b"minutes 030"):
        cases[resigned(good.encode().replace(b"minutes 30", body))] = "Error|size|syntax"
    cases[resigned(good.encode(), b"ota-trust-v1\0")] = "key"
    for n, order in enumerate(cases):
        board.write(f"/data/{n}", order.encode())
    board.start()
    assert board.wait("judged all", 60), board.console
    for n, (order, wanted) in enumerate(cases.items()):
        found = re.search(rf"^judged {n} (.*?)\r?$", board.console, re.M)
        assert found and re.search(wanted, found[1]), (order, wanted, found)
        assert ("Rejected" in found[1] or "Error" in found[1]) == (not wanted.isdigit())


def resigned(raw: bytes, prefix: bytes = unlock.PREFIX) -> str:
    """Its signature replaced by one of the debug key's."""
    body = raw[: raw.index(b"sig ")]
    return envelope.add_signature(body, prefix, fleet.key("debug"), 2000, 1).decode()


def test_a_stolen_server_opens_nothing(make: Make, made: fleet.Fleet) -> None:
    """Past the server's own checks the board judges for itself."""
    board = make("shed")
    orders = Orders(made, board, "shed")
    board.start()
    up(board)
    life = orders.life()
    old = orders.signed(life)
    orders.slip(orders.signed(life, by="release"))
    up(board, 2)
    assert board.console.count("webrepl: order rejected: Rejected('key',)") == 1, board.console
    orders.life()
    # One that was good for an earlier life does not even cost a reset.
    orders.slip(old)
    assert board.wait(lambda _: not orders.facts()["orders"], 60)
    assert board.console.count("app runs") == 2
    assert "webrepl: open" not in board.console
    with pytest.raises(ConnectionRefusedError):
        Client(ADDRESS)


def test_it_closes_when_the_time_is_over(make: Make, made: fleet.Fleet) -> None:
    board = make("clock")
    orders = Orders(made, board, "clock")
    board.start()
    up(board)
    server = client.Client(made.server.url, made.server.token)
    orders.life()
    until = verb.request(server, "clock", fleet.key("debug"), minutes=3, timeout=1)
    assert until is not None
    with Client(ADDRESS) as one:
        one.login(PASSWORD)
        one.send("\x03")
        one.until(">>> ")
        one.send("import ota; ota.ticks += 1150\r")
        one.rest()
    up(board, board.console.count("app runs") + 1)
    with pytest.raises(ConnectionRefusedError):
        Client(ADDRESS)
    assert board.wait(lambda _: orders.facts()["open"] is None, 60)
