"""What manifests and trust files have in common: lines, ``end``, signatures.

1. A file is a body, which ends with the first line ``end``, and then only ``sig`` lines.
2. ``sig <key id> <base64>``, with base64 of 256 or 384 bytes in canonical form; every line ends
   with a line feed; nothing follows the last one.
3. A signature is over SHA-256 of a prefix, which says what kind of file it is, and the body.
4. Signatures by unknown keys are skipped. A key counts once, however often it signs.
5. A body holds printable ASCII and line feeds; a value follows its key after one space.
6. Numbers are decimal, without sign and leading zeros, below 2^31.

Rules 1 to 4 are applied before a byte of the body is understood.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from . import limits, rsa
from .reasons import Refused
from .rsa import PublicKey

_SIGNATURE = re.compile(r"sig ([0-9a-f]{16}) ([A-Za-z0-9+/=]+)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_NAME = re.compile(rf"[A-Za-z0-9_./-]{{1,{limits.NAME_BYTES}}}")
_LINE = re.compile(r"[ -~]*")


@dataclass(frozen=True)
class Signature:
    """One ``sig`` line."""

    key_id: str
    value: bytes

    def encode(self) -> bytes:
        """The line, with its line feed."""
        return b"sig %s %s\n" % (self.key_id.encode(), base64.b64encode(self.value))


@dataclass(frozen=True)
class Envelope:
    """A file taken apart, not yet understood."""

    body: bytes
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the body, as hex: what a release is called everywhere."""
        return hashlib.sha256(self.body).hexdigest()

    def signers(self, prefix: bytes, keys: Iterable[PublicKey]) -> set[str]:
        """Ids of those ``keys`` that have signed this (rules 3 and 4)."""
        known = {key.id: key for key in keys}
        digest = hashlib.sha256(prefix + self.body).digest()
        return {
            signature.key_id
            for signature in self.signatures
            if signature.key_id in known
            and known[signature.key_id].verifies(signature.value, digest)
        }


def take_apart(raw: bytes, max_bytes: int, max_signatures: int) -> Envelope:
    """Apply rules 1 and 2.

    Raises:
        Refused: ``size`` when larger than ``max_bytes``, else ``syntax``.
    """
    if len(raw) > max_bytes:
        raise Refused("size", f"{len(raw)} bytes, {max_bytes} are allowed")
    start = raw.find(b"\nend\n")
    if start < 0:
        raise Refused("syntax", "there is no line 'end'")
    cut = start + len(b"\nend\n")
    signatures = tuple(_signature(line) for line in _split(raw[cut:]))
    if len(signatures) > max_signatures:
        raise Refused("syntax", f"more than {max_signatures} signatures")
    return Envelope(raw[:cut], signatures)


def _split(data: bytes) -> list[bytes]:
    if not data:
        return []
    if not data.endswith(b"\n"):
        raise Refused("syntax", "the last line does not end with a line feed")
    return data[:-1].split(b"\n")


def _signature(line: bytes) -> Signature:
    match = _SIGNATURE.fullmatch(line.decode("latin-1"))
    if not match:
        raise Refused("syntax", "something else than a signature follows 'end'")
    value = rsa.decode(match[2])
    if len(value) not in limits.KEY_BYTES:
        raise Refused("syntax", "a signature has a length that no key has")
    return Signature(match[1], value)


def add_signature(
    raw: bytes, prefix: bytes, private: RSAPrivateKey, max_bytes: int, max_signatures: int
) -> bytes:
    """``raw`` with one more signature; one by the same key is replaced.

    Raises:
        Refused: ``syntax`` or ``size`` when the result would break rules 1 or 2.
    """
    envelope = take_apart(raw, max_bytes, max_signatures)
    key_id = PublicKey.of(private).id
    value = rsa.sign(private, hashlib.sha256(prefix + envelope.body).digest())
    kept = [signature for signature in envelope.signatures if signature.key_id != key_id]
    lines = [signature.encode() for signature in [*kept, Signature(key_id, value)]]
    signed = envelope.body + b"".join(lines)
    take_apart(signed, max_bytes, max_signatures)
    return signed


class Lines:
    """Reads a body line by line, in the one order that is allowed (rules 5 and 6)."""

    def __init__(self, body: bytes) -> None:
        self._lines = [line.decode("latin-1") for line in body[:-1].split(b"\n")]
        self._at = 0

    def peek(self) -> str:
        """The key of the next line."""
        return self._lines[self._at].split(" ", 1)[0]

    def line(self, max_bytes: int = limits.LINE_BYTES) -> str:
        """The next line, whole."""
        line = self._lines[self._at]
        self._at += 1
        if not _LINE.fullmatch(line):
            raise Refused("syntax", f"line {self._at} holds something else than printable ASCII")
        if len(line) >= max_bytes:
            raise Refused("syntax", f"line {self._at} is longer than {max_bytes} bytes")
        return line

    def value(self, key: str, max_bytes: int = limits.LINE_BYTES) -> str:
        """What follows ``key``, which must be the next line's, and a space."""
        line = self.line(max_bytes)
        if not line.startswith(key + " ") or len(line) == len(key) + 1:
            raise Refused("syntax", f"line {self._at} should be '{key} ...', not '{line[:40]}'")
        return line[len(key) + 1 :]

    def fields(self, key: str, count: int, max_bytes: int = limits.LINE_BYTES) -> list[str]:
        """The value of ``key`` as exactly ``count`` words, one space between them."""
        words = self.value(key, max_bytes).split(" ")
        if len(words) != count or "" in words:
            raise Refused("syntax", f"line {self._at}: '{key}' takes {count} values")
        return words

    def end(self) -> None:
        """The next line must be ``end``."""
        if self.line() != "end":
            raise Refused("syntax", f"line {self._at} does not belong here")


def number(text: str) -> int:
    """Rule 6. Raises Refused: ``syntax``."""
    if not _NUMBER.fullmatch(text) or int(text) >= limits.NUMBER:
        raise Refused("syntax", f"'{text[:40]}' is not a whole number from 0 to 2147483647")
    return int(text)


def name(text: str) -> str:
    """A path inside a slot: allowed letters, no empty, hidden or climbing part.

    Raises:
        Refused: ``name``.
    """
    path = f"/{text}/"
    if not _NAME.fullmatch(text) or "//" in path or "/." in path or ".." in path:
        raise Refused("name", f"'{text[:80]}'")
    return text


def word(text: str) -> str:
    """A name, never a path: an app's, a class', a board's. Raises Refused: ``name``."""
    if "/" in text:
        raise Refused("name", f"'{text[:80]}' has a slash")
    return name(text)


def address(text: str) -> str:
    """A server's address. Boards speak http alone: what they take is signed or sealed.

    Raises Refused: ``syntax``.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0
        usable = usable and not (parts.username or parts.query or parts.fragment or " " in text)
    except ValueError:
        usable = False
    if not usable:
        raise Refused(
            "syntax",
            f"'{text[:80]}' is no address like http://192.168.1.2:8266 (boards speak no https)",
        )
    return text
