"""Deflated content from a server: bounded in length and time, and never held."""

import deflate
import time
from errno import ECONNRESET
from hashlib import sha256
from io import IOBase
from micropython import const

from bootloader import slots
from bootloader.http_client import Connection
from bootloader.manifest import MAX, Rejected, hexa

_LIMIT = const(30000)  # ms for a body, and two more for each byte: 512 bytes a second


class _Body(IOBase):
    """What the decompressor reads a body of `connection` from: one byte at a time."""

    def __init__(self, connection):
        self._connection = connection

    def readinto(self, buf):
        c = self._connection
        if c.left <= 0:
            return 0
        try:
            buf[0] = c.byte()
        except OSError as e:
            if e.args[0] != ECONNRESET:
                raise
            return 0  # it breaks off: truncated
        c.left -= 1
        return 1


class Downloads(Connection):
    """A connection to the server at `url`, for content. An installer of a release uses body()."""

    def body(self, path, most=MAX):
        """Ask for `path`; return a stream of its inflated body, of at most `most` bytes.

        The transfer has an end in time, which grows with `most`. Raises Rejected("size") for a body
        that is longer than such content ever is when deflated.
        """
        if self.ask("GET " + path)[0] > most + most // 8 + 64:
            raise Rejected("size")
        self.end = time.ticks_add(time.ticks_ms(), _LIMIT + 2 * most)
        return deflate.DeflateIO(_Body(self), deflate.RAW, 10)

    def save(self, path, name, most, h=None, buf=None):
        """Write the inflated body of `path` to the file `name`; Rejected("size") beyond `most`.

        `h` takes the hash of what was written. Returns how much less than `most` that was.
        """
        stream = self.body(path, most)
        buf = buf or bytearray(256)
        view = memoryview(buf)
        f = open(name, "wb")
        try:
            while True:
                n = _inflate(stream, buf)
                if not n:
                    return most
                most -= n
                if most < 0:
                    raise Rejected("size")
                if h:
                    h.update(view[:n])
                f.write(view[:n])
        finally:
            f.close()


def _inflate(stream, buf):
    """readinto() that tells a broken stream, which is refused, from a broken connection."""
    try:
        return stream.readinto(buf)
    except EOFError:
        raise Rejected("truncated")
    except OSError as e:
        if e.args[0] == 22:
            raise Rejected("hash")
        raise


def fetch(connection, slot, active, name, size, sha):
    """Bring the file `name` of `size` bytes and hash `sha` (hex) into `slot`, in the plain way.

    Return "kept" or "loaded". `active` is not used here. Memory does not depend on the size.
    Raises OSError, and Rejected: "size", "truncated", "hash".
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
