"""The builds of stock firmware: which one a chip gets, and what it lets a board do.

A build is called as MicroPython calls it, `<BOARD>` or `<BOARD>-<VARIANT>`: in the names of its
files, within the image, and as `sys.implementation._build` since 1.25 (docs/firmware.md).
"""

from __future__ import annotations

from ..console import Failure

ROMFS = "FLASH_2M_ROMFS"
"""The ESP8266's variant with a ROMFS segment, whose modules run from flash."""
SMALL = "FLASH_1M"
"""The ESP8266's variant for 1 MB of flash: no asyncio, so no runtime."""
ROMFS_SINCE = (1, 25)
_MB = 1024 * 1024
ROMFS_FLASH = 2 * _MB
"""Bytes of flash that the variant with a ROMFS segment needs."""

BOARDS = {
    "esp8266": "ESP8266_GENERIC",
    "esp32": "ESP32_GENERIC",
    **{f"esp32{kind}": f"ESP32_GENERIC_{kind.upper()}" for kind in ("c2", "c3", "c5", "c6")},
    **{f"esp32{kind}": f"ESP32_GENERIC_{kind.upper()}" for kind in ("s2", "s3")},
}
"""What MicroPython calls a plain board with each chip."""


def for_chip(chip: str, flash: int) -> str:
    """The stock build for a chip.

    Args:
        chip: esptool's word for it.
        flash: bytes of flash it has.

    Raises:
        Failure: there is none.
    """
    if chip not in BOARDS:
        raise Failure(f"no stock firmware is known for the {chip}", "name one with --firmware FILE")
    variant = ""
    if chip == "esp8266":
        variant = ROMFS if flash >= ROMFS_FLASH else SMALL
    elif chip == "esp32" and flash < 4 * _MB:
        variant = "D2WD"
    return BOARDS[chip] + (f"-{variant}" if variant else "")


def class_of(build: str) -> str:
    """The class of boards that run a build; releases do not depend on its variant.

    But for FLASH_1M's: without asyncio it takes other apps.
    """
    board, _, variant = build.partition("-")
    return board.lower().replace("_", "-") + ("-1m" if variant == SMALL else "")


def lacks(chip: str, variant: str, version: tuple[int, ...]) -> str:
    """What a board with this firmware does without, for people; "" if nothing.

    Args:
        chip: esptool's word, or `sys.platform`.
        variant: the part of the build's name behind the hyphen.
        version: of MicroPython.
    """
    if chip != "esp8266" or variant == ROMFS:
        return ""
    if variant == SMALL:
        return "it has no asyncio: plain apps run, the runtime does not"
    what = (
        "its modules fill the heap: plain apps run as ever, an app with the runtime has a few KB "
        "to spare"
    )
    if version < ROMFS_SINCE:
        what += f"; no firmware before {'.'.join(map(str, ROMFS_SINCE))} can run modules from flash"
    return what
