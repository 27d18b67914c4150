"""Manifests and trust files with the reason code each is refused with, for host and chip alike.

The bodies stand in vectors/manifests.json. What needs signatures is made here, with keys that
live as long as the test run.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1

from mipy_ota.signing import envelope, manifest, rsa, trust
from mipy_ota.signing.envelope import Signature
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.signing.trust import Trust
from tests.support import ROOT, testkeys

BODIES = ROOT / "tests" / "vectors" / "manifests.json"
FLEET = "default"


@dataclass(frozen=True)
class Vector:
    """A manifest, the trust file and dev key (base64 of n) that count, the code ("" when good)."""

    name: str
    raw: bytes
    code: str
    trust: bytes
    dev: str = ""


@dataclass(frozen=True)
class Step:
    """A trust file that is to follow `old`, and the code it is refused with ("" when good)."""

    name: str
    old: bytes
    new: bytes
    code: str


def key(name: str) -> RSAPrivateKey:
    """The key of that name. "release" has 3072 bits, the others 2048."""
    return testkeys.key(name, 3072 if name == "release" else 2048)


def public(name: str) -> PublicKey:
    """The public half of `key(name)`."""
    return PublicKey.of(key(name))


@functools.cache
def first_trust(release_threshold: int = 1) -> bytes:
    """Version 1: root, release, release2, debug."""
    roles = [("root", "root"), ("release", "release"), ("release", "release2"), ("debug", "debug")]
    made = trust.first(
        FLEET,
        [(role, public(name)) for role, name in roles],
        release_threshold=release_threshold,
    )
    return trust.add_signature(made.encode(), key("root"))


@functools.cache
def revoking_trust() -> bytes:
    """Version 2, which revokes release2."""
    made = trust.following(trust.parse(first_trust()), revoke=[public("release2").id])
    return trust.add_signature(made.encode(), key("root"))


def bodies() -> Iterator[tuple[str, bytes, str]]:
    """(name, unsigned manifest, code) of vectors/manifests.json."""
    table = json.loads(BODIES.read_text())
    for vector in table["vectors"]:
        text = table["base"]
        for old, new in vector.get("edit", ()):
            assert text.count(old) == 1, (vector["name"], old)
            text = text.replace(old, new)
        if "files" in vector:
            text = _with_files(text, vector["files"])
        yield vector["name"], text.encode("latin-1"), vector["code"]


def good_body() -> bytes:
    """The body that is in order."""
    return json.loads(BODIES.read_text())["base"].encode()


def _with_files(text: str, listed: list[str | list[str | int]]) -> str:
    names: list[str] = []
    for item in listed:
        if isinstance(item, str):
            names.append(item)
        else:
            pattern, count = str(item[0]), int(item[1])
            names += [pattern % index for index in range(count)]
    if any(isinstance(item, list) for item in listed):
        names.sort()
    head, _, rest = text.partition("total ")
    lines = "".join(f"file {name} 1 {'0' * 64}\n" for name in names)
    return f"{head}total {len(names)}\n{lines}{rest[rest.index('note ') :]}"


def signature(body: bytes, name: str, prefix: bytes = manifest.PREFIX, key_id: str = "") -> bytes:
    """A `sig` line over any bytes, right or not."""
    value = rsa.sign(key(name), hashlib.sha256(prefix + body).digest())
    return Signature(key_id or public(name).id, value).encode()


def manifest_vectors() -> Iterator[Vector]:
    """Every way a manifest can be right or wrong by itself, without a board's state."""
    for name, body, code in bodies():
        yield Vector(name, body + signature(body, "release"), code, first_trust())
    yield from _signed_vectors()
    yield from _block_vectors()


