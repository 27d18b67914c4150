"""Damaged files of the boot stage are set aside: to load one could hang the chip for ever.

Imported by boot.py at each start but a wake from deep sleep, for the half second that it takes.
Source, not bytecode: if this file is damaged, it raises. `sums` has a line for each file, with the
first bytes of its SHA-256 in hex, and at its end one for itself.
"""

import os
import sys
from binascii import hexlify
from hashlib import sha256

_FOLDER = "/bootloader/"
_HEX = 16  # digits of each hash
_PART = 256


def _hash(name, size=1 << 30):
    """Of the first `size` bytes of a file, as `sums` has it."""
    h = sha256()
    f = open(_FOLDER + name, "rb")
    try:
        while True:
            # No buffer: old stack frames would keep one on the app's heap.
            part = f.read(min(_PART, size))
            if not part:
                break
            h.update(part)
            size -= len(part)
    finally:
        f.close()
    return hexlify(h.digest())[:_HEX].decode()


def _set_aside():
    size = os.stat(_FOLDER + "sums")[6] - _HEX
    f = open(_FOLDER + "sums")
    try:
        f.seek(size)
        if f.read() != _hash("sums", size):
            print("ota: the list of the boot stage's hashes is damaged")
            return
        f.seek(0)
        for line in f:
            if " " in line:
                name, right = line.split()
                _check(name, right)
    finally:
        f.close()


def _check(name, right):
    try:
        # Twice: what was but read badly is not damaged.
        if _hash(name) == right or _hash(name) == right:
            return
        os.rename(_FOLDER + name, _FOLDER + name + ".bad")
        print("ota: damaged, and set aside:", _FOLDER + name)
    except OSError as e:
        print("ota:", _FOLDER + name, "is missing or damaged:", repr(e))
    print("what to do: flash the board anew with `mipy flash`")


try:
    _set_aside()
except OSError as e:
    print("ota: not checked:", repr(e))
sys.modules.pop("bootloader.damage").__dict__.clear()  # an old stack frame may keep the module
