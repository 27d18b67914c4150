"""What the device parts cost: bytes of bytecode, heap, flash writes, bytes on the wire.

Every figure is measured on a virtual board with 32-bit words and held against a ceiling. Where it
is more than the budget, which the table has beside it, the ceiling is today's figure. The whole
table is printed at the end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.app.compile import boot_stage
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet, loopback, powercut
from tests.support.boards import Board

SPEED = 20
ESP8266 = 38_912  # bytes of heap
KB = 1024
BOARD = loopback.address()

# Prints the name of every module as it is loaded.
SPY = b"""
import builtins
import sys

def _spy(real, seen):
    def spy(*args):
        if "main" in sys.modules:  # the app's: its relative imports do not bear a spy
            builtins.__import__ = real
        module = real(*args)
        for name in list(sys.modules):
            if name not in seen:
                seen.add(name)
                print("loaded", name)
        return module
    return spy

builtins.__import__ = _spy(builtins.__import__, set(sys.modules))
"""
FREE = "import gc\ngc.collect()\nprint('free', gc.mem_free())\n"
# In the demo's heartbeat: what of the app is loaded.
TELL = "print('\\n'.join(['loaded ' + name for name in __import__('sys').modules]))"
PLAIN = """
import time
import ota
print("app runs")
while True:
    ota.check()
    time.sleep(1)
"""
# A plain app that brings the runtime's installer has to bring up the Wi-Fi as well.
OWN = PLAIN.replace("while", "ota.stage('wifi').connect()\nwhile")


class Figures:
    """The table."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []

    def check(self, what: str, got: int, budget: int, today: int | None = None) -> None:
        """Note a figure and hold it against its budget, or `today`'s figure where that is more."""
        self.rows.append((what, got, budget))
        ceiling = budget if today is None else today
        assert got <= ceiling, f"{what}: {got}, at most {ceiling}"


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    table = Figures()
    yield table
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():  # pyright: ignore[reportAttributeAccessIssue]
        print(f"\n{'what':58}{'measured':>10}{'budget':>10}")
        for what, got, budget in table.rows:
            print(f"{what:58}{got:>10,}{budget:>10,}{'' if got <= budget else '  over'}")


class Field:
    """A server that lets boards poll once a minute, and boards that are provisioned for it."""

    def __init__(self, server: Running, folder: Path) -> None:
        self.server, self.fleet, self._folder = server, fleet.Fleet(server), folder
        self._boards: list[VirtualBoard] = []

    def board(
        self, files: dict[str, str | bytes], *, spy: bool = False, seq: int = 1000, **options: Any
    ) -> VirtualBoard:
        """A board that has booted once, which takes in its Wi-Fi, and is switched off."""
        name = f"b{len(self._boards)}"
        release = fleet.release(files, seq)
        options = {"speed": SPEED, "address": BOARD, **options}
        board = self.fleet.board(self._folder / name, release, name, **options)
        self._boards.append(board)
        while (life := board.life(until="free")).cause == "reset":
            pass
        assert "free" in life.console, board.console
        if spy:
            board.write("/boot.py", SPY + board.read("/boot.py"))
        return board

    def ask(self, board: VirtualBoard) -> None:
        """Let the board live until it has learned of an offer: its next life installs."""
        for _ in range(4):
            if board.life(timeout=30).cause == "reset" and board.rtc[2] == 1:  # WANT is INSTALL
                return
        raise AssertionError(board.console)

    def says(self, board: VirtualBoard, **facts: object) -> bool:
        """Whether the server has these facts about the board."""
        name = f"b{self._boards.index(board)}"
        return facts.items() <= self.fleet.get(f"/api/boards/{name}").items()

    def close(self) -> None:
        for board in self._boards:
            board.close()


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    with running(tmp_path / "server", interval=60) as server:
        made = Field(server, tmp_path)
        yield made
        made.close()


# --- bytecode


def sizes(package: str) -> dict[str, int]:
    """Bytes of .mpy by module name, of the boot stage or of the runtime."""
    found = {path[1:]: data for path, data in boot_stage.files().items()}
    found |= fleet.compiled(demo())
    return {
        name.removesuffix(".mpy").replace("/", ".").removesuffix(".__init__"): len(data)
        for name, data in found.items()
        if name.startswith(package + "/") and name.endswith(".mpy")
    }


def demo(first: str = FREE) -> dict[str, str | bytes]:
    """The app of app_slots/ as a release holds it, with some lines before its first."""
    root = places.sources("app_slots")
    names = ["main.py", "config.py", "drivers/led.py"]
    found = {name: (root / name).read_text() for name in names}
    # The app proper is loaded behind the first line, which shall find nothing of it.
    blink = "led.blink()\n"
    told = found["main.py"].replace(blink, blink + " " * 8 + TELL + "\n")
    return {**fleet.runtime(), **found, "main.py": first + "import app", "app.py": told}


