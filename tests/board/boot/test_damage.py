"""A damaged boot stage: no board starts for ever, and its console says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools.app.compile import bytecode
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import damage, fleet
from tests.support.apps import BEGIN, LOOP, OWN
from tests.support.powercut import Edits, patched

PLAIN = {"main.py": BEGIN + LOOP + "    ota.ticks > 40 and print('alive')\n"}


@pytest.fixture
def board(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    chip = getattr(request, "param", "esp8266")
    made = fleet.release(PLAIN, 1000, cls=f"{chip}-generic")
    with fleet.prepared(tmp_path / "b", fleet.identity(), made, chip=chip, **OWN) as found:
        yield found


def flipped(board: VirtualBoard, name: str) -> None:
    raw = board.read(name)
    board.write(name, raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])


def stage_files(board: VirtualBoard) -> set[str]:
    return {name for name in board.files() if name.startswith("/bootloader/")}


@pytest.mark.parametrize("board", ["esp8266", "esp32"], indirect=True)
def test_what_every_start_needs(board: VirtualBoard) -> None:
    """Eight tries, then a pause that says what to do and leaves the REPL to people."""
    flipped(board, "/bootloader/start.mpy")
    consoles = [board.life(timeout=60).console for _ in range(8)]
    assert "set aside: /bootloader/start.mpy" in consoles[0]
    assert not any(damage.TOLD in console for console in consoles)
    board.start()
    assert board.wait("Ctrl-C leads to the REPL", 60), board.console
    board.ctrl_c()
    assert board.wait(">>> ", 60), board.console
    board.stop()
    assert "/bootloader/start.mpy.bad" in board.files()


def test_a_pause_ends_and_the_next_one_follows(board: VirtualBoard) -> None:
    board.remove("/bootloader/start.mpy")
    for _ in range(8):
        board.life(timeout=60)
    life = board.life(timeout=1200)
    assert damage.TOLD in life.console and "ImportError" in life.console, life
    assert damage.TOLD in board.life(timeout=60, until=damage.TOLD).console


@pytest.mark.parametrize("name", ["prepare", "portal_page", "recovery"])
def test_what_the_app_can_do_without(board: VirtualBoard, name: str) -> None:
    """The app starts all the same, and the console names the file."""
    flipped(board, f"/bootloader/{name}.mpy")
    assert damage.outcome(board) == damage.ENDS[damage.ALIVE]
    assert f"set aside: /bootloader/{name}.mpy" in board.console


@pytest.mark.parametrize("where", [3, -3])
def test_a_damaged_list_sets_nothing_aside(board: VirtualBoard, where: int) -> None:
    raw = bytearray(board.read("/bootloader/sums"))
    raw[where] ^= 1
    board.write("/bootloader/sums", bytes(raw))
    before = stage_files(board)
    assert damage.outcome(board) == damage.ENDS[damage.ALIVE]
    assert stage_files(board) == before


def test_a_board_in_order_writes_nothing(board: VirtualBoard) -> None:
    """Soft resets at the REPL, sleeps and presses on the button are no failed starts."""
    for _ in range(12):
        life = board.life(until="begin 1000", timeout=600)
        assert damage.TOLD not in life.console and "set aside" not in life.console
    assert not any(name.endswith(".bad") for name in board.files())


def test_random_damage() -> None:
    """A sample of `python -m tests.support.damage`."""
    found = damage.run(seed=5, count=4, report=print)
    assert sum(found.values()) == 4
    assert not found[damage.LOOPS] and not found[damage.HANGS], found


HANGING = b"import time\ntime.sleep(100000)\n"
# What is planted; the damage by which it shows, to which file; what becomes of the board then.
PLANTED: dict[str, tuple[Edits, str, bytes, str]] = {
    "no start is counted": (
        (("boot.py", "        if not stuck:\n", "        if False:\n"),),
        "start", b"", damage.LOOPS,
    ),
    "nothing is done without": (
        (("start.py", "unsure = life[rtc.END] >= _UNSURE", "unsure = False"),),
        "prepare", b"", damage.ENDS[damage.TOLD],
    ),
    "nothing is checked": (
        (("boot.py", "    if check and not unsure:\n", "    if False:\n"),),
        "start", bytecode.compiled(HANGING, "bootloader/start.py"), damage.HANGS,
    ),
    "damaged files stay": (
        (("damage.py", "        os.rename(_FOLDER + name, _FOLDER + name + \".bad\")\n", ""),),
        "start", bytecode.compiled(HANGING, "bootloader/start.py"), damage.HANGS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_shows(board: VirtualBoard, name: str) -> None:
    edits, file, content, becomes = PLANTED[name]
    as_made = board.save()
    board.write(f"/bootloader/{file}.mpy", content)
    assert damage.outcome(board, 120) in (damage.ENDS[damage.ALIVE], damage.ENDS[damage.TOLD])
    board.restore(as_made)
    for path, data in patched(edits).items():
        board.write(path, data)
    board.write(f"/bootloader/{file}.mpy", content)
    assert damage.outcome(board, 120) == becomes
