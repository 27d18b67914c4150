"""The known networks: encrypted, newest first, as [(ssid, password)] in bytes.

The key comes from the chip's id: the files are of no use on another board, while whoever holds
this one can read them.
"""

import machine
import os
from hashlib import sha256
from micropython import const

from bootloader import two_copies

_CBC = const(2)
_MOST = const(8)
_HEX = b"0123456789abcdefABCDEF"


def _key():
    return sha256(b"wifi1" + machine.unique_id()).digest()


def _aes(key, iv):
    from cryptolib import aes

    return aes(key, _CBC, iv)


def load():
    """Return the networks; none when nothing is stored or nothing decrypts."""
    key = _key()
    raw = two_copies.load("w", key)
    known = []
    if raw:
        plain = _aes(key, raw[:16]).decrypt(raw[16:])
        i = 0
        while i < len(plain) and plain[i]:
            j = i + 1 + plain[i]
            end = j + 1 + plain[j]
            known.append((plain[i + 1 : j], plain[j + 1 : end]))
            i = end
    return known


def store(known):
    """Store the networks, of which the newest eight are kept."""
    known = known[:_MOST]
    if known == load():
        return
    plain = b""
    for ssid, password in known:
        plain += bytes((len(ssid),)) + ssid + bytes((len(password),)) + password
    plain += bytes(16 - len(plain) % 16)
    key = _key()
    iv = os.urandom(16)
    two_copies.store("w", iv + _aes(key, iv).encrypt(plain), key)


def check(ssid, password):
    """Raise ValueError, with words for a person, unless such a network can exist."""
    if not 0 < len(ssid) <= 32:
        raise ValueError("a network's name has 1 to 32 bytes")
    n = len(password)
    # Both chips take 64 bytes, and those for the key itself: in hex, as it has 256 bits.
    if n and not (8 <= n <= 63 or n == 64 and not password.strip(_HEX)):
        raise ValueError("a password has 8 to 63 bytes, or 64 hex digits")


def add(ssid, password):
    """Remember a network (bytes; an empty password: it is open); the ninth oldest is forgotten.

    Raises ValueError for lengths that Wi-Fi does not know, OSError when flash is full.
    """
    check(ssid, password)
    store([(ssid, password)] + [k for k in load() if k[0] != ssid])


def remove(ssid):
    """Forget a network; return whether it was known."""
    known = load()
    left = [k for k in known if k[0] != ssid]
    if left:
        store(left)
    elif known:
        for copy in (1, 0):
            if "w" in os.listdir("/state/%d" % copy):
                os.remove("/state/%d/w" % copy)
    return left != known
