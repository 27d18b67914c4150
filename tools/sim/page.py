"""The memory that a board's process shares with the host; its other side is `chip/_page.py`.

It holds what a chip holds outside its heap (RTC memory, the Wi-Fi SDK's copy of the credentials,
pin levels), the air around the board, and the counters. Being a file, it outlives the process.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SIZE = 16384
_NAMES = (
    "ops erases programmed peak sent received cause sleep radio clock rtc wifi started interrupt"
    " dns"
)
_CLOCK_NAMES = "now lease far held asked rest"
_CLOCK = 192
_FIELDS = {name: 4 * n for n, name in enumerate(_NAMES.split())}
_FIELDS |= {name: _CLOCK + 4 * n for n, name in enumerate(_CLOCK_NAMES.split())}
_RTC = 256
_LEVEL_IN = 2560
_LEVEL_OUT = 2624
_AIR = 4096
COUNTERS = ("ops", "erases", "programmed", "peak", "sent", "received")


class Page:
    """A board's shared memory.

    Args:
        path: the file; made, and filled with zeroes, when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists() or path.stat().st_size != _SIZE:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    def close(self) -> None:
        self._memory.close()

    def get(self, name: str) -> int:
        return struct.unpack_from("<I", self._memory, _FIELDS[name])[0]

    def set(self, name: str, value: int) -> None:
        struct.pack_into("<I", self._memory, _FIELDS[name], value)

    def dump(self) -> bytes:
        return self._memory[:_AIR]

    def load(self, memory: bytes) -> None:
        radio = self.get("radio")
        self._memory[:_AIR] = memory
        self.set("radio", radio)

    def begin_life(self, cause: int, clock: int) -> None:
        """Counters to zero; `cause` is the number of the event that started this life."""
        for name in (*COUNTERS, *_CLOCK_NAMES.split()):
            self.set(name, 0)
        self.set("cause", cause)
        self.set("clock", clock)
        self.set("sleep", 0)
        self.set("interrupt", 0)

    def forget_rtc(self) -> None:
        """What a power cut takes: RTC memory and the pins' levels."""
        self.set("rtc", 0)
        self._memory[_RTC : _RTC + 2048] = bytes(2048)
        self._memory[_LEVEL_OUT : _LEVEL_OUT + 64] = bytes(64)

    @property
    def rtc(self) -> bytes:
        return self._memory[_RTC : _RTC + self.get("rtc")]

    @rtc.setter
    def rtc(self, data: bytes) -> None:
        self._memory[_RTC : _RTC + len(data)] = data
        self.set("rtc", len(data))

    def drive(self, pin: int, level: int | None) -> None:
        self._memory[_LEVEL_IN + pin] = 0 if level is None else 1 + level

    def level(self, pin: int) -> int | None:
        """What the board drives the pin to; None while it is an input."""
        raw = self._memory[_LEVEL_OUT + pin]
        return raw - 1 if raw else None

    def set_air(self, air: Mapping[str, Any]) -> None:
        text = json.dumps(air).encode()
        if len(text) > _SIZE - _AIR - 4:
            raise ValueError("too many networks in the air")
        struct.pack_into("<I", self._memory, _AIR, len(text))
        self._memory[_AIR + 4 : _AIR + 4 + len(text)] = text
        # The number goes last: the board reads the text when it sees a new one.
        self.set("radio", (self.get("radio") + 1) & 0xFFFFFFFF)
