"""Orders that open a board's WebREPL for a while: what a debug key signs.

1. Lines as in ``envelope``, in this order: ``ota-unlock 1``, board, life, minutes, ``end``; then
   one signature.
2. ``life`` is what the board calls its life since its last reset, 16 hex digits: an order is good
   for that one only, and unlocking is a reset. ``minutes`` is 10, 20 ... 70.
3. A board takes it from a key of the role ``debug`` in its trust file, and from no other.
"""

import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from . import envelope
from .envelope import Lines
from .reasons import Refused
from .trust import Trust

HEADER = "ota-unlock 1"
PREFIX = b"ota-unlock-v1\0"
MINUTES = range(10, 71, 10)
_BYTES = 900
_SIGNATURES = 1
_LIFE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Unlock:
    """An order, understood."""

    board: str
    life: str
    minutes: int

    def sign(self, private: RSAPrivateKey) -> bytes:
        """The whole order. Raises Refused when a value breaks a rule."""
        body = f"{HEADER}\nboard {self.board}\nlife {self.life}\nminutes {self.minutes}\nend\n"
        raw = body.encode("ascii", "replace")
        parse(raw)
        return envelope.add_signature(raw, PREFIX, private, _BYTES, _SIGNATURES)


def parse(raw: bytes) -> Unlock:
    """Understand an order, signed or not.

    Raises:
        Refused: ``size``, ``syntax`` or ``name``.
    """
    lines = Lines(envelope.take_apart(raw, _BYTES, _SIGNATURES).body)
    if lines.line() != HEADER:
        raise Refused("syntax", f"the first line is not '{HEADER}'")
    board = envelope.word(lines.value("board"))
    life = lines.value("life")
    if not _LIFE.fullmatch(life):
        raise Refused("syntax", "a life is 16 lower-case hex digits")
    minutes = envelope.number(lines.value("minutes"))
    lines.end()
    if minutes not in MINUTES:
        raise Refused("size", "10, 20 ... 70 minutes are allowed")
    return Unlock(board, life, minutes)


def verify(raw: bytes, trust: Trust) -> Unlock:
    """Understand an order that a debug key of ``trust`` has signed.

    Raises:
        Refused: as ``parse``; ``unsigned``, or ``key`` when no debug key has.
    """
    sealed = envelope.take_apart(raw, _BYTES, _SIGNATURES)
    if not sealed.signatures:
        raise Refused("unsigned")
    if not sealed.signers(PREFIX, trust.valid("debug")):
        raise Refused("key")
    return parse(raw)
