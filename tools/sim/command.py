"""`mipy sim`: a virtual board in the foreground, its console on the terminal."""

from __future__ import annotations

import hashlib
import os
import re
import select
import sys
import time
from typing import Annotated

import typer

from .. import console, places
from .board import Chip, VirtualBoard

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_CHIPS: tuple[Chip, ...] = ("esp8266", "esp32")
_AGAIN_SECONDS = 1.0
NETWORKS = {"virtual": "virtual-air"}
"""The Wi-Fi around a virtual board, SSID -> password."""


def sim(
    name: Annotated[str, typer.Argument(help="The board; made when there is none.")] = "sim-01",
    chip: Annotated[str, typer.Option(help="esp8266 or esp32.")] = "esp8266",
    address: Annotated[
        str | None,
        typer.Option(help="Its loopback address, 127.x.y.z; from its name if not given."),
    ] = None,
    speed: Annotated[int, typer.Option(min=1, help="How many times faster its clock runs.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with a new flash chip.")] = False,
) -> None:
    """Run a virtual board with its console.

    What is typed goes to the board, Ctrl-C too; Ctrl-C twice within a second, or Ctrl-D, switches
    it off. Its flash is kept for the next time.
    """
    if not _NAME.fullmatch(name):
        console.fail(f"{name!r} is no board name", "use letters, digits, '_' and '-', at most 32")
    kind: Chip | None = next((known for known in _CHIPS if known == chip), None)
    if kind is None:
        console.fail(f"there is no virtual {chip!r}", f"--chip is one of {', '.join(_CHIPS)}")
    folder = places.data_dir() / "sim" / name
    new = fresh or not (folder / "flash.img").exists()
    with VirtualBoard(folder, kind, address or address_of(name), speed) as board:
        board.radio(networks=NETWORKS)
        if new:
            prepare(board, name)
        console.note(f"{name}, a virtual {chip} at {board.address}; Ctrl-C twice switches it off")
        _converse(board)
        sums = board.stats
    console.note(
        f"{name} is off: {sums.boots} boots, {sums.ops} flash operations ({sums.erases} erases), "
        f"{sums.sent} bytes sent, {sums.received} received"
    )


def prepare(board: VirtualBoard, name: str) -> None:
    """What lies on the flash of the new board `name`."""
    board.format({})


def address_of(name: str) -> str:
    """A loopback address that stays the same for a name and is hardly another's."""
    a, b, c = hashlib.sha256(name.encode()).digest()[:3]
    return f"127.{16 + a % 200}.{b}.{1 + c % 254}"


def _converse(board: VirtualBoard) -> None:
    board.start(_print)
    pressed = 0.0
    listening = True
    while True:
        try:
            if listening and select.select([sys.stdin], [], [], 0.05)[0]:
                # Not sys.stdin.readline: its buffer would hide further lines from select.
                text = os.read(sys.stdin.fileno(), 4096).decode(errors="replace")
                if text:
                    board.type(text)
                elif sys.stdin.isatty():
                    return
                else:
                    listening = False
            elif not listening:
                time.sleep(0.05)
        except KeyboardInterrupt:
            now = time.monotonic()
            if now - pressed < _AGAIN_SECONDS or not sys.stdin.isatty():
                return
            pressed = now
            board.ctrl_c()


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
