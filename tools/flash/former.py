"""What a chip that is flashed again keeps: its settings, its Wi-Fi networks, its wiring.

They are read off the file system that is on the chip, whose place and size are those of the
firmware that is on it, not of the one that comes. Of all its blocks only those that are asked for
cross the cable: 16 MB would take five minutes.

Before the chip is erased they are kept beside the board's record, and come from there when the
chip has them no more: its flash was erased, and then writing failed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import console
from ..files import failed, write
from ..fleet import enrol
from ..fleet.enrol import Record
from . import image, layout, wiring
from .firmware import Firmware
from .layout import BadLayout

_SETTINGS = "/data/settings/"
KEPT = (_SETTINGS, "/state/0/w", "/state/1/w", wiring.PATH)
"""Where these files are, or how their paths begin."""
_CHUNK = 64 * 1024
"""Bytes read at once: starting esptool takes longer than these do on the cable."""

Read = Callable[[int, int], bytes]
"""Reads the chip's flash: offset, size."""


def take(record: Record, firmware: Firmware, flash: int, read: Read) -> dict[str, bytes]:
    """What the board keeps: path -> content.

    Args:
        firmware: the one that comes.
        flash: size of the chip's flash.
        read: raises Failure when the cable fails.
    """
    found = on_chip(firmware, flash, read)
    if found is None:
        found = saved(record)
    if found is None:
        console.warn("no former settings can be read from the board; it starts without any")
    return found or {}


def on_chip(firmware: Firmware, flash: int, read: Read) -> dict[str, bytes] | None:
    """What a chip has; None when there is no file system that can be read."""
    from littlefs import LittleFSError

    fetch = _in_chunks(read, flash)
    for start in _starts(firmware, flash, fetch):
        if not image.begins(fetch(start, 2 * image.BLOCK)):
            continue
        try:
            return image.some(lambda at, size, start=start: fetch(start + at, size), KEPT)
        except LittleFSError:
            return None
    return None


def _starts(firmware: Firmware, flash: int, fetch: Read) -> Iterator[int]:
    """Where the file system may be: as the chip's own table says, or as the firmware will have it.

    An ESP8266 has no table; every variant has a place of its own.
    """
    if firmware.chip == "esp8266":
        for variant in layout.ESP8266_ENDS:
            with contextlib.suppress(BadLayout):
                yield layout.esp8266(variant, flash).offset
        return
    there = fetch(layout.TABLE, layout.TABLE_BYTES)
    coming = firmware.data[layout.TABLE - firmware.offset :]
    for table in (there, coming):
        with contextlib.suppress(BadLayout):
            yield layout.esp32(table, flash, grows=True).offset


def _in_chunks(read: Read, flash: int) -> Read:
    """Reads whole chunks, each once; behind the end there is nothing but ones."""
    chunks: dict[int, bytes] = {}

    def fetch(offset: int, size: int) -> bytes:
        first = offset // _CHUNK
        last = (offset + size - 1) // _CHUNK
        for number in range(first, last + 1):
            at = number * _CHUNK
            if number not in chunks:
                chunks[number] = read(at, _CHUNK) if at < flash else b"\xff" * _CHUNK
        joined = b"".join(chunks[number] for number in range(first, last + 1))
        return joined[offset - first * _CHUNK :][:size]

    return fetch


def without_settings(kept: dict[str, bytes]) -> dict[str, bytes]:
    """What remains for a board that becomes one of another app: settings are an app's own."""
    return {path: content for path, content in kept.items() if not path.startswith(_SETTINGS)}


# --- beside the board's record -------------------------------------------------------------------


def save(record: Record, kept: dict[str, bytes]) -> None:
    """Keep them, for the owner only, until `forget`.

    Raises:
        Failure: they cannot be written.
    """
    path = _path(record)
    content = json.dumps({name: data.hex() for name, data in kept.items()}, indent=2)
    try:
        write(path, content.encode() + b"\n", 0o600)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem


def saved(record: Record) -> dict[str, bytes] | None:
    """What was kept; None when nothing was, or it cannot be read."""
    try:
        content = json.loads(_path(record).read_text("utf-8"))
        return {str(name): bytes.fromhex(data) for name, data in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def forget(record: Record) -> None:
    """The board has them again."""
    _path(record).unlink(missing_ok=True)


def _path(record: Record) -> Path:
    return enrol.path_of(record.board.id).with_suffix(".kept")
