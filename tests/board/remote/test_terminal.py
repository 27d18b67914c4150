"""A board's console from this computer, over the air: terminal, files, bridge, who is let in."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from mipy_ota.tools.board import fs, session, target, terminal, webrepl
from mipy_ota.tools.board.remote import Remote
from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import bridged, fleet, loopback
from tests.support.boards import Board

PASSWORD = "hush-9"
WIFI = {"home": "secret-word"}
MAIN = f"""\
import network, time, webrepl
sta = network.WLAN(0)
sta.active(True)
sta.connect("home", "secret-word")
while not sta.isconnected():
    time.sleep_ms(50)
webrepl.start(password="{PASSWORD}")
n = 0
while True:
    time.sleep_ms(200)
    print("tick", n)
    n += 1
"""
BIG = secrets.token_bytes(200_000)


class Known(target.Target):
    """A board whose password is known."""

    def _password(self, doubt: str) -> str:
        return PASSWORD


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualBoard]:
    """An ESP32 that prints, with WebREPL open."""
    with Board(tmp_path_factory.mktemp("board"), "esp32") as made:
        made.format({"/main.py": MAIN.encode(), "/data/.keep": b""})
        made.radio(networks=WIFI)
        made.start()
        assert made.wait("tick 1"), made.console
        yield made


@pytest.fixture
def found(board: VirtualBoard) -> target.Target:
    """How it is reached; its program runs."""
    at = len(board.console)
    assert board.wait(lambda one: "tick" in one.console[at:]), board.console
    return Known("kitchen", host=board.address, number=webrepl.PORT)


# --- terminal


class Desk:
    """Somebody at a terminal with `mipy repl`."""

    def __init__(self, found: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown = b""
        monkeypatch.setattr(terminal, "_show", self._show)
        self._hand, self._tty = os.openpty()
        self._before = termios.tcgetattr(self._tty)
        self._keys = terminal.Keys(self._tty)
        self._thread = threading.Thread(target=self._run, args=(found,))
        self._thread.start()

    def _show(self, said: bytes) -> None:
        self.shown += said

    def _run(self, found: target.Target) -> None:
        terminal.Terminal(found, found.open(), self._keys).run()

    def type(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self._hand, keys) :]

    def sees(self, text: bytes, seconds: float = 60) -> bool:
        """Wait until it is on the screen, then forget the screen."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        self.shown = self.shown.partition(text)[2]
        return True

    def leave(self) -> bool:
        """Press Ctrl-]; whether the terminal is as it was."""
        self.type(b"\x1d")
        self._thread.join(30)
        self._keys.restore()
        same = termios.tcgetattr(self._tty) == self._before
        os.close(self._hand)
        os.close(self._tty)
        return same and not self._thread.is_alive()


