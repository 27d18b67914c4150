"""Where the firmware looks for its file system; nothing here touches a device.

Stock firmware mounts a file system only at the very place and size that it works out itself: one
block more or less, and it prints that the file system is damaged, for ever. So the place is
worked out from the firmware image in the same way:

- ESP8266: from where the firmware ends, which the variant fixes at link time, to the last 20 KB
  of the flash, which the SDK keeps (ports/esp8266/modules/flashbdev.py).
- ESP32 and its relatives: the partition `vfs`; since 1.26 there is none, and the firmware takes
  everything from the end of the last partition to the end of the flash chip
  (ports/esp32/main.c, boardctrl_startup). A partition `ffat` it opens in blocks of 512 bytes, for
  FAT, and mounts no LittleFS there (ports/esp32/modules/flashbdev.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

BLOCK = 4096
TABLE = 0x8000
"""Where the partition table lies in the flash of every ESP32."""
TABLE_BYTES = 0xC00
_ROW = struct.Struct("<2sBBII16sI")
_ROW_MARK = b"\xaa\x50"
_SUM_MARK = b"\xeb\xeb" + b"\xff" * 14
_END = b"\xff" * 32
_DATA = 1
_OURS, _FAT = "vfs", "ffat"

SDK_BYTES = 20 * 1024
"""What the ESP8266's SDK keeps at the end of the flash."""
_NATIVE_BYTES = BLOCK
"""Kept for native code where the firmware ends below 1 MB (ESP8266)."""
_MAPPED = 1024 * 1024
ESP8266_ENDS = {"": 0x100000, "FLASH_1M": 0x98000, "FLASH_2M_ROMFS": 0x100000}
"""Where each variant's own part of the flash ends (ports/esp8266/boards/*.ld)."""


class BadLayout(ValueError):
    """There is no place for a file system; the text says why."""


@dataclass(frozen=True)
class Partition:
    """A row of the partition table; `offset` and `size` in bytes of the whole flash."""

    kind: int
    subtype: int
    offset: int
    size: int
    label: str

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


@dataclass(frozen=True)
class Place:
    """Where the file system is: first byte in the flash, and number of 4 KB blocks."""

    offset: int
    blocks: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.blocks * BLOCK


def esp8266(variant: str, flash: int) -> Place:
    """The file system of stock ESP8266 firmware.

    Args:
        variant: "" (the default), "FLASH_1M" or "FLASH_2M_ROMFS".
        flash: size of the flash in bytes, as the image header tells the firmware.

    Raises:
        BadLayout: the variant has none, or the flash is too small for it.
    """
    if variant not in ESP8266_ENDS:
        raise BadLayout(f"the firmware variant {variant} has no file system")
    start = ESP8266_ENDS[variant]
    if start < _MAPPED:
        start += _NATIVE_BYTES
    return _place(start, (flash - SDK_BYTES) // BLOCK * BLOCK, flash)


def esp32(table: bytes, flash: int, *, grows: bool) -> Place:
    """The file system of stock ESP32 firmware (C3, S3 and the others alike).

    Args:
        table: the partition table, from its first byte on; what follows it is ignored.
        flash: size of the flash chip in bytes.
        grows: the firmware is 1.26 or newer, and adds a partition when the table names none.

    Raises:
        BadLayout: the table is missing or damaged, or does not fit on the flash.
    """
    rows = partitions(table)
    data = {row.label: row for row in rows if row.kind == _DATA}
    if _OURS in data:
        return _place(data[_OURS].offset, data[_OURS].end, flash)
    if _FAT in data:
        raise BadLayout(
            "the firmware has a FAT file system (ffat), which loses files at a power cut"
        )
    if not grows:
        raise BadLayout("the partition table has no row for a file system")
    return _place(max(row.end for row in rows), flash, flash)


def partitions(table: bytes) -> list[Partition]:
    """Read a partition table (ESP-IDF, "Partition Tables": 32-byte rows, MD5, all ones).

    Raises:
        BadLayout: it is missing, its MD5 is wrong, or rows overlap.
    """
    rows = []
    table = table[:TABLE_BYTES]
    for at in range(0, len(table) - _ROW.size + 1, _ROW.size):
        raw = table[at : at + _ROW.size]
        if raw.startswith(_SUM_MARK):
            if raw[16:] != hashlib.md5(table[:at]).digest():
                raise BadLayout("the partition table is damaged (its MD5 is wrong)")
            continue
        if raw == _END:
            break
        mark, kind, subtype, offset, size, label, _ = _ROW.unpack(raw)
        if mark != _ROW_MARK:
            raise BadLayout("there is no partition table where it should be")
        name = label.rstrip(b"\0").decode("latin-1")
        rows.append(Partition(kind, subtype, offset, size, name))
    if not rows:
        raise BadLayout("there is no partition table where it should be")
    in_order = sorted(rows, key=lambda row: row.offset)
    for one, following in pairwise(in_order):
        if one.end > following.offset:
            raise BadLayout(f"the partitions {one.label} and {following.label} overlap")
    return rows


def _place(start: int, end: int, flash: int) -> Place:
    if end > flash or end - start < 2 * BLOCK:
        raise BadLayout(
            f"the file system would reach from {start:#x} to {max(start, end):#x}, "
            f"and the flash ends at {flash:#x}"
        )
    return Place(start, (end - start) // BLOCK)


def runs(image: bytes, gap: int = 8) -> Iterator[tuple[int, bytes]]:
    """The written parts of an image: on an erased chip nothing else needs writing.

    Args:
        image: whole blocks.
        gap: so many blank blocks in a row are written along rather than start a new part.

    Yields:
        Offset in the image and content of each part.
    """
    used = [at for at in range(0, len(image), BLOCK) if image[at : at + BLOCK].strip(b"\xff")]
    start = end = 0
    for at in used:
        if end and at - end > gap * BLOCK:
            yield start, image[start:end]
            end = 0
        if not end:
            start = at
        end = at + BLOCK
    if end:
        yield start, image[start:end]
