"""Little apps, most of them bad ones, and a board whose life with them can be told as a story.

Each app prints `begin <seq>` when it starts. The traceback of one that raises must name the line
that says `# here`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mipy_ota.signing import board_file, bundle
from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet

BEGIN = "import gc, machine, os, ota, sys, time\nprint('begin', ota.seq)\n"
LOOP = "while True:\n    ota.check()\n    time.sleep(1)\n"
GOOD = BEGIN + LOOP
# The boot stage's minutes pass a hundred times faster for it.
HASTY = BEGIN + LOOP.replace("ota.check", "ota.ticks += 200\n    ota.check")
# The first release of a story about full flash tidies up.
TIDY = BEGIN + "if 'junk' in os.listdir('/data'):\n    os.remove('/data/junk')\n" + LOOP

_FILL = """\
f = open('/data/junk', 'wb')
try:
    while True:
        f.write(bytes(4096))  # here
        f.flush()
finally:
    f.close()
"""
_DELETE = """\
os.chdir('/app_slots/' + ota.slot)
for name in os.listdir():
    os.remove(name)
"""


# RTC memory: where a life says how it ended, and what the next one is asked to do.
END, RUNNING = 0, 1
CRASHES = 1
WANT, INSTALL = 2, 1
FAILS = 3


@dataclass(frozen=True)
class Bad:
    """A bad app: what it does, and what the server shall learn of it.

    `reason` is for one on trial, `later` for one that was confirmed and turned bad; `text` is in
    the report.
    """

    source: str
    reason: str
    later: str = "crashes"
    text: str = ""
    soft: bool = False
    tries: int = 3


BAD = {
    "import": Bad("import no_such_module  # here\n", "exception", text="ImportError"),
    "raises": Bad(
        "time.sleep(5)\nraise ValueError('dust')  # here\n", "exception", text="ValueError: dust"
    ),
    "hangs": Bad("ota.watch()\nwhile True:\n    pass\n", "watchdog"),
    "memory": Bad(
        "much = []\nwhile True:\n    much.append(bytearray(256))  # here\n",
        "exception",
        text="MemoryError",
    ),
    "resets": Bad("time.sleep(1)\nmachine.reset()\n", "watchdog"),
    "deletes": Bad(_DELETE + "machine.reset()\n", "verify", "verify", tries=1),
    "fills": Bad(_FILL, "exception", text="OSError"),
    "exits": Bad("sys.exit()  # here\n", "exception", text="SystemExit"),
    "vetoes": Bad("ota.veto('no sensor')\n", "veto", text="no sensor", tries=1),
}

OWN = {"speed": 20, "clock": "own"}
"""Options of a board: computing takes twenty times as long as here."""
HOURS = 6 * 3600.0
"""Of board time: what has not come by then never comes."""
STEP = 5.0
"""Seconds of board time between two looks at the server."""
SELDOM = 20
"""Looks of which one asks the server although it has not answered the board since the last."""


def _job(source: str) -> str:
    """A job that does so two seconds after the start."""
    return f"def bad():\n{textwrap.indent(source, '    ')}app.after(2000, bad)\n"


# The same for apps on the runtime: what `setup` does. A job that raises ends nothing but itself;
# where it leaves no heap, the loop raises, or else nothing is asked and the trial's time runs out.
FILLS = _job(_FILL)
BAD_ON_RUNTIME = {
    # The build refuses an import that it can see.
    "import": Bad("__import__('no_such' + '_module')\n", "exception", text="ImportError"),
    "raises": Bad("time.sleep(2)\nraise ValueError('dust')\n", "exception", text="dust"),
    "hangs": Bad(_job("while True:\n    pass\n"), "watchdog"),
    "memory": Bad(
        "app.much = ()\n" + _job("while True:\n    app.much = app.much, bytearray(64)\n"),
        "exception",
    ),
    "resets": Bad(_job("machine.reset()\n"), "watchdog"),
    "deletes": Bad(
        _job("os.remove('/app_slots/' + ota.slot + '/config.py')\nmachine.reset()\n"),
        "verify",
        tries=1,
    ),
    "exits": Bad("sys.exit()\n", "exception", text="SystemExit"),
    # At once: a sleep after the server's answer proves the release good.
    "sleeps": Bad("app.once(lambda: machine.deepsleep(20000))\n", "sleep", soft=True),
}


def turning(source: str) -> str:
    """An app that is good until there is a file /data/turn."""
    indented = "".join(f"    {line}\n" for line in source.splitlines())
    return BEGIN + f"if 'turn' in os.listdir('/data'):\n{indented}" + LOOP


def with_runtime(setup: str) -> Mapping[str, bytes]:
    """The slot of an app on the runtime; `setup` is the body of its setup(app)."""
    return beside_the_runtime(
        f"{BEGIN}import runtime\ndef setup(app):\n{textwrap.indent(setup, '    ')}"
        "runtime.run(setup)\n"
    )


@cache
def beside_the_runtime(main: str) -> Mapping[str, bytes]:
    """The slot of an app that brings the runtime, whether `main` runs it or not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.toml").write_text(f'name = "{fleet.APP}"\nclasses = ["{fleet.CLASS}"]\n')
        (folder / "config.py").write_bytes((places.sources("app_slots") / "config.py").read_bytes())
        (folder / "main.py").write_text(main)
        return bundle.read(build.make(folder, fleet.CLASS, 1))[1]


def line_of(source: str) -> str:
    """How a traceback names the marked line; "" when none is."""
    for number, line in enumerate(source.splitlines(), 1):
        if line.endswith("# here"):
            return f'File "main", line {number}'
    return ""


