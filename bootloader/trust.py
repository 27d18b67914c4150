"""The trust file: which keys may sign what. A board goes from version N to N+1, never further.

Two copies; the older is overwritten first, so a cut leaves the newer or the former. The version
that came with the boot stage is the last resort.
"""

from binascii import a2b_base64
from hashlib import sha256
from micropython import const

from bootloader import record, rsa
from bootloader.lines import hexa, signed
from bootloader.refused import Refused
from bootloader.strict import Lines, number, signatures, word

_PREFIX = b"ota-trust-v1\0"
_LINE = const(600)
_SIGS = const(8)
_BUILT_IN = "/bootloader/trust"


def path(copy):
    return "/trust/%d/trust" % copy


class Head:
    """What a trust file says beside its keys."""

    def __init__(self, f):
        lines = Lines(f, _LINE)
        if lines.take("ota-trust") != "1":
            raise Refused("syntax")
        self.app = word(lines.take("app"))
        self.version = number(lines.take("version"))
        self.threshold = {"root": 0, "release": 0}
        for role in ("root", "release"):
            who, count = lines.take("threshold").split(" ")
            self.threshold[role] = number(count)
            if who != role or not self.threshold[role]:
                raise Refused("syntax")
        while lines.key in ("key", "revoke"):
            lines.next()
        self.reset = None
        if lines.key == "reset":
            seq, floor = lines.take("reset").split(" ")
            self.reset = (number(seq), number(floor))
        self.server = lines.take("server") if lines.key == "server" else ""
        if lines.key != "end" or lines.value:
            raise Refused("syntax")


def head(path):
    try:
        with open(path, "rb") as f:
            return Head(f)
    except ValueError:  # a line with too few or too many values
        raise Refused("syntax")


def key(path, role, wanted):
    """Return the modulus of the key with id `wanted` in that role.

    Returns None when it is not there; raises Refused("revoked") when the file revokes it.
    """
    found = None
    role = ("key %s " % role).encode()
    revoked = b"revoke %s\n" % wanted.encode()
    with open(path, "rb") as f:
        while True:
            line = f.readline(_LINE + 1)
            if line == b"end\n" or not line:
                return found
            if line == revoked:
                raise Refused("revoked")
            if not found and line.startswith(role):
                n = a2b_base64(line[len(role) :])
                if hexa(sha256(n).digest()[:8]) == wanted:
                    found = n


def signers(f, most, trust, role, digest, also=None):
    """Return the ids of `trust`'s keys of that role whose signature of `digest` follows in `f`.

    `also` is one more accepted modulus (a board's dev key), reported as "dev". A signature by a
    known key that does not hold is as good as none; the worst that was seen decides the reason
    when nobody is left: "unsigned", "key" or "revoked".
    """
    good = []
    why = "unsigned"
    dev = also and hexa(sha256(also).digest()[:8])
    for who, sig in signatures(f, most):
        try:
            n = also if who == dev else key(trust, role, who)
        except Refused as e:
            why = e.args[0]
            continue
        if why == "unsigned":
            why = "key"
        if n and who not in good and rsa.verify(n, sig, digest):
            good.append("dev" if who == dev else who)
    if not good:
        raise Refused(why)
    return good


def check(new, by):
    """Raise Refused unless the trust file `new` is signed by the root threshold of file `by`."""
    need = head(by).threshold["root"]
    with open(new, "rb") as f:
        _, digest = signed(f, _PREFIX)
        try:
            good = signers(f, _SIGS, by, "root", digest)
        except Refused as e:
            raise Refused("syntax" if e.args[0] == "syntax" else "trust-sig")
    if len(good) < need:
        raise Refused("trust-sig")


def load():
    """Return (path, version) of the newest copy that its own root keys have signed."""
    best = None
    for p in (path(0), path(1), _BUILT_IN):
        try:
            version = head(p).version
            if not best or version > best[1]:
                check(p, p)
                best = (p, version)
        except (OSError, Refused) as e:
            print("trust:", p, repr(e))
    if not best:
        raise Refused("trust-sig")
    return best


def version():
    """The newest version that is here, unverified: for telling the server."""
    best = 0
    for p in (path(0), path(1), _BUILT_IN):
        try:
            best = max(best, head(p).version)
        except (OSError, Refused) as e:
            print("trust:", p, repr(e))
    return best


def step(new, r):
    """Take the file `new` as the next version; return its Head. Both copies hold it afterwards.

    A `reset` lowers the record `r` first: cut before the copies are written, it is done again.
    Raises Refused: "trust-version" unless it is exactly the next, "trust-sig", "app", "syntax".
    """
    current, version = load()
    check(new, current)
    after = head(new)
    if after.version != version + 1:
        raise Refused("trust-version")
    if after.app != head(current).app:
        raise Refused("app")
    check(new, new)
    if after.reset and (r.seq, r.floor) != after.reset:
        r.seq, r.floor = after.reset
        record.store(r)
    older = 0 if current == path(1) else 1
    copy(new, path(older))
    copy(new, path(1 - older))
    return after


def copy(source, target):
    buf = bytearray(256)
    with open(source, "rb") as f:
        out = open(target, "wb")
        try:
            while True:
                n = f.readinto(buf)
                if not n:
                    return
                out.write(memoryview(buf)[:n])
        finally:
            out.close()
