"""Makes the ROMFS image that a slot, or the boot stage, executes in place from.

In a life of its own, in which nothing of the old image was mounted or imported: names and bytecode
are used where they lie. And the next life mounts it, since the chip may show this one what it had
in its cache. Format: docs of MicroPython, "The ROMFS filesystem format" (extmod/vfs_rom.c).
"""

import esp
import os
from hashlib import sha256
from micropython import const

from bootloader import in_place, slots
from bootloader.manifest import Manifest, hexa

_START = const(0xB0000)  # of the segment, in the flash
_SECTOR = const(4096)
_PIECE = const(256)
_MAGIC = b"\xd2\xcd\x31"
_DATA = const(2)  # kinds of records
_FOLDER = const(4)
_FILE = const(5)
_STAGE = "/bootloader"
_TRIES = const(3)


class _Writer:
    """Writes to flash from `at` on, sector by sector, and the first four bytes last.

    Without them there is no image: a cut leaves either the whole or nothing that mounts.
    """

    def __init__(self, at):
        self._start = self._at = at
        self._buf = bytearray(_PIECE)
        self._n = 0
        self._first = None
        self._hash = sha256()
        self.length = 0

    def write(self, data):
        self._hash.update(data)
        data = memoryview(data)
        self.length += len(data)
        while len(data):
            n = min(_PIECE - self._n, len(data))
            self._buf[self._n : self._n + n] = data[:n]
            self._n += n
            data = data[n:]
            if self._n == _PIECE:
                self._flush()

    def _flush(self):
        buf = memoryview(self._buf)
        n = self._n + 3 & ~3
        for i in range(self._n, n):
            buf[i] = 255
        if self._at % _SECTOR == 0:
            esp.flash_erase(self._at // _SECTOR)
        if self._first is None:
            self._first = bytes(buf[:4])
            esp.flash_write(self._at + 4, buf[4:n])
        else:
            esp.flash_write(self._at, buf[:n])
        self._at += n
        self._n = 0

    def end(self):
        """Return the image's hash if the flash holds it now, else None."""
        if self._n:
            self._flush()
        esp.flash_write(self._start, self._first)
        h = sha256()
        left = self.length
        at = self._start
        while left:
            # Not through the map, which may show what was there before.
            buf = memoryview(self._buf)[: min(left, _PIECE)]
            esp.flash_read(at, memoryview(self._buf)[: len(buf) + 3 & ~3])
            h.update(buf)
            at += len(buf)
            left -= len(buf)
        digest = self._hash.digest()
        return digest if h.digest() == digest else None


def make_images(slot, digest16, app, stage):
    """Make the image of `slot` if `app`, and the boot stage's if `stage`, as far as one is due.

    The files are checked, the slot's manifest has that digest, and the boot stage runs from
    LittleFS. Return whether there was anything to do.
    """
    tried = app and _make_slot(slot, digest16)
    return stage and _make_stage() or tried


def _make_slot(slot, digest16):
    def files():
        with open(slots.manifest_path(slot), "rb") as f:
            yield from Manifest(f).files()

    return _make(
        in_place.note(slot), digest16, in_place.region(slot), slots.path(slot) + "/", files
    )


def _make_stage():
    def files():
        for name in sorted(os.listdir(_STAGE)):
            if name[-4:] == ".mpy":
                name = _STAGE[1:] + "/" + name
                yield name, os.stat("/" + name)[6], None

    return _make(in_place.STAGE_NOTE, b"", (in_place.STAGE, in_place.region(0)[0]), "/", files)


def _make(path, key, region, root, files):
    """Make an image and note it in the file `path`, behind `key`; return whether it was due.

    Until it is right the note is the key and one byte, how often that was tried: it never names
    what is not there, and where it cannot be written, nothing is. Flash that does not keep an image
    is not to be worn out by a board that wakes each minute: three tries, and then one boot in 64.
    """
    n = len(key)
    noted = in_place.read(path)
    tries = noted[n] if len(noted) == n + 1 and noted[:n] == key else 0
    if tries < _TRIES:
        _store(path, key + bytes((tries + 1,)))
    elif os.urandom(1)[0] > 3:
        return False
    noted = _write(region, root, files)
    if noted:
        _store(path, key + noted)
    return True


def _store(name, noted):
    f = open(name, "wb")
    try:
        f.write(noted)
    finally:
        f.close()


def _write(region, root, files):
    """Write the image of `files()` below `root`; return its length and hash, or None.

    `files()` yields (name, size, SHA-256 as hex or None), sorted by name.
    """
    at, most = region
    sizes = _folder_sizes(files())
    head = _MAGIC + _varint(sizes[""])
    if len(head) + sizes[""] > most:
        print("image:", root, "does not fit")
        return None
    w = _Writer(_START + at)
    w.write(head)
    inside = []  # the folders that are open
    for name, size, sha in files():
        folders = name.split("/")
        last = folders.pop()
        for i in range(len(folders)):
            if folders[: i + 1] != inside[: i + 1]:
                _begin(w, _FOLDER, folders[i], sizes["/".join(folders[: i + 1])])
        inside = folders
        data = bytes((_DATA,)) + _varint(size)
        _begin(w, _FILE, last, len(data) + size)
        w.write(data)
        if not _copy(w, root + name, size, sha):
            print("image:", name, "is damaged")
            return None
    digest = w.end()
    if not digest:
        print("image: the flash does not keep it")
        return None
    print("image:", root, w.length)
    return w.length.to_bytes(4, "little") + digest


def _folder_sizes(files):
    """How many bytes the records of each folder take, by its path; "" is the whole."""
    sizes = {"": 0}
    for name, size, _ in files:
        parts = name.split("/")
        for i in range(1, len(parts)):
            sizes.setdefault("/".join(parts[:i]), 0)
        sizes["/".join(parts[:-1])] += _record(parts[-1], 1 + len(_varint(size)) + size)
    # The deepest first: what lies in a folder is known when its own record is counted.
    for path in sorted(sizes, key=lambda path: -len(path)):
        if path:
            parts = path.split("/")
            sizes["/".join(parts[:-1])] += _record(parts[-1], sizes[path])
    return sizes


def _record(name, size):
    """Bytes of a record whose payload is a name and `size` bytes more."""
    n = len(_varint(len(name))) + len(name) + size
    return 1 + len(_varint(n)) + n


def _begin(w, kind, name, size):
    name = _varint(len(name)) + name.encode()
    w.write(bytes((kind,)) + _varint(len(name) + size) + name)


def _varint(n):
    """`n` in sevens of bits, the highest first, each but the last with the top bit set."""
    out = bytes((n & 127,))
    while n > 127:
        n >>= 7
        out = bytes((n & 127 | 128,)) + out
    return out


def _copy(w, path, size, sha):
    h = sha256()
    buf = bytearray(_PIECE)
    f = open(path, "rb")
    try:
        while size > 0:
            n = f.readinto(buf)
            if not n:
                return False
            piece = memoryview(buf)[: min(n, size)]
            h.update(piece)
            w.write(piece)
            size -= len(piece)
    finally:
        f.close()
    return not size and (sha is None or hexa(h.digest()) == sha)
