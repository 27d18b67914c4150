"""Trust files: which keys a fleet believes (docs/protocol.md, "Trust file").

1. At most 8192 bytes; body, ``end`` and 1 to 8 signatures as in ``envelope``.
2. The keys stand in this order: ``ota-trust 1``, fleet, version, ``threshold root``, ``threshold
   release``, key (root, then release, then debug; inside a role sorted by key id, each once),
   revoke (sorted, each once), reset (0 or 1), server (0 or 1), end.
3. Thresholds and the version are at least 1. ``reset``'s floor is not above its seq.
4. The signature covers ``ota-trust-v1\\0`` and the body, so that neither kind of file passes
   for the other.
5. Version 1 is signed by its own root threshold. Version N+1 follows N, and no other: it names
   the same fleet and is signed by the root thresholds of N and of N+1. Distinct keys count.
6. A revoked key counts for nothing, also where a ``key`` line names it.

The old root's signatures are checked before anything else is understood.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from . import envelope, limits
from .envelope import Envelope, Lines, Signature
from .keys import TRUST_ROLES
from .reasons import Refused
from .rsa import PublicKey

PREFIX = b"ota-trust-v1\0"
HEADER = "ota-trust 1"


@dataclass(frozen=True)
class Trust:
    """A trust file, understood. ``reset`` is (seq, floor)."""

    fleet: str
    version: int
    root_threshold: int
    release_threshold: int
    keys: tuple[tuple[str, PublicKey], ...]
    revoked: tuple[str, ...] = ()
    reset: tuple[int, int] | None = None
    server: str | None = None
    signatures: tuple[Signature, ...] = ()

    def of_role(self, role: str) -> list[PublicKey]:
        """All keys of ``role``, revoked or not."""
        return [key for key_role, key in self.keys if key_role == role]

    def valid(self, role: str) -> list[PublicKey]:
        """The keys of ``role`` that count (rule 6)."""
        return [key for key in self.of_role(role) if key.id not in self.revoked]

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        lines = [
            HEADER,
            f"fleet {self.fleet}",
            f"version {self.version}",
            f"threshold root {self.root_threshold}",
            f"threshold release {self.release_threshold}",
            *(f"key {role} {key.text}" for role, key in self.keys),
            *(f"revoke {key_id}" for key_id in self.revoked),
            *([f"reset {self.reset[0]} {self.reset[1]}"] if self.reset else []),
            *([f"server {self.server}"] if self.server else []),
            "end",
        ]
        try:
            return "".join(f"{line}\n" for line in lines).encode("ascii")
        except UnicodeEncodeError as error:
            raise Refused("syntax", "a trust file holds plain ASCII only") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the signed bytes, as hex."""
        return sha256(self.body).hexdigest()

    def encode(self) -> bytes:
        """The whole file. Raises Refused when a value breaks a rule."""
        raw = self.body + b"".join(signature.encode() for signature in self.signatures)
        parse(raw)
        return raw


def first(
    fleet: str,
    keys: Iterable[tuple[str, PublicKey]],
    *,
    root_threshold: int = 1,
    release_threshold: int = 1,
    server: str | None = None,
) -> Trust:
    """Version 1 of a fleet's trust, unsigned.

    Args:
        fleet: its name, one for all of its apps.
        keys: (role, key), in any order.

    Raises:
        Refused: ``threshold`` when there are too few keys, else with the rule's code.
    """
    named = _sorted(keys)
    return _checked(Trust(fleet, 1, root_threshold, release_threshold, named, server=server))


def following(
    old: Trust,
    *,
    add: Iterable[tuple[str, PublicKey]] = (),
    revoke: Iterable[str] = (),
    root_threshold: int | None = None,
    release_threshold: int | None = None,
    reset: tuple[int, int] | None = None,
    server: str | None = None,
) -> Trust:
    """The version after ``old``, unsigned: what is not named stays, but ``reset`` is never kept.

    Raises:
        Refused: ``threshold`` when too few keys are left, ``revoked`` when a revoked key is to
            come back, else with the rule's code.
    """
    revoked = {*old.revoked, *revoke}
    added = list(add)
    if returning := sorted(key.id for _, key in added if key.id in revoked):
        raise Refused("revoked", f"{returning[0]} cannot come back")
    known = {key.id for _, key in old.keys}
    keys = [*old.keys, *((role, key) for role, key in added if key.id not in known)]
    return _checked(
        replace(
            old,
            version=old.version + 1,
            keys=_sorted((role, key) for role, key in keys if key.id not in revoked),
            revoked=tuple(sorted(revoked)),
            root_threshold=old.root_threshold if root_threshold is None else root_threshold,
            release_threshold=(
                old.release_threshold if release_threshold is None else release_threshold
            ),
            reset=reset,
            server=old.server if server is None else server,
            signatures=(),
        )
    )


