"""The plain way to bring a file: kept when it is right, else downloaded whole."""

from hashlib import sha256

from bootloader import slots
from bootloader.manifest import Rejected, hexa


def fetch(connection, slot, active, name, size, sha):
    """Bring the file `name` of `size` bytes and hash `sha` (hex) into the slot `slot`.

    Return "kept" or "loaded". `active` is not used here. Memory does not depend on the size.
    Raises OSError, and Rejected:
    "size", "truncated", "hash".
    """
    path = "/app_slots/%s/%s" % (slot, name)
    buf = bytearray(256)
    have = slots.file_hash(path, buf)
    if have and hexa(have) == sha:
        return "kept"
    h = sha256()
    if connection.save("/d/v1/files/" + sha, path, size, h, buf):
        raise Rejected("truncated")
    if hexa(h.digest()) != sha:
        raise Rejected("hash")
    return "loaded"
