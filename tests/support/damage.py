"""Damaged files of the boot stage: what becomes of the board.

    python -m tests.support.damage --count 150 --seed 13

Each damage is of one file of the boot stage, as a worn block or a bit that flips makes it. A board
may start its app all the same, recover, or stop and say what to do; it must not start over and
over.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import apps, fleet
from tests.support.apps import BEGIN, OWN

LIVES = 30
"""A board that has started so often, and come to nothing, loops."""
LOOPS, HANGS = "starts for ever", "hangs"
TOLD = "what to do: flash it anew"
ALIVE = "alive\n"
ENDS = {
    ALIVE: "runs its app",
    "recovery: again in": "recovers",
    "portal: mipy-": "opens the portal",
    TOLD: "stops and says what to do",
}
_SECONDS = 1800
"""Board time of one life; the longest ones wait for a network."""
_WANTS = (0, 0, 0, apps.INSTALL, 3, 8)  # rtc.WANT: nothing, INSTALL, RECOVER, PORTAL
# An app that has come to something, once it has run for 20 s.
_PLAIN = """\
while True:
    ota.check()
    time.sleep(1)
    if ota.ticks > 40:
        print('alive')
"""
_ON_RUNTIME = "app.after(20000, lambda: print('alive'))\n"


def _flip(r: random.Random, raw: bytes) -> bytes:
    at = r.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << r.randrange(8)]) + raw[at + 1 :]


def _wipe(r: random.Random, raw: bytes) -> bytes:
    at, size = r.randrange(len(raw)), r.choice((4, 32, 256))
    gone = raw[at : at + size]
    return raw[:at] + r.choice((b"\0", b"\xff")) * len(gone) + raw[at + size :]


def _cut(r: random.Random, raw: bytes) -> bytes:
    return raw[: r.randrange(len(raw))]


DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _flip, _wipe, _cut)


def outcome(board: VirtualBoard, seconds: float = _SECONDS) -> str:
    """Let the board, which is off, live until it is clear what becomes of it.

    Where a life says nothing for so many seconds somebody takes its power away, once.
    """

    def clear(board: VirtualBoard) -> bool:
        return bool(board._current and _said(board._current.text))

    hung = ""
    for _ in range(LIVES):
        life = board.life(until=clear, timeout=seconds)
        said = _said(life.console)
        if said:
            return said + hung
        if life.cause == "repl":
            return "is at the REPL"
        if life.cause == "killed":
            if hung:
                return HANGS
            hung = ", after its power was off and on"
    return LOOPS


def _said(console: str) -> str:
    return next((what for text, what in ENDS.items() if text in console), "")


def damaged(
    r: random.Random, folder: Path, apps_: Mapping[str, Mapping[str, str | bytes]]
) -> tuple[str, str]:
    """Damage one file of a new board. Returns what was done, and the outcome."""
    chip: Chip = r.choice(("esp8266", "esp32"))
    kind = r.choice(sorted(apps_))
    want = r.choice(_WANTS)
    made = fleet.release(apps_[kind], 1000, cls=f"{chip}-generic")
    options = {**OWN, "chip": chip}
    who = fleet.identity()
    with fleet.prepared(folder, who, made, **options) as board:
        stage = (name for name in board.files() if name.startswith("/bootloader/"))
        names = sorted(("/boot.py", "/main.py", *stage))
        name = r.choice(names)
        change = r.choice(DAMAGES)
        board.write(name, change(r, board.read(name)))
        if want:
            life = bytes((0, 0, want, 0, 0, 0, 0, 0))
            board.rtc = life + bytes(255 - byte for byte in life)
        what = f"{chip}, {kind}, want {want}: {change.__name__[1:]} {name}"
        return what, outcome(board)


def run(seed: int, count: int, report: Callable[[str], None]) -> Counter[str]:
    """So many damages; how often each outcome came."""
    r = random.Random(seed)
    kinds = {"plain": {"main.py": BEGIN + _PLAIN}, "runtime": apps.with_runtime(_ON_RUNTIME)}
    found = Counter[str]()
    for n in range(count):
        with tempfile.TemporaryDirectory() as folder:
            what, came = damaged(r, Path(folder) / "board", kinds)
        found[came] += 1
        report(f"{n}: {what}: {came}")
    return found


def main(words: Sequence[str]) -> int:
    """Damage; 1 where a board starts for ever, or hangs."""
    parser = argparse.ArgumentParser(prog="damage", description=main.__doc__)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=13)
    given = parser.parse_args(words)
    found = run(given.seed, given.count, lambda line: print(line, flush=True))
    for came, times in found.most_common():
        print(f"{times} {came}")
    return int(bool(found[LOOPS] or found[HANGS]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