def _signed_vectors() -> Iterator[Vector]:
    body = good_body()
    good, second = signature(body, "release"), signature(body, "release2")
    unknown = signature(body, "unknown")
    one, two, after = first_trust(), first_trust(release_threshold=2), revoking_trust()

    yield Vector("a 2048-bit key", body + second, "", one)
    yield Vector("unknown key beside a good one", body + unknown + good, "", one)
    yield Vector("revoked key beside a good one", body + second + good, "", after)
    yield Vector("wrong signature beside a good one", body + _flip(second) + good, "", one)
    yield Vector("two of two", body + good + second, "", two)
    yield Vector("four signatures", body + unknown * 3 + good, "", one)

    yield Vector("unsigned", body, "unsigned", one)
    yield Vector("signed by an unknown key", body + unknown, "key", one)
    yield Vector("root key", body + signature(body, "root"), "key", one)
    yield Vector("debug key", body + signature(body, "debug"), "key", one)
    yield Vector("revoked key", body + second, "revoked", after)
    yield Vector("one of two", body + good, "threshold", two)
    yield Vector("one key counted twice", body + good + good, "threshold", two)
    yield Vector("one of two, one unknown", body + good + unknown, "threshold", two)
    yield Vector(
        "another key's id on it",
        body + signature(body, "unknown", key_id=public("release2").id),
        "key",
        one,
    )
    yield Vector("dev key, no board's", body + signature(body, "dev"), "key", one)
    yield Vector(
        "dev key, this board's", body + signature(body, "dev"), "", one, public("dev").text
    )
    yield Vector(
        "dev key, another board's",
        body + signature(body, "dev"),
        "key",
        one,
        public("unknown").text,
    )
    yield Vector(
        "signed as a trust file", body + signature(body, "release", trust.PREFIX), "key", one
    )
    yield Vector("signed without a prefix", body + signature(body, "release", b""), "key", one)
    trust_body = envelope.take_apart(one, 8192, 8).body
    yield Vector("a trust file", one, "key", one)
    yield Vector(
        "a trust file signed as a manifest",
        trust_body + signature(trust_body, "release"),
        "syntax",
        one,
    )
    fields = "manifest 1,app w,class e,seq 3,floor 3,mpy 6,entry m,total 1,204 f,1.8.0"
    for field in fields.encode().split(b","):
        at = body.index(field) + len(field) - 1
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        yield Vector(f"bit flipped in '{field.decode()}'", changed + good, "key", one)

    yield Vector("signature cut", body + good[:300], "syntax", one)
    yield Vector("five signatures", body + unknown * 4 + good, "syntax", one)
    yield Vector("bytes behind the last signature", body + good + b"x", "syntax", one)
    yield Vector("line behind the last signature", body + good + b"note 2\n", "syntax", one)
    yield Vector("empty line behind the last signature", body + good + b"\n", "syntax", one)
    yield Vector("empty line before the signature", body + b"\n" + good, "syntax", one)
    yield Vector("no line feed at the end", body + good[:-1], "syntax", one)
    yield Vector("CRLF behind the signature", body + good[:-1] + b"\r\n", "syntax", one)
    yield Vector("second 'end'", body + good + b"end\n", "syntax", one)
    yield Vector(
        "key id in capitals", body + good.replace(good[4:20], b"ABCDEF0123456789"), "syntax", one
    )
    yield Vector("key id too short", body + good[:4] + good[5:], "syntax", one)
    yield Vector("base64 with a space", body + good[:60] + b" " + good[60:], "syntax", one)
    yield Vector("base64 with a foreign letter", body + good[:60] + b"*" + good[61:], "syntax", one)
    yield Vector("signature cut short", body + good[:-5] + b"\n", "syntax", one)
    yield Vector("fourth word", body + good[:-1] + b" x\n", "syntax", one)
    loose = second.rstrip(b"=\n")
    odd = loose[:-1] + bytes([loose[-1] + 1]) + b"==\n"
    yield Vector("base64 not canonical", body + odd, "syntax", one)

    yield Vector("empty", b"", "syntax", one)
    yield Vector("cut before 'end'", body[:-4], "syntax", one)
    yield Vector("cut inside 'end'", body[:-1], "syntax", one)
    yield Vector("CRLF everywhere", (body + good).replace(b"\n", b"\r\n"), "syntax", one)
    large = body.replace(b"end\n", b"x-a %s\n" % (b"n" * 150) * 60 + b"end\n")
    yield Vector("larger than 8192 bytes", large + signature(large, "release"), "size", one)


