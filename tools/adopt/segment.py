"""What lies in the ROMFS segment of an ESP8266, seen over its REPL and never mounted there.

A board executes in place from images that it makes of its own files, and notes each with its
SHA-256 (bootloader/in_place.py). `mpremote romfs deploy` writes over them. A wrong length in an
image makes the firmware read anywhere, so an image that is not the board's own is read here only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..board.remote import Remote, show

_MAGIC = b"\xd2\xcd\x31"
_FOLDER, _FILE = 4, 5
"""Kinds of records that have a name (extmod/vfs_rom.c)."""
_MOST_RECORDS = 16
_RECORD_BYTES = 96
_PLACES = (
    ("boot stage", b"/bootloader/image", 0x0, 0),
    ("slot a", b"/state/image_a", 0x14000, 16),
    ("slot b", b"/state/image_b", 0x32000, 16),
)
"""What, its note on the file system, offset in the segment, and bytes of the note to pass over."""
_NOTE = 4 + 32


@dataclass(frozen=True)
class Segment:
    """The segment of a board.

    Attributes:
        size: bytes; 0 if the firmware has none.
        whole: what the board executes in place from now on -> bytes of its image.
        wrong: what it has made an image of that is not there any more.
        foreign: names in the image at the segment's start, which the board has not made; None if
            there is no such image.
    """

    size: int
    whole: dict[str, int]
    wrong: tuple[str, ...]
    foreign: tuple[str, ...] | None


def look(remote: Remote, paths: dict[bytes, int | None]) -> Segment:
    """Look at the segment of the board behind `remote`, whose files are `paths`."""
    size = remote.segment()
    whole: dict[str, int] = {}
    wrong = []
    for what, note, at, passed in _PLACES if size else ():
        if note not in paths:
            continue
        raw = remote.read(note, paths[note] or 0)[passed:]
        length = int.from_bytes(raw[:4], "little")
        inside = len(raw) == _NOTE and 0 < length <= size - at
        if inside and remote.segment_digest(at, length) == raw[4:].hex():
            whole[what] = length
        else:
            wrong.append(what)
    own = _PLACES[0][0] in whole
    foreign = None if own or not size else names(remote.segment_read, size)
    return Segment(size, whole, tuple(wrong), foreign)


def names(read: Callable[[int, int], bytes], size: int) -> tuple[str, ...] | None:
    """The first names in a ROMFS image; None if there is none.

    Args:
        read: gives bytes of it from an offset on.
        size: of the segment; nothing behind it is believed.
    """
    head = read(0, _RECORD_BYTES)
    if not head.startswith(_MAGIC):
        return None
    found: list[str] = []
    with suppress(IndexError):  # cut short or damaged: the names so far
        length, at = _varint(head, len(_MAGIC))
        end = min(at + length, size)
        for _ in range(_MOST_RECORDS):
            if at >= end:
                break
            raw = read(at, _RECORD_BYTES)
            kind, after = _varint(raw, 0)
            length, after = _varint(raw, after)
            if kind in (_FOLDER, _FILE):
                letters, start = _varint(raw, after)
                found.append(show(raw[start : start + letters]))
            at += after + length
    return tuple(found)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number in sevens of bits, the highest first, and where it ends."""
    value = 0
    while True:
        value = value << 7 | raw[at] & 127
        at += 1
        if raw[at - 1] < 128:
            return value, at
