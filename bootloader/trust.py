"""Who may sign: the trust file, and the signatures of it and of manifests.

Two copies of the newest version; the one that came with the boot stage is the last resort. What
is read here is read for the sake of verifying it; trust_update.py holds it against the rules.
"""

from binascii import a2b_base64, b2a_base64
from hashlib import sha256
from micropython import const

from bootloader import rsa
from bootloader.manifest import MAX, Rejected, hexa, is_hex, signed

_PREFIX = b"ota-trust-v1\0"
_LINE = const(700)
_SIGS = const(8)
_MANIFEST_SIGS = const(4)
_BUILT_IN = "/bootloader/trust"


def path(copy):
    return "/trust/%d/trust" % copy


def value(path, key):
    """Return what follows `key` (bytes, with its space) in the file, as text."""
    with open(path, "rb") as f:
        while True:
            line = f.readline(_LINE)
            if line == b"end\n" or not line:
                raise Rejected("syntax")
            if line.startswith(key):
                return line[len(key) : -1].decode()


def number(path, key):
    """Like `value`, a number. Raises Rejected("syntax") for anything else."""
    text = value(path, key)
    if not text.isdigit():
        raise Rejected("syntax")
    return int(text)


def _signatures(f, most):
    """Yield (key id as text, signature) of each sig line from here to the end of `f`."""
    while True:
        line = f.readline(_LINE)
        if not line:
            return
        most -= 1
        parts = line.split(b" ")
        if most < 0 or len(parts) != 3 or parts[0] != b"sig" or f.tell() > MAX:
            raise Rejected("syntax")
        try:
            key_id = parts[1].decode()
            sig = a2b_base64(parts[2])
        except ValueError:
            raise Rejected("syntax")
        if b2a_base64(sig) != parts[2] or len(sig) not in (256, 384):
            raise Rejected("syntax")
        if len(key_id) != 16 or not is_hex(key_id):
            raise Rejected("syntax")
        yield key_id, sig


def _key(path, role, wanted):
    """Return the modulus of the key with id `wanted` in that role, None if missing.

    Raises Rejected("revoked") when the file revokes it.
    """
    found = None
    role = ("key %s " % role).encode()
    revoked = b"revoke %s\n" % wanted.encode()
    with open(path, "rb") as f:
        while True:
            line = f.readline(_LINE)
            if line == b"end\n" or not line:
                return found
            if line == revoked:
                raise Rejected("revoked")
            if not found and line.startswith(role):
                n = a2b_base64(line[len(role) :])
                if hexa(sha256(n).digest()[:8]) == wanted:
                    found = n


def signers(f, most, trust, role, digest, extra_key=None):
    """Return the ids of `trust`'s keys of that role whose signature of `digest` follows in `f`.

    `extra_key` is one more accepted modulus, a board's dev key, reported as "dev". Raises Rejected
    when nobody is left: "revoked", "key" for signatures that do not count, "unsigned" for none.
    """
    good = []
    why = "unsigned"
    dev = extra_key and hexa(sha256(extra_key).digest()[:8])
    for key_id, sig in _signatures(f, most):
        try:
            n = extra_key if key_id == dev else _key(trust, role, key_id)
        except Rejected as e:
            why = e.args[0]
            continue
        if why == "unsigned":
            why = "key"
        if n and key_id not in good and rsa.verify(n, sig, digest):
            good.append("dev" if key_id == dev else key_id)
    if not good:
        raise Rejected(why)
    return good


def check_signatures(new, by):
    """Raise Rejected unless the trust file `new` is signed by the root threshold of file `by`."""
    with open(new, "rb") as f:
        _, digest = signed(f, _PREFIX, _LINE)
        need = number(by, b"threshold root ")
        try:
            good = signers(f, _SIGS, by, "root", digest)
        except Rejected as e:
            raise Rejected("syntax" if e.args[0] == "syntax" else "trust-sig")
    if not 0 < need <= len(good):
        raise Rejected("trust-sig")


def load():
    """Return (path, version) of the newest copy that its own root keys have signed."""
    best = None
    for p in (path(0), path(1), _BUILT_IN):
        try:
            version = number(p, b"version ")
            if not best or version > best[1]:
                check_signatures(p, p)
                best = (p, version)
        except (OSError, ValueError, Rejected) as e:
            print("trust:", p, repr(e))
    if not best:
        raise Rejected("trust-sig")
    return best


def verify(source, prefix, board):
    """Return (digest, signed by this board's dev key) of the manifest in the file `source`.

    Raises Rejected: "unsigned", "key", "revoked", "threshold", "size", "syntax".
    """
    dev = a2b_base64(value(board["dev"], b"dev ")) if "dev" in board else None
    keys = load()[0]
    with open(source, "rb") as f:
        digest, what = signed(f, prefix, _LINE)
        good = signers(f, _MANIFEST_SIGS, keys, "release", what, dev)
    if "dev" in good:
        return digest, True
    if len(good) < number(keys, b"threshold release "):
        raise Rejected("threshold")
    return digest, False
