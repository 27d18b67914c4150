"""Brings one file of a release into a slot; the boot stage runs this, with no app loaded.

Constant memory: one buffer, whatever the size of the file.
"""

import os
from binascii import hexlify
from errno import EINVAL
from hashlib import sha256

from bootloader.manifest import Rejected

_piece = memoryview(bytearray(256))


def fetch(connection, slot, active, name, size, sha):
    """Make `name` in `slot` the file of `size` bytes with the SHA-256 `sha` (hex text).

    One that is right already is kept, one that is equal in slot `active` copied, anything else
    read from `connection.body("/d/v1/files/<sha>", size)`; its folder is there already. Returns
    "kept", "copied" or "loaded". Raises Rejected("size"), ("truncated") or ("hash") for content
    that is not what the manifest lists, OSError when the flash is full or the network fails; the
    file may be left incomplete then.
    """
    path = "/app_slots/%s/%s" % (slot, name)
    if _matches(path, size, sha):
        return "kept"
    source = "/app_slots/%s/%s" % (active, name)
    if active != slot and _matches(source, size, sha):
        f = open(source, "rb")
        try:
            _store(f, path, size, sha)
        finally:
            f.close()
        return "copied"
    _store(connection.body("/d/v1/files/" + sha, size), path, size, sha)
    return "loaded"


def _matches(path, size, sha):
    try:
        if os.stat(path)[6] != size:
            return False
        f = open(path, "rb")
    except OSError:
        return False
    h = sha256()
    try:
        while True:
            n = f.readinto(_piece)
            if not n:
                return hexlify(h.digest()).decode() == sha
            h.update(_piece[:n])
    except OSError:  # a damaged block is no reason to stop: the file is written anew
        return False
    finally:
        f.close()


def _store(source, path, size, sha):
    h = sha256()
    left = size
    f = open(path, "wb")
    try:
        while True:
            # One byte more than is left to come tells a file that goes on from one that ends.
            n = _more(source, _piece[: min(left + 1, 256)])
            if not n:
                break
            if n > left:
                raise Rejected("size")
            left -= n
            h.update(_piece[:n])
            f.write(_piece[:n])
    finally:
        f.close()
    if left:
        raise Rejected("truncated")
    if hexlify(h.digest()).decode() != sha:
        raise Rejected("hash")


def _more(source, buffer):
    """readinto(), with what the decompressor raises at broken streams put in our terms."""
    try:
        return source.readinto(buffer)
    except EOFError:
        raise Rejected("truncated")
    except OSError as e:
        if e.errno == EINVAL:
            raise Rejected("hash")
        raise
