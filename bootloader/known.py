"""The known networks: encrypted, newest first, as [(ssid, password)] in bytes.

The key comes from the chip's id: the files are of no use on another board, while whoever holds
this one can read them.
"""

import machine
import os
from hashlib import sha256
from micropython import const

from bootloader import pair

_CBC = const(2)
_MOST = const(8)
_FILE = "/wifi.json"
_HEX = b"0123456789abcdefABCDEF"


def _key():
    return sha256(b"wifi1" + machine.unique_id()).digest()


def _aes(key, iv):
    from cryptolib import aes

    return aes(key, _CBC, iv)


def load():
    """Return the networks; none when nothing is stored or nothing decrypts."""
    key = _key()
    raw = pair.load("w", key)
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


def _store(known):
    if known == load():
        return
    plain = b""
    for ssid, password in known:
        plain += bytes((len(ssid),)) + ssid + bytes((len(password),)) + password
    plain += bytes(16 - len(plain) % 16)
    key = _key()
    iv = os.urandom(16)
    pair.store("w", iv + _aes(key, iv).encrypt(plain), key)


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
    _store([(ssid, password)] + [k for k in load() if k[0] != ssid][: _MOST - 1])


def remove(ssid):
    """Forget a network; return whether it was known."""
    known = load()
    left = [k for k in known if k[0] != ssid]
    if left:
        _store(left)
    elif known:
        for copy in (1, 0):
            if "w" in os.listdir("/state/%d" % copy):
                os.remove("/state/%d/w" % copy)
    return left != known


def take_in():
    """Take over /wifi.json, {"ssid": "password", ...}; what cannot be a network stays in it.

    The console says which and why, but no password.
    """
    if _FILE[1:] not in os.listdir("/"):
        return
    import json

    try:
        if os.stat(_FILE)[6] > 2048:
            raise ValueError("more than 2048 bytes")
        with open(_FILE, "rb") as f:
            if f.read(3) != b"\xef\xbb\xbf":  # what some editors put before UTF-8
                f.seek(0)
            new = json.load(f)
        known = load()
        wrong = {}
        for ssid in new:
            try:
                name, password = ssid.encode(), new[ssid].encode()
                check(name, password)
                known = [(name, password)] + [k for k in known if k[0] != name]
            except (AttributeError, ValueError) as e:
                wrong[ssid] = new[ssid]
                why = e if isinstance(e, ValueError) else "its password is no text"
                print(_FILE, repr(ssid), "stays:", why)
        _store(known[:_MOST])
        # A full disk keeps the file for another start.
        if not wrong:
            os.remove(_FILE)
        elif len(wrong) < len(new):
            text = json.dumps(wrong)
            with open(_FILE, "w") as f:
                f.write(text)
    except OSError as e:
        print(_FILE, repr(e))
    except (MemoryError, TypeError, ValueError) as e:
        print(_FILE, "is no JSON object in UTF-8, and stays:", repr(e))
