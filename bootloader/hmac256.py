"""HMAC-SHA256 (RFC 2104), which no stock firmware has."""

from hashlib import sha256


def _pad(key, x):
    block = bytearray(64)
    block[: len(key)] = key
    for i in range(64):
        block[i] ^= x
    return sha256(block)


def mac(key, *parts):
    """Return HMAC-SHA256 of the joined `parts` (bytes) under `key` (at most 64 bytes)."""
    inner = _pad(key, 0x36)
    for part in parts:
        inner.update(part)
    outer = _pad(key, 0x5C)
    outer.update(inner.digest())
    return outer.digest()
