"""Whether a manifest may be installed or tried: by signature first, then by its head."""

import sys
from micropython import const

from bootloader import record, strict, trust
from bootloader.lines import Manifest, signed
from bootloader.refused import Refused
from bootloader.slots import PREFIX

_SIGS = const(4)
# Architectures of native code by their number in sys.implementation._mpy (py/persistentcode.h)
_ARCHS = (
    "", "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp",
    "xtensa", "xtensawin", "rv32imc", "rv64imc",
)  # fmt: skip


def verify(source, board):
    """Return (digest, signed by this board's dev key) of the manifest in the file `source`.

    Raises Refused: "unsigned", "key", "revoked", "threshold", "size", "syntax".
    """
    dev = None
    if "dev" in board:
        from binascii import a2b_base64

        dev = a2b_base64(board["dev"])
    keys = trust.load()[0]
    with open(source, "rb") as f:
        digest, what = signed(f, PREFIX)
        good = trust.signers(f, _SIGS, keys, "release", what, dev)
    if "dev" in good:
        return digest, True
    if len(good) < trust.head(keys).threshold["release"]:
        raise Refused("threshold")
    return digest, False


def fits(m, board):
    """Raise Refused unless the manifest is for this app, class and firmware."""
    if m.app != board["app"]:
        raise Refused("app")
    if getattr(m, "class") != board["class"]:
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
    """Verify the manifest in `source` and hold it against the record; return its digest.

    Raises Refused: as `verify` and `fits`, and "rejected", "seq", "same-seq", "floor-low",
    "floor", "name", "syntax".
    """
    digest, dev = verify(source, board)
    with open(source, "rb") as f:
        strict.manifest(f)
        f.seek(0)
        m = Manifest(f)
    fits(m, board)
    # A soft rejection may be tried again: when, is the poller's business.
    if digest[:16] == r.bad and r.flags & record.HARD:
        raise Refused("rejected")
    if dev:
        return digest
    if m.seq < r.seq:
        raise Refused("seq")
    if m.seq == r.seq and digest[:16] not in r.good:
        raise Refused("same-seq")
    if m.floor < r.floor or m.seq < r.floor:
        raise Refused("floor-low")
    return digest