class Story:
    """A board, its server, and what the server knows of the board.

    The releases get the seq 1001, 1002 ...; the board starts with `first`, seq 1000.
    """

    def __init__(
        self, server: Running, board: VirtualBoard, known: fleet.Fleet, who: board_file.Board
    ) -> None:
        self.server = server
        self.board = board
        self.fleet = known
        self.who = who
        self._seq = itertools.count(1001)

    def publish(self, files: str | Mapping[str, str | bytes]) -> str:
        """Publish the next release; returns the digest as boards report it."""
        made = release(files, next(self._seq), self.who.cls)
        return self.fleet.publish(made)[:32]

    def record(self) -> Any:
        """What the server knows of the board."""
        return self.fleet.get("/api/boards/b1")

    def until(self, holds: Callable[[Any], bool], timeout: float = HOURS) -> Any:
        """The server's record as soon as `holds` is true of it; `timeout` in board time."""
        record: Any = None
        answered: int | None = None
        turns = itertools.count()

        def told(_: VirtualBoard) -> bool:
            nonlocal record, answered
            # What the server knows of a board changes as it answers it, with few exceptions. Behind
            # a proxy it does not see the board's address.
            now = self.server.down.get(self.board.address)
            if next(turns) % SELDOM == 0 or now is None or now != answered:
                answered, record = now, self.record()
            return holds(record)

        came = self.board.wait(told, timeout, STEP)
        assert came, f"{record}\n{self.board.console[-6000:]}"
        return record

    def confirmed(self, digest: str) -> Any:
        """Wait until the board runs this release for good."""
        return self.until(lambda r: r["state"] == "ok" and r["digest"] == digest)

    def rejected(self, digest: str) -> Any:
        """Wait until the board, on another release, has told why it left this one."""

        def holds(record: Any) -> bool:
            told = any(bad["digest"] == digest for bad in record["rejected"])
            return told and record["state"] == "ok" and record["digest"] != digest

        record = self.until(holds)
        return next(bad for bad in record["rejected"] if bad["digest"] == digest)

    def polls(self, count: int) -> None:
        """Let the board poll so many times more."""
        for _ in range(count):
            last = self.record()["last_seen"]
            self.until(lambda r, last=last: r["last_seen"] != last)

    def says(self, text: str, timeout: float = HOURS) -> None:
        """Wait until the console says `text`."""
        assert self.board.wait(text, timeout), f"no {text!r}: {self.board.console[-6000:]}"

    def boot(self, seq: int) -> None:
        """Let the board, which is off, live until the release has begun; it is off again then."""
        for _ in range(5):
            life = self.board.life(until=f"begin {seq}\n", timeout=HOURS)
            if f"begin {seq}\n" in life.console:
                return
        raise AssertionError(self.board.console[-6000:])

    def remember(self, index: int, value: int) -> None:
        """Set a byte in RTC memory as the boot stage keeps it (bootloader/rtc.py)."""
        life = bytearray(self.board.rtc[:8].ljust(8, b"\0"))
        life[index] = value
        self.board.rtc = bytes(life) + bytes(255 - byte for byte in life)

    def install(self) -> str:
        """One life of the board, which is off: it is asked to install. Returns its console."""
        self.remember(WANT, INSTALL)
        life = self.board.life(timeout=HOURS)
        assert life.cause == "reset" and "/install" in life.console, life
        return life.console

    def tries(self) -> list[int]:
        """Let the board, which is off, live until the old release runs; what has begun, by seq."""
        begun: list[int] = []
        for _ in range(12):
            life = self.board.life(until="begin 1000\n", timeout=HOURS)
            begun += [int(seq) for seq in re.findall(r"begin (\d+)\n", life.console)]
            if 1000 in begun:
                return begun
        raise AssertionError(self.board.console[-6000:])

    def begun(self, seq: int) -> int:
        """How often the release has been started."""
        return self.board.console.count(f"begin {seq}\n")

    def turn(self) -> None:
        """Switch the app that `turning` made to its bad side; costs a power cycle."""
        self.board.stop()
        self.board.write("/data/turn", b"")
        self.board.start()


def release(files: str | Mapping[str, str | bytes], seq: int, cls: str = fleet.CLASS) -> bytes:
    """A signed bundle of the `files`, or of a main.py with that text."""
    return fleet.release({"main.py": files} if isinstance(files, str) else files, seq, cls=cls)


@contextlib.contextmanager
def story(
    folder: Path,
    first: str | Mapping[str, str | bytes] = GOOD,
    *,
    through: Callable[[str], str] = lambda url: url,
    interval: float = 5,
    cls: str = fleet.CLASS,
    dev: str = "",
    **options: Any,
) -> Iterator[Story]:
    """A server, and a board that is off.

    Args:
        through: turns the server's address into the one in the board file.
        interval: seconds between polls.
        dev: name of the dev key in the board file.
        options: of the board.
    """
    with running(folder / "server", interval=interval) as server:
        known = fleet.Fleet(server)
        who = fleet.identity("b1", (through(server.url),), dev)
        who = dataclasses.replace(who, cls=cls)
        known.enrol(who)
        options = {**OWN, **options}
        with fleet.prepared(folder / "board", who, release(first, 1000, cls), **options) as board:
            yield Story(server, board, known, who)


@cache
def noise(size: int) -> bytes:
    """Bytes that do not deflate."""
    return random.Random(size).randbytes(size)