def test_a_terminal(found: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's output, Ctrl-C, a line, completion, a long line, a 20 KB paste, a reset."""
    desk = Desk(found, monkeypatch)
    assert desk.sees(b"tick")
    desk.type(b"\x03")
    assert desk.sees(b">>> ")
    desk.type(b"6 * 7\r")
    assert desk.sees(b"\r\n42\r\n>>> "), desk.shown
    desk.type(b"import sys\r")
    assert desk.sees(b">>> ")
    desk.type(b"sys.platfo\t\r")
    assert desk.sees(b"'esp32'\r\n>>> "), desk.shown
    desk.type(b"len('" + b"x" * 900 + b"')\r")
    assert desk.sees(b"\r\n900\r\n>>> "), desk.shown
    lines = [f"part{n} = '{secrets.token_hex(40)}'" for n in range(200)]
    script = "def both(a, b):\n    if a:\n        return a + b\n\n" + "\n".join(lines)
    total = f"\nprint('sum', sum(len(x) for x in ({', '.join(f'part{n}' for n in range(200))})))\n"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    asked = (
        "import hashlib, binascii\n"
        "every = '\\n'.join(\"part%d = '%s'\" % (n, globals()['part%d' % n]) for n in range(200))\n"
        "print('digest', binascii.hexlify(hashlib.sha256(every).digest()).decode())\n"
    )
    pasted = (script + total + asked).encode()
    assert len(pasted) > 20_000
    desk.type(b"\x1b[200~" + pasted.replace(b"\n", b"\r") + b"\x1b[201~")
    assert desk.sees(b"sum 16000\r\n"), desk.shown
    assert desk.sees(f"digest {digest}\r\n>>> ".encode()), desk.shown
    desk.type(b"both('one', 'two')\r")
    assert desk.sees(b"'onetwo'"), desk.shown
    desk.type(b"import machine; machine.reset()\r")
    assert desk.sees(b"connected again"), desk.shown
    assert desk.sees(b"tick")
    assert desk.leave()


# --- files


def test_a_large_file_there_and_back(found: target.Target, tmp_path: Path) -> None:
    with session.opened(found) as repl:
        remote = Remote(repl)
        told: list[int] = []
        remote.put(b"/data/deep/big.bin", BIG, told.append)
        assert told[-1] == len(BIG) and len(told) > 100
        assert remote.digest(b"/data/deep/big.bin", len(BIG)) == hashlib.sha256(BIG).hexdigest()
        assert remote.read(b"/data/deep/big.bin", len(BIG)) == BIG


@pytest.mark.parametrize("at", (512, 19_968))
def test_a_put_cut_short_leaves_the_old_file(found: target.Target, at: int) -> None:
    with session.opened(found) as repl:
        Remote(repl).put(b"/data/kept", b"old" * 100)
    found.reopen().close()

    def cut(sent: int) -> None:
        if sent == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), session.opened(found) as repl:
        try:
            Remote(repl).put(b"/data/kept", BIG[:20_000], cut)
        finally:
            repl.stream._socket.close()  # pyright: ignore[reportAttributeAccessIssue]
            repl.gone = True
    with session.opened(found, restart=True) as repl:
        assert Remote(repl).read(b"/data/kept", 300) == b"old" * 100


def test_slots_and_boot_stage_are_no_place_for_files() -> None:
    for path in (":/app_slots/a/main.mpy", ":/app_slots", ":/x/../app_slots/b/x"):
        with pytest.raises(Failure, match="signed releases") as refused:
            fs.writable(fs.path_of(path))
        assert "mipy push" in refused.value.hint
    for path in (":/boot.py", ":/state/0/r", ":/trust", ":../bootloader/resident.mpy"):
        with pytest.raises(Failure, match="boot stage"):
            fs.writable(fs.path_of(path))
    assert fs.writable(fs.path_of(":notes/a.txt")) == b"/data/notes/a.txt"


# --- who is let in, and what is said to the others


