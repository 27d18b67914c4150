"""Whether a manifest may be installed or tried: by signature first, then by its content."""

import sys

import ota
from bootloader import record
from bootloader.lines import PREFIX, Manifest, Refused

# Architectures of native code by their number in sys.implementation._mpy (py/persistentcode.h)
_ARCHS = (
    "",
    "x86",
    "x64",
    "armv6",
    "armv6m",
    "armv7m",
    "armv7em",
    "armv7emsp",
    "armv7emdp",
    "xtensa",
    "xtensawin",
    "rv32imc",
    "rv64imc",
)


def verify(source, board):
    """Like trust.verify(), whose module is dropped again: the rest needs its memory."""
    return ota.stage("trust").verify(source, PREFIX, board)


def fits(m, board):
    """Raise Refused unless the manifest is for this app, class and firmware."""
    if m.app != board["app"]:
        raise Refused("app")
    if m.cls != board["class"]:
        raise Refused("class")
    mine = sys.implementation._mpy
    major, minor = m.mpy.split(".")
    if major != str(mine & 0xFF):
        raise Refused("mpy")
    if m.arch:
        if minor != str(mine >> 8 & 3):
            raise Refused("mpy")
        if m.arch != _ARCHS[mine >> 10 & 15]:
            raise Refused("arch")


def admit(source, r, board):
    """Verify the manifest in `source` and hold it against the record `r`; return its digest.

    `ota.dev` says afterwards whether it counts by this board's dev key alone.

    Raises Refused: as trust.verify(), strict.manifest() and fits(), and "rejected", "seq",
    "same-seq", "floor-low".
    """
    digest, ota.dev = verify(source, board)
    with open(source, "rb") as f:
        ota.stage("strict").manifest(f)
        f.seek(0)
        m = Manifest(f)
    fits(m, board)
    # A soft rejection may be tried again: when, is the poller's business.
    if digest[:16] == r.bad and r.flags & record.HARD:
        raise Refused("rejected")
    if ota.dev:
        return digest
    if m.seq < r.seq:
        raise Refused("seq")
    if m.seq == r.seq and digest[:16] not in r.good + [r.bad]:
        raise Refused("same-seq")
    if m.floor < r.floor or m.seq < r.floor:
        raise Refused("floor-low")
    return digest
