"""MicroPython firmware images: understand and check them.

An image is believed for what its bytes say, not for its name: the header's chip, MicroPython's
own version and build name, and the checksums that the build put into it.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from ..console import Failure
from ..files import failed
from . import builds, layout
from .layout import BadLayout, Place

OLDEST = (1, 22)
"""Older firmware skips main.py differently, and cannot mount what newer ones have written."""
_GROWS = (1, 26)

_MAGIC = 0xE9
# Chip ids of image headers, esptool's name for the chip, where its image starts in the flash.
_ESP32S = {
    0: ("esp32", 0x1000),
    2: ("esp32s2", 0x1000),
    5: ("esp32c3", 0),
    9: ("esp32s3", 0),
    12: ("esp32c2", 0),
    13: ("esp32c6", 0),
    16: ("esp32h2", 0),
    18: ("esp32p4", 0x2000),
    23: ("esp32c5", 0x2000),
}
_VERSION_TEXT = re.compile(rb"MicroPython v?(\d{1,2})\.(\d{1,3})(?:\.(\d{1,3}))?[ -~]* on \d{4}-")
_BUILD_TEXT = re.compile(rb"(?<![A-Z0-9_])ESP(?:8266|32)_GENERIC[A-Z0-9_]*(?:-[A-Z0-9_]+)?(?=\0)")

# ESP8266 (esp8266/makeimg.py, esp.check_fw): bytes up to here are the boot segments, then irom.
_IROM = 0x9000
_ESP8266_RAM = range(0x3FFE8000, 0x40108000)
_ESP8266_SIZES = {1 << 19: 0, 1 << 20: 2, 1 << 21: 3, 1 << 22: 4, 1 << 23: 8, 1 << 24: 9}

_APP = 0x10000
_CHECKSUM_SEED = 0xEF


class BadFirmware(ValueError):
    """Not a firmware image that can be flashed; the text says why."""


@dataclass(frozen=True)
class Firmware:
    """An image.

    `chip` is esptool's word, `offset` where it goes in the flash, `variant` the part of the build
    name behind the hyphen.
    """

    data: bytes
    chip: str
    offset: int
    version: tuple[int, int, int]
    variant: str = ""

    @property
    def number(self) -> str:
        """The version as text."""
        return ".".join(map(str, self.version))

    @property
    def build(self) -> str:
        """The name of the build; "" for a chip that is not known."""
        board = builds.BOARDS.get(self.chip, "")
        return f"{board}-{self.variant}" if board and self.variant else board

    @property
    def text(self) -> str:
        """For people."""
        what = f" {self.variant}" if self.variant else ""
        return f"MicroPython {self.number} for {self.chip}{what}"

    def place(self, flash: int) -> Place:
        """Where this firmware has its file system on a flash of so many bytes.

        Raises:
            BadLayout: nowhere.
        """
        if self.offset + len(self.data) > flash:
            raise BadLayout(f"the firmware alone has {len(self.data)} bytes, the flash {flash}")
        if self.chip == "esp8266":
            found = layout.esp8266(self.variant, flash)
        else:
            table = self.data[layout.TABLE - self.offset :]
            found = layout.esp32(table, flash, grows=self.version >= _GROWS)
        if found.offset < self.offset + len(self.data):
            raise BadLayout("the firmware reaches into its own file system")
        return found

    def on(self, flash: int) -> Firmware:
        """The image as it is written to a flash of so many bytes.

        An ESP8266 learns the size of its flash, and so of its file system, from this header only.
        No checksum covers these bytes.

        Raises:
            BadLayout: the chip knows no flash of this size.
        """
        if self.chip != "esp8266":
            return self
        if flash not in _ESP8266_SIZES:
            raise BadLayout(f"no ESP8266 has a flash of {flash} bytes")
        sizes = _ESP8266_SIZES[flash] << 4 | self.data[3] & 0x0F
        return replace(self, data=self.data[:3] + bytes([sizes]) + self.data[4:])


def parse(data: bytes) -> Firmware:
    """Understand an image and check that it is whole.

    Raises:
        BadFirmware: it is no MicroPython image, damaged, or older than 1.22.
    """
    if len(data) < _APP // 2 or data[0] != _MAGIC:
        raise BadFirmware("this is no firmware image for an ESP8266 or ESP32")
    found = _VERSION_TEXT.search(data)
    if not found:
        raise BadFirmware("there is no MicroPython in this firmware image")
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if version < OLDEST:
        raise BadFirmware(
            f"MicroPython {'.'.join(map(str, version))} is too old: 1.22 or newer is needed"
        )
    if struct.unpack_from("<I", data, 8)[0] in _ESP8266_RAM:
        _check_esp8266(data)
        return Firmware(data, "esp8266", 0, version, _esp8266_variant(data))
    number = struct.unpack_from("<H", data, 12)[0]
    if number not in _ESP32S:
        raise BadFirmware(f"this firmware is for a chip with number {number}, which is not known")
    chip, offset = _ESP32S[number]
    _check_app(data, _APP - offset)
    return Firmware(data, chip, offset, version, _variant(data))


def _variant(data: bytes) -> str:
    found = _BUILD_TEXT.search(data)
    return found[0].decode().partition("-")[2] if found else ""


def _esp8266_variant(data: bytes) -> str:
    named = _BUILD_TEXT.search(data)
    if named:
        return _variant(data)
    # Before 1.25 a build does not tell its name; it is known by what is frozen in.
    if b"VfsLfs2" not in data:
        return "FLASH_512K"
    if b"VfsRom" in data:
        return builds.ROMFS
    return "" if b"asyncio/" in data else builds.SMALL


def _check_esp8266(data: bytes) -> None:
    """As esp.check_fw() does on the chip: the length stands before irom, the MD5 at the end."""
    size = struct.unpack_from("<I", data, _IROM - 4)[0]
    if len(data) < size + 16 or hashlib.md5(data[4:size]).digest() != data[size : size + 16]:
        raise BadFirmware("this firmware image is damaged or cut short (its MD5 is wrong)")


def _check_app(data: bytes, at: int) -> None:
    """The app image's own checksum and SHA-256 (ESP-IDF, "App Image Format")."""
    damaged = BadFirmware("this firmware image is damaged or cut short (its checksum is wrong)")
    start = at
    if len(data) < at + 24 or data[at] != _MAGIC:
        raise BadFirmware("this is no whole firmware image: its app part is missing")
    segments, has_hash = data[at + 1], data[at + 23]
    at += 24
    checksum = _CHECKSUM_SEED
    for _ in range(segments):
        if len(data) < at + 8:
            raise damaged
        size = struct.unpack_from("<I", data, at + 4)[0]
        content = data[at + 8 : at + 8 + size]
        if len(content) != size:
            raise damaged
        checksum ^= _xor(content)
        at += 8 + size
    at += 15 - (at - start) % 16
    if len(data) <= at or data[at] != checksum:
        raise damaged
    at += 1
    if has_hash and hashlib.sha256(data[start:at]).digest() != data[at : at + 32]:
        raise damaged


def _xor(content: bytes) -> int:
    """All bytes of `content` XORed to one; halves at a time, as whole numbers."""
    value, size = int.from_bytes(content, "little"), len(content)
    while size > 1:
        half = (size + 1) // 2
        value = (value >> 8 * half) ^ (value & (1 << 8 * half) - 1)
        size = half
    return value


def load(path: Path) -> Firmware:
    """Read the image file `path`.

    Raises:
        Failure: it cannot be read, or `parse` refuses it.
    """
    try:
        data = path.expanduser().read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "see where it is") from problem
    try:
        return parse(data)
    except BadFirmware as refused:
        raise Failure(
            f"{path}: {refused}", "take a .bin of micropython.org/download, or leave --firmware out"
        ) from refused
