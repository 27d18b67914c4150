"""The files of the board's own settings: two copies in /data/settings, of which one is on trial.

Each is `settings 1 <number> <tries>`, lines `KEY value`, and `end <first 8 hex digits of the
SHA-256 of all before>`. The higher number counts. `tries` is 0 in a confirmed copy, one more than
what is left in one on trial. A change goes over the older copy, so the former values stay; from
then on only the new copy is written, and where that write is cut the former ones are back. Each
step is one write or one removal.
"""

import os
from binascii import hexlify
from hashlib import sha256
from micropython import const

import runtime
from runtime import log

_PATH = "/data/settings/"
_MOST = const(2048)  # bytes of a copy
_TRIES = const(3)  # as in settings.py


class Copy:
    def __init__(self, place, number=0, tries=0, values=b""):
        self.place = place  # "0" or "1"
        self.number = number
        self.tries = tries
        self.values = values  # as they lie there


def read(place):
    """Return the Copy at `place`, None when it is not whole."""
    try:
        if os.stat(_PATH + place)[6] > _MOST:
            return None
        with open(_PATH + place, "rb") as f:
            b = f.read()
        end = b.rfind(b"end ")
        if end < 0 or b[end:] != b"end %s\n" % _check(b[:end]):
            return None
        head = b.find(b"\n") + 1
        word, version, number, tries = b[:head].decode().split()
        if word != "settings" or version != "1":
            return None
        return Copy(place, int(number), int(tries), b[head:end])
    except (OSError, ValueError):
        return None


def _check(b):
    return hexlify(sha256(b).digest()[:4])


def newest():
    """Return the Copy that counts, or an empty one."""
    a = read("0")
    b = read("1")
    if a and b:
        return a if a.number > b.number else b
    return a or b or Copy("1")


def other(copy):
    """Return the place that `copy` is not at."""
    return "1" if copy.place == "0" else "0"


def write(copy):
    """Store it. Raises ValueError when it is too long, OSError when flash is full."""
    b = b"settings 1 %d %d\n" % (copy.number, copy.tries) + copy.values
    b += b"end %s\n" % _check(b)
    if len(b) > _MOST:
        raise ValueError("the settings are too long")
    f = open(_PATH + copy.place, "wb")
    try:
        f.write(b)
    finally:
        f.close()


def confirm():
    """Keep the values on trial."""
    copy = newest()
    if runtime.settings_trial and copy.tries:
        copy.tries = 0
        write(copy)
        log.info("settings: the change is confirmed")
    runtime.settings_trial = False


def rollback():
    """Drop the values on trial; the former ones hold from the next start on."""
    copy = newest()
    if copy.tries:
        os.remove(_PATH + copy.place)
    runtime.settings_trial = False


def give_back_try():
    """Give back the try that this start took: it is a person who ends it."""
    copy = newest()
    if 0 < copy.tries <= _TRIES:
        copy.tries += 1
        write(copy)


def make_folder():
    """Make the copies' folder."""
    try:
        os.mkdir("/data/settings")
    except OSError as e:
        if e.errno != 17:  # EEXIST
            raise