def _sorted(keys: Iterable[tuple[str, PublicKey]]) -> tuple[tuple[str, PublicKey], ...]:
    return tuple(sorted(keys, key=lambda pair: (TRUST_ROLES.index(pair[0]), pair[1].id)))


def _checked(trust: Trust) -> Trust:
    """Refuse to make what would lock a fleet out."""
    for role, needed in (("root", trust.root_threshold), ("release", trust.release_threshold)):
        if len(trust.valid(role)) < needed:
            raise Refused(
                "threshold", f"{needed} {role} keys are needed, {len(trust.valid(role))} are left"
            )
    trust.encode()
    return trust


def add_signature(raw: bytes, private: RSAPrivateKey) -> bytes:
    """``raw`` signed once more by a root key. Raises Refused: a broken file is never signed."""
    parse(raw)
    return envelope.add_signature(raw, PREFIX, private, limits.TRUST_BYTES, limits.TRUST_SIGNATURES)


def parse(raw: bytes) -> Trust:
    """Understand a trust file without believing it.

    Raises:
        Refused: ``size``, ``syntax`` or ``name``.
    """
    return _understand(_take_apart(raw))


def verify_first(raw: bytes) -> Trust:
    """A version 1, checked against itself: it must come from a place that is believed.

    Raises:
        Refused: ``trust-version``, ``trust-sig``, or as ``parse``.
    """
    sealed = _take_apart(raw)
    trust = _understand(sealed)
    if trust.version != 1:
        raise Refused("trust-version", f"version {trust.version} instead of 1")
    _check_root(sealed, trust)
    return trust


def verify_next(old: Trust, raw: bytes) -> Trust:
    """The trust that ``raw`` holds, if it may follow ``old`` (rule 5).

    Raises:
        Refused: ``trust-sig``, ``trust-version``, ``fleet``, or as ``parse``.
    """
    sealed = _take_apart(raw)
    _check_root(sealed, old)
    new = _understand(sealed)
    if new.fleet != old.fleet:
        raise Refused("fleet", f"'{new.fleet}' instead of '{old.fleet}'")
    if new.version != old.version + 1:
        raise Refused("trust-version", f"version {new.version} instead of {old.version + 1}")
    _check_root(sealed, new)
    return new


def verify_chain(files: Iterable[bytes]) -> Trust:
    """Walk up from version 1. Raises Refused as ``verify_first`` and ``verify_next``."""
    walk = iter(files)
    trust = verify_first(next(walk))
    for raw in walk:
        trust = verify_next(trust, raw)
    return trust


def _check_root(sealed: Envelope, trust: Trust) -> None:
    good = len(sealed.signers(PREFIX, trust.valid("root")))
    if good < trust.root_threshold:
        raise Refused(
            "trust-sig",
            f"{good} of {trust.root_threshold} root keys of version {trust.version} have signed",
        )


def _take_apart(raw: bytes) -> Envelope:
    return envelope.take_apart(raw, limits.TRUST_BYTES, limits.TRUST_SIGNATURES)


def _understand(sealed: Envelope) -> Trust:
    lines = Lines(sealed.body)
    if lines.line() != HEADER:
        raise Refused("syntax", f"the first line is not '{HEADER}'")
    fleet = envelope.word(lines.value("fleet"))
    version = _positive(lines.value("version"))
    root_threshold = _positive(lines.value("threshold root"))
    release_threshold = _positive(lines.value("threshold release"))
    keys: list[tuple[str, PublicKey]] = []
    while lines.peek() == "key":
        role, text = lines.fields("key", 2, limits.KEY_LINE_BYTES)
        if role not in TRUST_ROLES:
            raise Refused("syntax", f"'{role[:40]}' is no role")
        keys.append((role, PublicKey.from_text(text)))
    revoked: list[str] = []
    while lines.peek() == "revoke":
        revoked.append(_key_id(lines.value("revoke")))
    reset = _reset(lines) if lines.peek() == "reset" else None
    server = envelope.address(lines.value("server")) if lines.peek() == "server" else None
    lines.end()
    ranks = [(TRUST_ROLES.index(role), key.id) for role, key in keys]
    if ranks != sorted(set(ranks)) or revoked != sorted(set(revoked)):
        raise Refused("syntax", "the keys are not sorted, or one is listed twice")
    return Trust(
        fleet,
        version,
        root_threshold,
        release_threshold,
        tuple(keys),
        tuple(revoked),
        reset,
        server,
        sealed.signatures,
    )


def _positive(text: str) -> int:
    value = envelope.number(text)
    if value == 0:
        raise Refused("syntax", "versions and thresholds begin at 1")
    return value


def _key_id(text: str) -> str:
    if len(text) != 16 or set(text) - set("0123456789abcdef"):
        raise Refused("syntax", f"'{text[:40]}' is no key id")
    return text


def _reset(lines: Lines) -> tuple[int, int]:
    seq, floor = (envelope.number(text) for text in lines.fields("reset", 2))
    if floor > seq:
        raise Refused("floor", f"{floor} is above {seq}")
    return seq, floor
