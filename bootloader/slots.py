"""What is in a slot, and whether it is what the manifest says."""

import os
from hashlib import sha256
from micropython import const

from bootloader import in_place, record
from bootloader.manifest import PREFIX, Manifest, Rejected, hexa, signed

_DIR = const(0x4000)
_MOST = const(64)


def path(slot):
    return "/app_slots/" + "ab"[slot]


def manifest_path(slot):
    return path(slot) + "/manifest"


def file_hash(name, buf):
    """SHA-256 of the file `name`, read through `buf`; None when there is no such file."""
    h = sha256()
    try:
        f = open(name, "rb")
    except OSError:
        return None
    try:
        view = memoryview(buf)
        while True:
            n = f.readinto(buf)
            if not n:
                return h.digest()
            h.update(view[:n])
    finally:
        f.close()


class Names:
    """The listed names as four bytes of hash each, so that their memory is fixed."""

    def __init__(self):
        self._hashes = bytearray(4 * _MOST)
        self._count = 0

    def add(self, name):
        i = self._count
        self._hashes[i : i + 4] = sha256(name.encode()).digest()[:4]
        self._count = i + 4

    def __contains__(self, name):
        h = sha256(name.encode()).digest()[:4]
        hashes = self._hashes
        for i in range(0, self._count, 4):
            if hashes[i] == h[0] and hashes[i : i + 4] == h:
                return True
        return False


def sweep(slot, names):
    """Remove every file of the slot that is not in `names`, and folders left empty.

    Raises OSError when one stays.
    """
    _sweep(path(slot), "", names)


def _sweep(root, inside, names):
    folder = root + "/" + inside if inside else root
    # A list: LittleFS may skip entries when a folder changes while it is read.
    for entry in list(os.ilistdir(folder)):
        name = inside + "/" + entry[0] if inside else entry[0]
        if entry[1] == _DIR:
            _sweep(root, name, names)
            if not os.listdir(root + "/" + name):
                os.rmdir(root + "/" + name)
        elif name != "manifest" and name not in names:
            os.remove(root + "/" + name)


def check_files(slot, source):
    """Hash every file of the slot against the manifest in the file `source`; remove the others.

    Returns the Manifest. Raises Rejected: "hash", "extra", or what the manifest's syntax breaks.
    """
    buf = bytearray(256)
    names = Names()
    root = path(slot) + "/"
    with open(source, "rb") as f:
        m = Manifest(f)
        for name, size, sha in m.files():
            names.add(name)
            h = file_hash(root + name, buf)
            if not h or hexa(h) != sha or os.stat(root + name)[6] != size:
                raise Rejected("hash")
    try:
        sweep(slot, names)
    except OSError:
        raise Rejected("extra")
    return m


def digest16(slot):
    """Digest of the slot's manifest, its first 16 bytes; None if missing or truncated."""
    try:
        with open(manifest_path(slot), "rb") as f:
            return signed(f, PREFIX)[0][:16]
    except (OSError, Rejected):
        return None


def check_confirmed(r, slot):
    """Return the Manifest of a slot whose content is what the record has for it.

    Its `image` is what the slot executes in place from, where there is one; its files have to be
    whole where there is none. Returns None otherwise, with a line on the console. Neither
    signature nor floor is asked: what a board once confirmed it can boot, also when the key was
    revoked since.
    """
    digest = r.digests[slot]
    if digest == record.ZERO or digest16(slot) != digest:
        return None
    try:
        image = in_place.image_of(slot, digest)
        if image:
            with open(manifest_path(slot), "rb") as f:
                m = Manifest(f)
            m.image = image
            return m
        return check_files(slot, manifest_path(slot))
    except (OSError, Rejected) as e:
        print("slot", "ab"[slot], repr(e))
        return None
