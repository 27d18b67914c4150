"""MicroPython firmware images: understand, check, download, keep.

An image is believed for what its bytes say, not for its name: the header's chip, MicroPython's
own version and build name, and the checksums that the build put into it.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

from .. import console, places
from ..console import Failure
from ..files import failed, write
from . import layout
from .layout import BadLayout, Place

OLDEST = (1, 22)
"""Older firmware skips main.py differently, and cannot mount what newer ones have written."""
_GROWS = (1, 26)

VERSION = "20251209-v1.27.0"
"""The stock firmware that is fetched when none is named."""
SOURCE = "https://micropython.org/resources/firmware/"
_SUMS = {
    "ESP32_GENERIC": "aa4be80ec695911ba0f13f7558e559ce540f90efbf40c23b853ca49162136b9f",
    "ESP32_GENERIC_C3": "41388c500efaed40ca912e4917421f3fc44a99b708dcb4f68f0892df0425ecf4",
    "ESP32_GENERIC_S3": "f533115edca660863b1308445d5c08e3fa108b34c39229a53c2f984a8186a9cd",
}
"""SHA-256 of that version, for the builds where it is known here."""
_MB = 1024 * 1024
_MOST = 16 * _MB
_CONNECT_SECONDS, _READ_SECONDS = 10, 60

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
BUILDS = {
    "esp8266": "ESP8266_GENERIC",
    "esp32": "ESP32_GENERIC",
    **{f"esp32{kind}": f"ESP32_GENERIC_{kind.upper()}" for kind in ("c2", "c3", "c5", "c6")},
    **{f"esp32{kind}": f"ESP32_GENERIC_{kind.upper()}" for kind in ("s2", "s3")},
}
"""Name of the stock build for each chip."""
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
    def text(self) -> str:
        """For people."""
        what = f" {self.variant}" if self.variant else ""
        return f"MicroPython {'.'.join(map(str, self.version))} for {self.chip}{what}"

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
        return "FLASH_2M_ROMFS"
    return "" if b"asyncio/" in data else "FLASH_1M"


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


def build_name(chip: str, flash: int) -> str:
    """The stock build for a chip with so many bytes of flash.

    Raises:
        Failure: there is none.
    """
    if chip not in BUILDS:
        raise Failure(f"no stock firmware is known for the {chip}", "name one with --firmware FILE")
    variant = ""
    if chip == "esp8266" and flash < 2 * _MB:
        variant = "-FLASH_1M"
    elif chip == "esp32" and flash < 4 * _MB:
        variant = "-D2WD"
    return BUILDS[chip] + variant


def fetch(build: str) -> Firmware:
    """The stock firmware `build` from the cache, else from micropython.org.

    Its SHA-256 is kept beside it, and checked every time it is taken from the cache. A file that
    somebody has put there has none yet, and is kept if it is whole.

    Raises:
        Failure: it cannot be fetched, or is not what it should be.
    """
    path = cached(build)
    folder, sum_file = path.parent, path.with_suffix(".sha256")
    try:
        if path.exists():
            if _is_kept(path.read_bytes(), build, sum_file):
                return load(path)
            console.warn(f"{path} is not what it should be; fetching it again")
        console.note(f"fetching {SOURCE}{path.name}")
        data = _download(SOURCE + path.name)
        known = _SUMS.get(build)
        if known and _sha256(data) != known:
            raise Failure(
                f"what {SOURCE} gives as {path.name} is not the known firmware",
                "fetch it by another way and name it with --firmware FILE",
            )
        parse(data)
        folder.mkdir(parents=True, exist_ok=True)
        write(path, data)
        write(sum_file, _sha256(data).encode() + b"\n")
    except OSError as problem:
        raise failed(f"cannot use {folder}", problem) from problem
    except BadFirmware as refused:
        raise Failure(
            f"{SOURCE}{path.name}: {refused}", "name another one with --firmware FILE"
        ) from refused
    return load(path)


def cached(build: str) -> Path:
    """Where the stock firmware `build` is kept; a file of this name may be put there by hand."""
    return places.cache() / "firmware" / f"{build}-{VERSION}.bin"


def _is_kept(data: bytes, build: str, sum_file: Path) -> bool:
    found = _sha256(data)
    if sum_file.exists():
        return found == sum_file.read_text("ascii").strip()
    try:
        parse(data)
    except BadFirmware:
        return False
    if found != _SUMS.get(build, found):
        return False
    write(sum_file, found.encode() + b"\n")
    return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _download(url: str) -> bytes:
    import requests

    try:
        timeouts = (_CONNECT_SECONDS, _READ_SECONDS)
        with requests.get(url, stream=True, timeout=timeouts) as answer, console.progress() as bar:
            answer.raise_for_status()
            size = int(answer.headers.get("content-length", 0)) or None
            task = bar.add_task("fetching the firmware", total=size)
            data = bytearray()
            for part in answer.iter_content(65536):
                data += part
                bar.advance(task, len(part))
                if len(data) > _MOST:
                    raise Failure(f"{url} does not end", "name a firmware with --firmware FILE")
    except requests.RequestException as problem:
        raise Failure(
            f"cannot fetch {url}",
            "check the network, or download it on another machine and give it with --firmware FILE",
        ) from problem
    return bytes(data)