def plain(first: str = FREE) -> dict[str, str | bytes]:
    """A blocking app of its own."""
    return {"main.py": first + "import app", "app.py": PLAIN}


def loaded(console: str, package: str) -> set[str]:
    """Modules of a package that were loaded, as the console tells."""
    return set(re.findall(r"^loaded (\S+)\r?$", console, re.M)) & set(sizes(package))


def test_bytecode(field: Field, figures: Figures) -> None:
    """By the modules that a boot really loads, which its own sys.modules tells."""
    stage, runtime = sizes("bootloader"), sizes("runtime")

    def taken(names: set[str]) -> int:
        return sum(stage[name] for name in names)

    life = field.board(demo(), spy=True).life(until="alive", timeout=30)
    normal = loaded(life.console[: life.console.index("free")], "bootloader")
    figures.check("boot stage, normal path, .mpy", taken(normal), 8 * KB, today=9_200)
    core = sum(runtime[name] for name in loaded(life.console, "runtime"))
    figures.check("runtime while the demo runs, .mpy", core, 9 * KB)

    board = field.board(plain(), spy=True, heap=64 * KB)
    prepare = board.life(timeout=30)  # the life that polls, before the app's
    assert prepare.cause == "reset"
    every = loaded(prepare.console, "bootloader")
    figures.check("boot stage, with the poll for a plain app, .mpy", taken(every), 18 * KB, 19_500)
    field.fleet.publish(fleet.release(plain() | {"more.py": "a = 1"}, 1001))
    field.ask(board)
    life = board.life(timeout=30)
    assert "file 1" in life.console, life.console
    every = loaded(life.console, "bootloader")
    figures.check("boot stage, with all of an install, .mpy", taken(every), 25 * KB, 27_700)
    figures.check(
        "built-in installer: beyond a normal boot, .mpy", taken(every - normal), 6 * KB, 18_800
    )


# --- heap


def free(board: VirtualBoard) -> int:
    """What is free at the first line, as the board says."""
    figure = re.compile(r"free (\d+)\r?\n")
    seen = len(board.console)
    while not (found := figure.search(board.console, seen)):
        life = board.life(until=lambda b: bool(figure.search(b.console, seen)), timeout=30)
        assert life.cause in ("reset", "killed"), life.console
    return int(found[1])


def test_heap_held(field: Field, figures: Figures, tmp_path: Path) -> None:
    """At the app's first line, against a board that has nothing but that line."""
    with Board(tmp_path / "bare", speed=SPEED) as bare:
        bare.format({"/main.py": FREE.encode()})
        most = int(bare.life(timeout=30).console.split()[1])
    for name, files, romfs in (
        ("runtime app", demo(), True),
        ("plain app", plain(), True),
        ("plain app, from its files", plain(), False),
    ):
        figures.check(
            f"heap held at the first line, {name}",
            most - free(field.board(files, romfs=romfs)),
            2 * KB,
            today=4_000 if romfs else 5_400,
        )


def test_heap_at_its_peak(field: Field, figures: Figures) -> None:
    """Of a boot up to the app's first line, and of an install from the reset to the trial."""
    board = field.board(demo(FREE + "__import__('time').sleep(60)\n"))
    board.heap_profile = True
    board.life(until="free", timeout=60)
    figures.check("peak heap of a normal boot", board.stats.peak, 12 * KB)
    boards = {romfs: field.board(plain(), romfs=romfs) for romfs in (True, False)}
    field.fleet.publish(fleet.release(plain("# new\n" + FREE), 1001))
    for romfs, board in boards.items():
        name = "" if romfs else ", from its files"
        field.ask(board)
        board.heap_profile = True
        assert board.life(timeout=120).cause == "reset"
        files = {path: board.read(path) for path in ("/state/0/r", "/state/1/r")}
        record = powercut.newest_record(files)
        assert record and record.trial == 1, board.console
        figures.check(
            f"peak heap of an install{name}",
            board.stats.peak,
            20 * KB,
            today=20 * KB + 500 if romfs else 30_000,
        )


def test_heap_of_an_update(field: Field, figures: Figures) -> None:
    """A release with a file of 60 KB, on ever less heap."""
    board = field.board(plain())
    big = random.Random(60).randbytes(60 * KB)  # does not deflate
    digest = field.fleet.publish(fleet.release(plain() | {"big.bin": big}, 1001))
    field.ask(board)
    asking = board.save()

    def completes(heap: int) -> bool:
        board.restore(asking)
        board.heap = heap
        seen = len(board.console)

        def confirmed(_: VirtualBoard) -> bool:
            return field.says(board, state="ok", digest=digest[:32])

        def failed(_: VirtualBoard) -> bool:
            return "MemoryError" in board.console[seen:]

        board.start()
        # What the server knows is of the run before, until the board speaks.
        board.wait(lambda b: not confirmed(b) or failed(b))
        board.wait(lambda b: confirmed(b) or failed(b))
        board.stop()
        return confirmed(board) and not failed(board)

    assert completes(ESP8266)
    good, bad = ESP8266, ESP8266 - 24 * KB
    while good - bad > KB:
        middle = (good + bad) // 2 // KB * KB
        good, bad = (middle, bad) if completes(middle) else (good, middle)
    figures.check("smallest heap for an update with a 60 KB file", good, ESP8266)


