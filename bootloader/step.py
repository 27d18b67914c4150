"""The next trust file: a board goes from version N to N+1, never further at once."""

import os
from micropython import const

from bootloader import record, trust
from bootloader.lines import Refused
from bootloader.strict import Lines, number, word

_LINE = const(600)


def _rules(path):
    """Hold the trust file against the rules; return its (seq, floor) to fall back to, or None."""
    try:
        with open(path, "rb") as f:
            lines = Lines(f, _LINE)
            if lines.take("ota-trust") != "1":
                raise Refused("syntax")
            word(lines.take("app"))
            number(lines.take("version"))
            for role in ("root", "release"):
                who, count = lines.take("threshold").split(" ")
                if who != role or not number(count):
                    raise Refused("syntax")
            while lines.key in ("key", "revoke"):
                lines.next()
            reset = None
            if lines.key == "reset":
                seq, floor = lines.take("reset").split(" ")
                reset = number(seq), number(floor)
                if reset[1] > reset[0]:
                    raise Refused("floor")
            if lines.key == "server":
                lines.next()
            if lines.key != "end" or lines.value:
                raise Refused("syntax")
            return reset
    except ValueError:  # a line with too few or too many values
        raise Refused("syntax")


def step(new, r, asked):
    """Take the file `new` as the next version. Both copies hold it afterwards.

    If that is not what was asked for, a copy only reads like another version: what counts takes
    its place, and `new` is left for the next time.

    A `reset` changes the record `r` first: cut before the copies are written, it is done again.
    Raises Refused: "trust-sig", "trust-version" unless it is exactly the next, "app", "syntax".
    """
    current, version = trust.load()
    if asked != version + 1:
        for path in (trust.path(0), trust.path(1)):
            if path != current:
                _copy(current, path)
        return
    trust.check(new, current)
    if trust.number(new, b"version ") != version + 1:
        raise Refused("trust-version")
    if trust.value(new, b"app ") != trust.value(current, b"app "):
        raise Refused("app")
    trust.check(new, new)
    reset = _rules(new)
    if reset and (r.seq, r.floor) != reset:
        r.seq, r.floor = reset
        record.store(r)
    # The older copy first: a cut leaves the newer one, or the former.
    older = 0 if current == trust.path(1) else 1
    _copy(new, trust.path(older))
    _copy(new, trust.path(1 - older))


def _copy(source, target):
    """Whole or not at all: of half a copy the version can be read, so it would never be mended."""
    buf = bytearray(256)
    with open(source, "rb") as f:
        out = open(target + ".new", "wb")
        try:
            while True:
                n = f.readinto(buf)
                if not n:
                    break
                out.write(memoryview(buf)[:n])
        finally:
            out.close()
    os.rename(target + ".new", target)
