"""Where a slot executes in place: a ROMFS image of its files in raw flash, beside the heap.

The firmware variant with a ROMFS segment maps it into memory, and modules run from there. The
slot's files on LittleFS stay the release; its image is a copy of them that is hashed before each
mount, and made anew by image.py when it is not right: lost is nothing that the files do not have.
"""

import os
import sys
from hashlib import sha256
from micropython import const

try:
    import vfs
except ImportError:  # MicroPython 1.22
    vfs = None

STAGE = const(0)  # offsets in the segment: of the boot stage's image,
_SLOT = const(0x14000)  # of slot a's, and how long it may be; slot b's lies behind it
_LENGTH = const(0x1E000)
_SIZE = const(0x50000)  # of the segment; no other firmware has it where image.py writes
_TRIES = const(3)
STAGE_NOTE = "/bootloader/image"  # its image's length in four bytes, and its hash


def segment():
    """The segment as it is mapped, a memoryview; None where the firmware has none."""
    if sys.platform != "esp8266":
        return None
    try:
        m = vfs.rom_ioctl(2, 0)  # pyright: ignore
        return m if len(m) == _SIZE else None
    except (AttributeError, TypeError):
        return None


def region(slot):
    """Offset and length of what `slot` has of the segment."""
    return _SLOT + slot * _LENGTH, _LENGTH


def note(slot):
    """Path of the file that says what image was made: manifest's digest, its half, and hash.

    16 bytes of the one, the image's length in four, 32 of the other.
    """
    return "/state/image_" + "ab"[slot]


def tries(path, key):
    """How often the image that the note `path` is for was begun, and not finished, with that key.

    Such a note is the key and one byte; a slot's key is its manifest's digest, its half.
    """
    noted = _read(path)
    n = len(key)
    return noted[n] if len(noted) == n + 1 and noted[:n] == key else 0


def is_due(path, key):
    """Whether to try to make that image: three times, and then at one boot in 64.

    Flash that does not keep it is not to be worn out by a board that wakes each minute.
    """
    return tries(path, key) < _TRIES or os.urandom(1)[0] < 4


def _read(path):
    try:
        f = open(path, "rb")
    except OSError:
        return b""
    try:
        return f.read(53)
    finally:
        f.close()


def image_of(slot, digest16):
    """Return the image of `slot`, if it is right and of the manifest with that digest; else None.

    A memoryview of mapped flash; all of it has been hashed.
    """
    m = segment()
    if m is None:
        return None
    noted = _read(note(slot))
    length = int.from_bytes(noted[16:20], "little")
    if noted[:16] != digest16 or not 0 < length <= _LENGTH:
        return None
    at = region(slot)[0]
    m = m[at : at + length]
    return m if sha256(m).digest() == noted[20:] else None


def mount(image):
    """Mount what image_of() has found; return where."""
    vfs.mount(vfs.VfsRom(image), "/rom")  # pyright: ignore
    return "/rom"