# --- flash


@pytest.mark.parametrize("kind", ("runtime", "plain"))
def test_a_normal_boot_writes_nothing(field: Field, figures: Figures, kind: str) -> None:
    """From the reset to the app's first line, the poll before a plain app's included."""
    board = field.board({"runtime": demo, "plain": plain}[kind]())
    if kind == "runtime":
        board.life(until="I wifi:", timeout=60)  # which takes in its Wi-Fi
    before = len(board.lives)
    free(board)
    lives = board.lives[before:]
    figures.check(f"flash operations of a normal boot, {kind} app", sum(v.ops for v in lives), 0)


# --- bytes on the wire


class Meter:
    """What has gone over the wire between a board and its server since the last look."""

    def __init__(self, server: Running, board: VirtualBoard) -> None:
        self._server, self._board = server, board
        self._up, self._down = self._counts()

    def _counts(self) -> tuple[int, int]:
        """The board's alone: people's requests come from another address."""
        return self._server.up.get(BOARD, 0), self._server.down.get(BOARD, 0)

    def read(self) -> tuple[int, int]:
        """(up, down) since the last call: of what comes next, and of all that follows at once."""
        before = self._up, self._down
        assert self._board.wait(lambda _: self._counts() != before), self._board.console
        if self._board.running:
            self._board.go_on(20)  # polls are a minute apart
        self._up, self._down = self._counts()
        return self._up - before[0], self._down - before[1]


@pytest.mark.parametrize("kind", ("runtime", "plain"))
def test_poll(field: Field, figures: Figures, kind: str) -> None:
    """A poll that brings nothing new, heads and bodies, in the midst of a board's life."""
    board = field.board({"runtime": demo, "plain": plain}[kind]())
    meter = Meter(field.server, board)
    board.start()
    polls = [meter.read() for _ in range(4)][2:]
    board.stop()
    up, down = (max(side) for side in zip(*polls, strict=True))
    assert up and down
    # A plain app connects anew for each poll, and needs a second exchange for its ticket.
    twice = kind == "plain"
    figures.check(f"no-change poll, {kind} app, down", down, 300, 380 if twice else None)
    figures.check(f"no-change poll, {kind} app, up", up, 450, 850 if twice else None)


def test_one_line_change(field: Field, figures: Figures) -> None:
    """One module of 1 KB among 21 files: from the offering poll to the last file."""
    files = demo()
    names = [f"lib/part{n:02}.py" for n in range(21 - len(files))]
    files |= {name: module(name, 0) for name in names}
    changed = files | {names[0]: module(names[0], 1)}
    slot, other = fleet.compiled(files), fleet.compiled(changed)
    assert len(slot) == 21 and [n for n in slot if slot[n] != other[n]] == ["lib/part00.mpy"]
    assert abs(len(slot["lib/part00.mpy"]) - KB) < 100
    board = field.board(files)
    meter = Meter(field.server, board)
    board.start()
    assert board.wait(lambda _: field.says(board, state="ok", seq=1000)), board.console
    meter.read()
    board.stop()
    field.fleet.publish(fleet.release(changed, 1001))
    # What follows begins with a boot's first poll, which gets a ticket, and the one that offers.
    field.ask(board)
    life = board.life(timeout=30)
    assert "part00" in life.console and board.rtc, life.console
    up, down = meter.read()
    figures.check("one-line change, from the offering poll on, down", down, 2700, today=3_050)
    figures.check("one-line change, from the offering poll on, up", up, 4500)


def module(name: str, change: int) -> str:
    """A module as people write them, of about 1 KB when compiled."""
    words = random.Random(name).sample(WORDS, 12)
    lines = [f"LIMIT = {change}"]
    for word in words:
        lines += [
            f"def {word}(value, low, high):",
            "    if value < low or value > high + LIMIT:",
            f"        raise ValueError('{word} out of range', value)",
            "    return (value - low) * 100 // (high - low)",
        ]
    return "\n".join(lines)


WORDS = (
    "brightness colour current distance energy flow frequency humidity level light load noise"
    " orientation power pressure rainfall resistance rotation speed temperature tension torque"
    " vibration voltage volume weight"
).split()
