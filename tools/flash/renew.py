"""`mipy flash --firmware-only`: another firmware for an ESP8266 that keeps everything else.

The stock variants for 2 MB and more have their file system in the same place, so a board goes from
the default build to the one with a ROMFS segment and stays what it is: files, identity, app, Wi-Fi.
Its boot stage fills the segment by itself (docs/firmware.md).
"""

from __future__ import annotations

from pathlib import Path

from .. import console
from ..console import Failure
from ..fleet import enrol
from . import builds, download, image
from . import chip as chips
from . import firmware as images
from . import port as ports
from .chip import Chip
from .firmware import Firmware
from .layout import BadLayout


def firmware_for(chip: Chip, file: Path | None) -> Firmware:
    """The firmware in `file`, else the stock one for the chip; says what a file's does without.

    Raises:
        Failure: it cannot be had, or is for another chip.
    """
    if file is None:
        return download.fetch(builds.for_chip(chip.kind, chip.flash))
    found = images.load(file)
    if found.chip != chip.kind:
        raise Failure(
            f"the firmware is for the {found.chip}, the board has an {chip.kind}",
            "take the image for this chip, or leave --firmware out",
        )
    lacks = builds.lacks(found.chip, found.variant, found.version)
    if lacks and chip.flash >= builds.ROMFS_FLASH:
        better = builds.for_chip(chip.kind, chip.flash)
        console.warn(f"{found.text}: {lacks}; {better} has the room")
    return found


def renew(port: str, file: Path | None, *, dry_run: bool) -> None:
    """Write the firmware in `file`, else the stock one, and nothing else; wait for the app.

    Raises:
        Failure: the chip has no use for it, or would not find its files afterwards.
    """
    with chips.held(port, stay=not dry_run) as chip:
        _check_chip(chip)
        firmware = _fitting(port, chip, firmware_for(chip, file))
        if dry_run:
            console.say(f"{firmware.text} would be written, {len(firmware.data)} bytes from 0x0")
            console.say("nothing was written; every file would stay")
            return
    parts = [(firmware.offset, firmware.data)]
    with chips.bar(f"writing {firmware.text}", parts) as progress:
        chips.write(port, parts, progress, erase=False)
    console.say(f"{firmware.text} is written and verified; every file stayed")
    known = enrol.known(chip.mac)
    if known is None:
        console.note(f"it is no board of this fleet; `mipy doctor {port}` tells what it runs")
        return
    with console.busy("waiting for the board to start; a new firmware's first start takes longer"):
        ports.follow(port, lambda line: console.note(f"  {line}"))
    console.say(f"{known.board.name or known.board.id} is up")


def _check_chip(chip: Chip) -> None:
    if chip.kind != "esp8266":
        raise Failure(
            f"--firmware-only is for the ESP8266, and this is an {chip.kind}",
            "`mipy flash` writes everything; a chip of the fleet keeps identity and settings",
        )
    if chip.flash < builds.ROMFS_FLASH:
        raise Failure(
            f"{chip.flash // 1024} KB of flash have no room for {builds.BOARDS[chip.kind]}-"
            f"{builds.ROMFS}, which needs 2 MB",
            f"{builds.SMALL} stays: plain apps run on it; for the runtime take a board with 4 MB",
        )


def _fitting(port: str, chip: Chip, firmware: Firmware) -> Firmware:
    """The image as it is written to the chip, whose file system it will mount.

    Raises:
        Failure: it looks for its file system elsewhere than where the chip has it.
    """
    try:
        firmware = firmware.on(chip.flash)
        place = firmware.place(chip.flash)
    except BadLayout as refused:
        raise Failure(
            f"{firmware.text} does not go onto {chip.flash // 1024} KB of flash: {refused}",
            "leave --firmware out",
        ) from refused
    with console.busy("looking for its file system"):
        there = image.blocks(chips.read(port, place.offset, 2 * image.BLOCK))
    if there != place.blocks:
        found = f"one of {there} blocks is there" if there else "none is there"
        raise Failure(
            f"{firmware.text} looks for a file system of {place.blocks} blocks at "
            f"{place.offset:#x}, and {found}: the board would lose its files",
            "`mipy flash` writes everything; a chip of the fleet keeps identity and settings",
        )
    return firmware
