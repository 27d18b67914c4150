"""Virtual boards for tests: each at an address of its own."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mipy_ota.tools.sim.board import Chip, Life, VirtualBoard
from tests.support import loopback

running: list[Board] = []
"""Boards that have been started and not stopped, oldest first."""


class Board(VirtualBoard):
    """A virtual board; without an `address` it gets one that nobody else has.

    Unless `image_lives` are asked for, those that do nothing but make images to execute in place
    from (bootloader/image.py) are not seen by `life` and `lives`: the next one is what a test
    asked for.
    """

    def __init__(
        self,
        folder: Path | str,
        chip: Chip = "esp8266",
        address: str = "",
        *,
        image_lives: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(folder, chip, address or loopback.address(), **{"clock": "own", **options})
        self._image_lives = image_lives

    def life(self, *args: Any, **options: Any) -> Life:
        while self._only_images(life := super().life(*args, **options)):
            pass
        return life

    def _ended(self, current: Any, status: int, passed: int) -> Life:
        life = super()._ended(current, status, passed)
        if self._only_images(life):
            self.lives.remove(life)
        return life

    def _only_images(self, life: Life) -> bool:
        return (
            not self._image_lives
            and life.cause == "reset"
            and life.console.startswith("image:")
            and "\nota:" not in life.console
        )

    def write(self, path: str, data: bytes) -> None:
        """Write one file, which is what runs then: no image of the former one is believed."""
        super().write(path, data)
        note = "/bootloader/image"
        if path.startswith("/app_slots/"):
            note = f"/state/image_{path.split('/')[2]}"
        elif not (path.startswith("/bootloader/") and path.endswith(".mpy")):
            return
        if not self._image_lives and note in self.files():
            self.remove(note)

    def start(self, *args: Any, **options: Any) -> None:
        super().start(*args, **options)
        running.append(self)

    def stop(self) -> None:
        super().stop()
        if self in running:
            running.remove(self)

    def __enter__(self) -> Board:
        return self

    @property
    def mac(self) -> str:
        """The MAC address of its station, as its network module has it."""
        return f"02:{ip_address(self.address).packed.hex(':')}:01"
