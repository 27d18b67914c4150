"""Whether a manifest may be installed or tried: by signature first, then by its content."""

import sys

import ota
from bootloader import record
from bootloader.manifest import PREFIX, Manifest, Rejected

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


def verify_signature(source, board):
    """Like trust.verify(), whose module is dropped again: the rest needs its memory."""
    return ota.stage("trust").verify(source, PREFIX, board)


def check_compatible(m, board):
    """Raise Rejected unless the manifest is for this app, class and firmware."""
    if m.app != board["app"]:
        raise Rejected("app")
    if m.cls != board["class"]:
        raise Rejected("class")
    mine = sys.implementation._mpy
    major, minor = m.mpy.split(".")
    if major != str(mine & 0xFF):
        raise Rejected("mpy")
    if m.arch:
        if minor != str(mine >> 8 & 3):
            raise Rejected("mpy")
        if m.arch != _ARCHS[mine >> 10 & 15]:
            raise Rejected("arch")


def verify(source, r, board):
    """Verify the manifest in `source` and hold it against the record `r`; return its digest.

    `ota.dev_signed` says afterwards whether it counts by this board's dev key alone.

    Raises Rejected: as trust.verify(), manifest_syntax.check_manifest() and check_compatible(), and
    "rejected", "seq", "same-seq", "floor-low".
    """
    digest, ota.dev_signed = verify_signature(source, board)
    with open(source, "rb") as f:
        ota.stage("manifest_syntax").check_manifest(f)
        f.seek(0)
        m = Manifest(f)
    check_compatible(m, board)
    # A soft rejection may be tried again: when, is the poller's business.
    if digest[:16] == r.rejected and r.flags & record.HARD:
        raise Rejected("rejected")
    if ota.dev_signed:
        return digest
    if m.seq < r.seq:
        raise Rejected("seq")
    if m.seq == r.seq and digest[:16] not in r.digests + [r.rejected]:
        raise Rejected("same-seq")
    if m.floor < r.floor or m.seq < r.floor:
        raise Rejected("floor-low")
    return digest
