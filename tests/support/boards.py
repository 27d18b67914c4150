"""Virtual boards for tests: each at an address of its own."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import loopback


class Board(VirtualBoard):
    """A virtual board; without an `address` it gets one that nobody else has."""

    def __init__(
        self, folder: Path | str, chip: Chip = "esp8266", address: str = "", **options: Any
    ) -> None:
        super().__init__(folder, chip, address or loopback.address(), **options)

    def __enter__(self) -> Board:
        return self

    @property
    def mac(self) -> str:
        """The MAC address of its station, as its network module has it."""
        return f"02:{ip_address(self.address).packed.hex(':')}:01"
