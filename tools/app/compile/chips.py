"""What is known about a class of boards: its processor, and how much it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """What a family of boards can hold; sizes in bytes.

    Attributes:
        heap: what an app's modules may take.
        flash: size of the file system.
        taken: bytes of heap that a module takes for each of its bytecode: from LittleFS 1.6, 0.85
            where the build that `mipy flash` takes executes it in place.
    """

    march: str
    heap: int
    flash: int
    taken: float = 1.6


# The first entry that a class's name, less "generic" and hyphens, begins with.
CHIPS = {
    "esp82661m": Chip("xtensa", 18 * 1024, 392 * 1024),
    "esp8266": Chip("xtensa", 18 * 1024, 1004 * 1024, 0.85),
    **{
        f"esp32{kind}": Chip("rv32imc", 100 * 1024, 2048 * 1024)
        for kind in ("c2", "c3", "c5", "c6", "h2", "p4")
    },
    "esp32": Chip("xtensawin", 100 * 1024, 2048 * 1024),
}


def chip_of(cls: str) -> Chip | None:
    """What is known about a class of boards; None when its name tells nothing."""
    name = cls.replace("generic", "").replace("-", "")
    return next((chip for prefix, chip in CHIPS.items() if name.startswith(prefix)), None)
