"""The rules of the trust file (docs/protocol.md, "Trust file"), the same as signing/trust.py's."""

from micropython import const

from bootloader.manifest import Rejected
from bootloader.manifest_syntax import LineReader, number, word

_LINE = const(600)


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
    word(lines.expect("app"))
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
