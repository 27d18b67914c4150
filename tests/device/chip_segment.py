"""What only a real ESP8266 can tell about its ROMFS segment (docs/firmware.md has the commands).

`now()` writes the segment's last sector 1,000 times and looks at once; `lives()`, run by /main.py,
looks after a reset each time. Nothing else on the board is touched. Each prints one line.
"""

import esp
import machine
import os
import time
import vfs
from hashlib import sha256

_SECTOR = 4096
_AT = 0x100000 - _SECTOR
_BYTES = 256


def now(turns=1000):
    """How often the map shows old bytes right after a write, and how fast it is hashed."""
    segment = memoryview(vfs.rom_ioctl(2, 0))
    seen = segment[len(segment) - _SECTOR :][:_BYTES]
    read = bytearray(_BYTES)
    kept = stale = 0
    for n in range(turns):
        bytes(seen)  # now the cache has it
        data = _write(n)
        esp.flash_read(_AT, read)
        kept += read == data
        stale += bytes(seen) != data
    begin = time.ticks_us()
    sha256(segment[:65536]).digest()
    took = time.ticks_diff(time.ticks_us(), begin)
    print("kept", kept, "of", turns, "stale", stale, "hash of 64 KB", took, "us")


def lives(turns=1000):
    """How often the map shows something else than what the life before has written."""
    memory = machine.RTC()
    said = memory.memory()
    n, wrong = (int(one) for one in (said or b"0 0").split())
    segment = memoryview(vfs.rom_ioctl(2, 0))
    if n:
        wrong += bytes(segment[len(segment) - _SECTOR :][:_BYTES]) != _pattern(n)
    if n == turns:
        memory.memory(b"")
        os.remove("/main.py")
        print("lives", turns, "wrong", wrong)
        return
    _write(n + 1)
    memory.memory(b"%d %d" % (n + 1, wrong))
    machine.reset()


def _write(n):
    data = _pattern(n)
    esp.flash_erase(_AT // _SECTOR)
    esp.flash_write(_AT, data)
    return data


def _pattern(n):
    return bytes([(n + at) & 255 for at in range(_BYTES)])
