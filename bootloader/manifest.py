"""Manifests as lines: the signed part's hash, and reading what has been verified."""

from binascii import hexlify
from hashlib import sha256
from micropython import const

MAX = const(8192)
PREFIX = b"ota-manifest-v1\0"


class Rejected(Exception):
    """Content breaks a rule; the argument is the reason code on the wire."""


def hexa(digest):
    return hexlify(digest).decode()


def is_hex(text):
    return not text.strip("0123456789abcdef")


def signed(f, prefix, longest=161):
    """Hash the open file `f` up to its `end` line; return (digest, what the signatures sign).

    The file is left at the first byte behind `end`. Raises Rejected: "size", "syntax".
    """
    plain = sha256()
    with_prefix = sha256(prefix)
    total = 0
    while True:
        line = f.readline(longest)
        total += len(line)
        if total > MAX:
            raise Rejected("size")
        if line[-1:] != b"\n":
            raise Rejected("syntax")
        plain.update(line)
        with_prefix.update(line)
        if line == b"end\n":
            return plain.digest(), with_prefix.digest()


class Manifest:
    """The values of a manifest that is known to be good, by its digest or manifest_syntax.py.

    `files()` yields each file's (name, size, sha256 as hex) and can be used once.
    """

    def __init__(self, f):
        self._f = f
        self.image = None  # slots.check_confirmed() has found it
        self.app = self.cls = self.mpy = self.arch = self.entry = ""
        self.seq = self.floor = self.total = 0
        while True:
            key, value = f.readline().decode().split(None, 1)
            value = value.rstrip()
            if key == "seq" or key == "floor" or key == "total":
                value = int(value)
            setattr(self, "cls" if key == "class" else key, value)
            if key == "total":
                return

    def files(self):
        while True:
            parts = self._f.readline().decode().split()
            if parts[0] != "file":
                return
            yield parts[1], int(parts[2]), parts[3]
