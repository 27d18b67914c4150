"""Where a slot executes in place: a ROMFS image of its files in raw flash, beside the heap.

The firmware variant with a ROMFS segment maps it into memory, and modules run from there. The
slot's files on LittleFS stay the release; its image is a copy of them that is hashed before each
mount, and made anew by image.py when it is not right: lost is nothing that the files do not have.
"""

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


def read(path):
    """Return a note, of at most 53 bytes; none where there is none."""
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
    noted = read(note(slot))
    length = int.from_bytes(noted[16:20], "little")
    if noted[:16] != digest16 or not 0 < length <= _LENGTH:
        return None
    at = region(slot)[0]
    m = m[at : at + length]
    return m if sha256(m).digest() == noted[20:] else None


def mount(image):
    """Mount what image_of() has found; return where."""
    try:
        vfs.umount("/rom")  # pyright: ignore
    except OSError as e:
        del e  # as ever; but an adoption that was cut has left the firmware's mount there
    vfs.mount(vfs.VfsRom(image), "/rom")  # pyright: ignore
    return "/rom"
