"""The next trust file: a board goes from version N to N+1, never further at once (TUF 5.3).

And the rules of that file (docs/protocol.md, "Trust file"), the same as signing/trust.py's.
"""

import os
from micropython import const

from bootloader import record, trust
from bootloader.manifest import Rejected
from bootloader.manifest_syntax import LineReader, number

_LINE = const(600)


def apply_next(new, r, asked):
    """Take the file `new` as the next version; both copies hold it afterwards.

    If another version was sent than was asked for, a copy is corrupt: restore both from the
    verified file, and leave `new` for the next time.

    A `reset` line changes the record `r` first: cut before the copies are written, it is done
    again. Raises Rejected: "trust-sig", "trust-version" unless `new` is exactly the next version,
    "fleet", "syntax".
    """
    try:
        _apply(new, r, asked)
    except ValueError:  # the root keys have signed broken text, or a key in broken base64
        raise Rejected("syntax")


def _apply(new, r, asked):
    current, version = trust.load()
    if asked != version + 1:
        for path in (trust.path(0), trust.path(1)):
            if path != current:
                _copy(current, path)
        return
    trust.check_signatures(new, current)
    if trust.number(new, b"version ") != version + 1:
        raise Rejected("trust-version")
    if trust.value(new, b"fleet ") != trust.value(current, b"fleet "):
        raise Rejected("fleet")
    trust.check_signatures(new, new)
    reset = check_trust(new)
    if reset and (r.seq, r.floor) != reset:
        r.seq, r.floor = reset
        record.store(r)
    # The older copy first: a cut leaves the newer one, or the former.
    older = 0 if current == trust.path(1) else 1
    _copy(new, trust.path(older))
    _copy(new, trust.path(1 - older))


def _copy(source, path):
    """Copy atomically: a truncated file still has a readable version line."""
    buf = bytearray(256)
    with open(source, "rb") as f:
        out = open(path + ".new", "wb")
        try:
            while True:
                n = f.readinto(buf)
                if not n:
                    break
                out.write(memoryview(buf)[:n])
        finally:
            out.close()
    os.rename(path + ".new", path)


def check_trust(path):
    """Check a trust file whose signatures are good against every rule.

    Return the (seq, floor) of its `reset` line, None without one. Raises Rejected: "syntax",
    "name", "floor".
    """
    try:
        with open(path, "rb") as f:
            return _check(LineReader(f, _LINE))
    except ValueError:  # a line with too few or too many values
        raise Rejected("syntax")


def _check(lines):
    if lines.expect("ota-trust") != "1":
        raise Rejected("syntax")
    lines.expect("fleet")  # a name, as in the former version
    number(lines.expect("version"))
    for wanted in ("root", "release"):
        role, count = lines.expect("threshold").split(" ")
        if role != wanted or not number(count):
            raise Rejected("syntax")
    while lines.key in ("key", "revoke"):
        lines.next()
    reset = None
    if lines.key == "reset":
        seq, floor = lines.expect("reset").split(" ")
        reset = number(seq), number(floor)
        if reset[1] > reset[0]:
            raise Rejected("floor")
    if lines.key == "server":
        lines.next()
    if lines.key != "end" or lines.value:
        raise Rejected("syntax")
    return reset