def test_somebody_else_is_there(found: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    first = found.open()
    monkeypatch.setattr(webrepl, "LOGIN_SECONDS", 2.0)
    with pytest.raises(webrepl.Busy, match="somebody else is connected"):
        found.open()
    first.close()


def test_a_wrong_password(found: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "_password", lambda *_: "guess")
    with pytest.raises(webrepl.Refused, match="does not take this password"):
        found.reopen()


@contextmanager
def peer(answer: bytes) -> Iterator[tuple[int, bytearray]]:
    """Something that answers so, whatever it is told; its port, and what it was told."""
    told = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            connection, _ = door.accept()
            with connection:
                while b"\r\n\r\n" not in told:
                    told.extend(connection.recv(1024) or b"\r\n\r\n")
                connection.sendall(answer)
                while more := connection.recv(1024):
                    told.extend(more)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield door.getsockname()[1], told
    thread.join(10)


@pytest.mark.parametrize(
    ids=("silent", "http", "ssh", "noise"),
    argnames="answer",
    argvalues=(
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"SSH-2.0-x\r\n",
        b"\0" * 99,
    ),
)
def test_what_is_no_webrepl(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends in words, soon, and is told no password."""
    monkeypatch.setattr(webrepl, "CONNECT_SECONDS", 1.0)
    with peer(answer) as (port, told):
        with pytest.raises(webrepl.Unreachable):
            Known("it", host="127.0.0.1", number=port).open()
        assert PASSWORD.encode() not in told


def test_nobody_is_there() -> None:
    with pytest.raises(webrepl.Closed, match="closed"):
        Known("it", host=loopback.address(), number=webrepl.PORT).open()


def test_a_connection_that_is_reset_at_once_is_a_closed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As what passes connections on does, while the board is starting: it is tried again."""
    reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    monkeypatch.setattr(socket, "create_connection", Mock(side_effect=reset))
    with pytest.raises(webrepl.Closed):
        webrepl.WebRepl("127.0.0.1", lambda _: "", "kitchen")


def test_the_password_is_nowhere_to_be_seen(
    found: target.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not among the arguments of the process, not in what it prints, not in the board's console."""
    from mipy_ota.tools.fleet import enrol

    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    made = replace(fleet.identity("b1"), cls="esp32-generic", name="kitchen")
    enrol.keep(enrol.Record(enrol.renewed(enrol.Record(made), webrepl=PASSWORD).board))
    script = (
        "import sys\nfrom mipy_ota.tools import cli\nfrom mipy_ota.tools.board import target\n"
        f"target._where = lambda *_: {found.host!r}\n"
        "target.Target._ask_first = lambda *_: None\n"  # stock WebREPL proves nothing
        "sys.exit(cli.main())\n"
    )
    command = [
        sys.executable,
        "-c",
        script,
        "exec",
        "kitchen",
        "import time; print('here'); time.sleep(2); print(7)",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        printed = process.stdout.readline()  # that the app is stopped: it is logged in
        proc = Path("/proc", str(process.pid))
        seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        printed += process.communicate(timeout=60)[0]
    assert process.returncode == 0 and printed.endswith(b"here\n7\n"), printed
    assert b"kitchen" in seen and PASSWORD.encode() not in seen + printed


# --- other people's tools


def test_mpremote_over_the_air(found: target.Target, tmp_path: Path) -> None:
    bridged.prove(found, tmp_path)


def test_a_closed_board_is_offered_to_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a debug key is at hand, and only if somebody says yes."""
    from mipy_ota.tools.board import unlock
    from mipy_ota.tools.fleet import enrol
    from mipy_ota.tools.keys import changes

    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    closed = webrepl.Closed("kitchen is closed")
    board = Known("kitchen", record=enrol.Record(fleet.identity("b1")))
    with pytest.raises(webrepl.Closed):
        terminal._opened(board, closed)  # no key
    changes.make_fleet()
    asked: list[str] = []
    given: list[object] = []
    monkeypatch.setattr(
        "mipy_ota.tools.console.confirm", lambda text: bool(asked.append(text)) or len(asked) > 1
    )
    monkeypatch.setattr(unlock, "request", lambda *words: given.append(words) or 60.0)
    monkeypatch.setattr("mipy_ota.tools.fleet.client.connect", lambda: "server")
    with pytest.raises(webrepl.Closed):
        terminal._opened(board, closed)
    assert not given
    assert terminal._opened(board, closed) == 60.0
    assert "30 minutes" in asked[0] and len(given) == 1


def test_how_long_an_opened_board_stays_so_is_the_servers_to_tell() -> None:
    """For the countdown of whoever comes later; and such a board is waited for while it starts."""
    told = {"id": "b1", "open": 600, "last_seen": 1000.0}
    opened = target.Target("kitchen", told=told)
    assert terminal._open_until(opened) == 1600.0 and opened._opens()
    for_ever = target.Target("kitchen", told=told | {"open": 0})
    assert terminal._open_until(for_ever) is None and for_ever._opens()
    closed = target.Target("kitchen", told=told | {"open": None})
    assert terminal._open_until(closed) is None and not closed._opens()