def _block_vectors() -> Iterator[Vector]:
    """Signature blocks that a careless verifier accepts; all made with the release key itself."""
    body = good_body()
    digest = hashlib.sha256(manifest.PREFIX + body).digest()
    size = len(public("release").modulus)
    right = rsa.expected_block(digest, size)
    info = right[right.index(b"\0", 2) + 1 :]
    numbers = key("release").private_numbers()
    n, d = numbers.public_numbers.n, numbers.d
    s = pow(int.from_bytes(right, "big"), d, n)

    def block(filler: bytes, content: bytes) -> bytes:
        return b"\0\1" + filler * (size - 3 - len(content)) + b"\0" + content

    no_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + digest
    wrong = {
        "block type 0": block(b"\0", info),
        "block type 2": b"\0\2" + right[2:],
        "first byte 1": b"\1\1" + right[2:] if n >> 8 * (size - 1) > 1 else b"\0\2" + right[2:],
        "filler not FF": block(b"\xfe", info),
        "garbage behind the hash": (b"\0\1" + b"\xff" * 8 + b"\0" + info).ljust(size, b"\x5a"),
        "garbage inside the filler": right[:40] + b"\x5a" + right[41:],
        "hash without its type": block(b"\xff", digest),
        "parameters left out": block(b"\xff", no_null),
        "long form of a length": block(b"\xff", b"\x30\x81\x31" + info[2:]),
        "hash cut short": block(b"\xff", info[:-1]),
        "hash of other bytes": block(b"\xff", info[:-32] + hashlib.sha256(b"").digest()),
        "empty block": bytes(size),
    }
    for name, content in wrong.items():
        value = pow(int.from_bytes(content, "big"), d, n)
        yield _raw(f"block: {name}", body, value, size)
    yield _raw("block: right", body, s, size, "")
    yield _raw("signature 0", body, 0, size)
    yield _raw("signature 1", body, 1, size)
    yield _raw("signature n - 1", body, n - 1, size)
    yield _raw("signature n", body, n, size)
    yield _raw("signature n - s", body, n - s, size)
    yield _raw("signature as large as can be", body, (1 << 8 * size) - 1, size)
    yield _raw("signature s with a bit flipped", body, s ^ 1, size)
    for attempt in range(1000):  # until s + n has no byte too many
        other = body.replace(b"\nend\n", b"\nx-attempt %d\nend\n" % attempt)
        right = rsa.expected_block(hashlib.sha256(manifest.PREFIX + other).digest(), size)
        large = pow(int.from_bytes(right, "big"), d, n) + n
        if large < 1 << 8 * size:
            yield _raw("signature s + n", other, large, size)
            break
    yield _raw("signature of 256 bytes for a key of 384", body, s >> 1024, 256)
    sha1 = key("release").sign(manifest.PREFIX + body, padding.PKCS1v15(), SHA1())
    yield _raw("SHA-1", body, int.from_bytes(sha1, "big"), size)


def _raw(name: str, body: bytes, value: int, size: int, code: str = "key") -> Vector:
    line = Signature(public("release").id, value.to_bytes(size, "big")).encode()
    return Vector(name, body + line, code, first_trust())


def _flip(line: bytes) -> bytes:
    at = line.rindex(b" ") + 40
    return line[:at] + (b"B" if line[at : at + 1] == b"A" else b"A") + line[at + 1 :]


def _signed(made: Trust, *names: str) -> bytes:
    body = made.body
    return body + b"".join(signature(body, name, trust.PREFIX) for name in names)


def trust_steps() -> Iterator[Step]:
    """Every way from one trust version to the next, right or wrong."""
    one = first_trust()
    old = trust.parse(one)
    same_root = trust.following(old, add=[("release", public("release3"))])
    new_root = trust.following(
        old,
        add=[("root", public("root2"))],
        revoke=[public("root").id],
        server="http://10.0.0.2:80",
    )
    both = trust.following(old, add=[("root", public("root2"))], root_threshold=2)

    yield Step("one more release key", one, _signed(same_root, "root"), "")
    yield Step("a release key revoked", one, revoking_trust(), "")
    yield Step("unknown signature beside", one, _signed(same_root, "unknown", "root"), "")
    yield Step("another root key", one, _signed(new_root, "root", "root2"), "")
    yield Step("two root keys needed", one, _signed(both, "root", "root2"), "")
    reset = trust.following(old, reset=(5, 4))
    yield Step("seq and floor reset", one, _signed(reset, "root"), "")

    yield Step("unsigned", one, same_root.body, "trust-sig")
    yield Step("signed by a release key", one, _signed(same_root, "release"), "trust-sig")
    yield Step("signed by the old side only", one, _signed(new_root, "root"), "trust-sig")
    yield Step("signed by the new side only", one, _signed(new_root, "root2"), "trust-sig")
    yield Step("one root key counted twice", one, _signed(both, "root", "root"), "trust-sig")
    yield Step(
        "signed as a manifest", one, same_root.body + signature(same_root.body, "root"), "trust-sig"
    )
    signed = _signed(same_root, "root")
    flipped = signed.replace(b"threshold release 1", b"threshold release 2")
    yield Step("bit flipped", one, flipped, "trust-sig")
    skipping = trust.following(same_root, add=[("debug", public("release4"))])
    yield Step("version N + 2", one, _signed(skipping, "root"), "trust-version")
    yield Step("version N", one, one, "trust-version")
    yield Step("version N - 1", revoking_trust(), one, "trust-version")
    body = same_root.body

    def edited(name: str, before: bytes, after: bytes, code: str) -> Step:
        assert body.count(before) >= 1, name
        changed = body.replace(before, after, 1)
        return Step(name, one, changed + signature(changed, "root", trust.PREFIX), code)

    yield edited("another fleet", b"fleet default", b"fleet defaults", "fleet")
    yield edited("an app in the place of the fleet", b"fleet default", b"app default", "syntax")
    yield edited("a fleet that is a path", b"fleet default", b"fleet de/ault", "name")
    yield edited("version 0", b"version 2", b"version 0", "syntax")
    yield edited("leading zero", b"version 2", b"version 02", "syntax")
    yield edited("threshold 0", b"threshold root 1", b"threshold root 0", "syntax")
    yield edited(
        "threshold 2 with one root key", b"threshold root 1", b"threshold root 2", "trust-sig"
    )
    yield edited("no root key", b"key root %s\n" % public("root").text.encode(), b"", "trust-sig")
    yield edited("unknown role", b"key debug", b"key queen", "syntax")
    yield edited("roles out of order", b"key root", b"key debug", "syntax")
    yield edited("unknown key", b"end\n", b"expires 5\nend\n", "syntax")
    yield edited("key id in capitals", b"end\n", b"revoke ABCDEF0123456789\nend\n", "syntax")
    twice = b"revoke 0123456789abcdef\n" * 2
    yield edited("revoked twice", b"end\n", twice + b"end\n", "syntax")
    yield edited("reset floor above seq", b"end\n", b"reset 4 5\nend\n", "floor")
    yield edited(
        "reset before revoke", b"end\n", b"reset 4 4\nrevoke 0123456789abcdef\nend\n", "syntax"
    )
    short = base64.b64encode(b"\xff" * 128)
    yield edited("a 1024-bit key", b"key root", b"key root %s\nkey root" % short, "syntax")
    even = base64.b64encode(b"\xff" * 255 + b"\xfe")
    yield edited("an even modulus", b"key root", b"key root %s\nkey root" % even, "syntax")
    root_line = b"key root %s\n" % public("root").text.encode()
    yield edited("a key listed twice", root_line, root_line * 2, "syntax")
    yield Step("signature cut", one, signed[:-1], "syntax")
    yield Step("bytes behind the last signature", one, signed + b"x", "syntax")
    yield Step("empty", one, b"", "syntax")
    large = body.replace(b"end\n", b"".join(b"revoke %016x\n" % i for i in range(400)) + b"end\n")
    yield Step(
        "larger than 8192 bytes", one, large + signature(large, "root", trust.PREFIX), "size"
    )
