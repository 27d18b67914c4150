"""Manifests: what a release is, in strict lines (docs/protocol.md, "Manifest").

1. At most 8192 bytes; body, ``end`` and 1 to 4 signatures as in ``envelope``.
2. The keys stand in this order, each once: ``ota-manifest 1``, app, class, seq, floor, mpy,
   arch (only with native code), entry, total, file (1 to 64 times), note, any ``x-`` lines, end.
3. A line has at most 160 bytes. ``x-<name> <value>`` lines are signed and mean nothing yet.
4. ``floor`` <= ``seq``; ``total`` is the sum of the sizes; ``<entry>.py`` or ``<entry>.mpy`` is
   listed, at the top.
5. Files are sorted by the bytes of their names and listed once. A name has 1 to 64 of
   ``A-Z a-z 0-9 _ . / -``, no part of it is empty or begins with a dot, and
   ``..`` is nowhere in it.
6. Nothing at the top is called ``manifest``: that is the manifest's own name in a slot.
7. No ``x.py`` beside ``x.mpy`` or ``x/``, of which the chip's import would prefer one silently;
   no file beside a folder of the same name.
8. A folder lists at most 32 entries.
9. The signature covers ``ota-manifest-v1\\0`` and the body. As many distinct, unrevoked release
   keys as the trust file's threshold says must have signed; or the board's own dev key.
10. A release's digest is SHA-256 of the body.

The signature is checked before anything else is understood.
"""

import base64
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from . import envelope, limits
from .envelope import Envelope, Lines, Signature
from .reasons import Refused
from .rsa import PublicKey
from .trust import Trust

PREFIX = b"ota-manifest-v1\0"
HEADER = "ota-manifest 1"
RESERVED = "manifest"
IN_FULL = "note"  # of the ``x-`` line that holds a note in any language

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """One ``file`` line: name in the slot, size in bytes, SHA-256 as hex."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "File":
        """The line for ``content`` under ``name``."""
        return cls(name, len(content), sha256(content).hexdigest())


@dataclass(frozen=True)
class Manifest:
    """A manifest, understood. ``cls`` is the class of boards, ``mpy`` the bytecode version."""

    app: str
    cls: str
    seq: int
    floor: int
    mpy: str
    entry: str
    files: tuple[File, ...]
    note: str
    arch: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
    signatures: tuple[Signature, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def title(self) -> str:
        """The note for people: in full where there is an ``x-note`` that means the same."""
        full = next((value for key, value in self.extra if key == IN_FULL), None)
        if full is None:
            return self.note
        try:
            text = base64.b64decode(full, validate=True).decode()
        except ValueError:
            return self.note
        return text if text.isprintable() and folded(text) == self.note else self.note

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        lines = [
            HEADER,
            f"app {self.app}",
            f"class {self.cls}",
            f"seq {self.seq}",
            f"floor {self.floor}",
            f"mpy {self.mpy}",
            *([f"arch {self.arch}"] if self.arch else []),
            f"entry {self.entry}",
            f"total {self.total}",
            *(f"file {file.name} {file.size} {file.sha256}" for file in self.files),
            f"note {self.note}",
            *(f"x-{key} {value}" for key, value in self.extra),
            "end",
        ]
        try:
            return "".join(f"{line}\n" for line in lines).encode("ascii")
        except UnicodeEncodeError as error:
            raise Refused("syntax", "a manifest holds plain ASCII only") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the signed bytes, as hex."""
        return sha256(self.body).hexdigest()

    def encode(self) -> bytes:
        """The whole file. Raises Refused when a value breaks a rule."""
        raw = self.body + b"".join(signature.encode() for signature in self.signatures)
        parse(raw)
        return raw


@dataclass(frozen=True)
class Verified:
    """A manifest that may be believed, and who vouches for it: key ids, or the dev key."""

    manifest: Manifest
    signers: tuple[str, ...]
    dev: bool


def make(
    app: str,
    cls: str,
    seq: int,
    files: Mapping[str, bytes],
    *,
    floor: int = 0,
    mpy: str = "6.3",
    arch: str | None = None,
    entry: str = "main",
    note: str = "-",
    extra: Iterable[tuple[str, str]] = (),
) -> bytes:
    """An unsigned manifest for ``files`` (name in the slot -> content).

    A note that is not plain ASCII stands in an ``x-note`` line in full, as base64 of UTF-8: boards
    sign for it and skip it, and their parser stays as it is.

    Raises:
        Refused: with the code of the rule that a value breaks.
    """
    listed = tuple(File.of(envelope.name(name), files[name]) for name in sorted(files))
    if not note.isprintable():
        raise Refused("syntax", "a note is one line of text")
    if not note.isascii():
        if len(note.encode()) > limits.NOTE_BYTES:
            raise Refused("syntax", f"a note has at most {limits.NOTE_BYTES} bytes in UTF-8")
        extra = ((IN_FULL, base64.b64encode(note.encode()).decode()), *extra)
        note = folded(note)
    return Manifest(app, cls, seq, floor, mpy, entry, listed, note, arch, tuple(extra)).encode()


def folded(text: str) -> str:
    """``text`` in ASCII: letters without their accents, and ``?`` for what has no such form."""
    apart = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in apart if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


def parse(raw: bytes) -> Manifest:
    """Understand a manifest, signed or not, without believing it.

    Raises:
        Refused: ``size``, ``syntax``, ``name`` or ``floor``.
    """
    return _understand(_take_apart(raw))


def add_signature(raw: bytes, private: RSAPrivateKey) -> bytes:
    """``raw`` signed once more. Raises Refused: a broken manifest is never signed."""
    parse(raw)
    return envelope.add_signature(
        raw, PREFIX, private, limits.MANIFEST_BYTES, limits.MANIFEST_SIGNATURES
    )


def verify(raw: bytes, trust: Trust, dev: PublicKey | None = None) -> Verified:
    """Check who signed (rule 9), then understand.

    Args:
        raw: the file.
        trust: the trust file that counts.
        dev: the board's own dev key, if it has one.

    Raises:
        Refused: ``unsigned``, ``key``, ``revoked``, ``threshold``, or as ``parse``.
    """
    sealed = _take_apart(raw)
    if not sealed.signatures:
        raise Refused("unsigned")
    if dev is not None and sealed.signers(PREFIX, [dev]):
        return Verified(_understand(sealed), (dev.id,), dev=True)
    good = sealed.signers(PREFIX, trust.valid("release"))
    if len(good) < trust.release_threshold:
        raise _too_few(sealed, trust, len(good))
    return Verified(_understand(sealed), tuple(sorted(good)), dev=False)


def _too_few(sealed: Envelope, trust: Trust, good: int) -> Refused:
    if good:
        return Refused("threshold", f"{good} of {trust.release_threshold}")
    ids = {signature.key_id for signature in sealed.signatures}
    if revoked := sorted(ids & set(trust.revoked)):
        return Refused("revoked", ", ".join(revoked))
    return Refused("key", ", ".join(sorted(ids)))


def _take_apart(raw: bytes) -> Envelope:
    return envelope.take_apart(raw, limits.MANIFEST_BYTES, limits.MANIFEST_SIGNATURES)


def _understand(sealed: Envelope) -> Manifest:
    lines = Lines(sealed.body)
    if lines.line() != HEADER:
        raise Refused("syntax", f"the first line is not '{HEADER}'")
    app = envelope.word(lines.value("app"))
    cls = envelope.word(lines.value("class"))
    seq = envelope.number(lines.value("seq"))
    floor = envelope.number(lines.value("floor"))
    mpy = lines.value("mpy")
    if mpy.count(".") != 1:
        raise Refused("syntax", f"'mpy {mpy[:40]}' should look like 'mpy 6.3'")
    for part in mpy.split("."):
        envelope.number(part)
    arch = envelope.word(lines.value("arch")) if lines.peek() == "arch" else None
    entry = envelope.word(lines.value("entry"))
    total = envelope.number(lines.value("total"))
    files = [_file(lines)]
    while lines.peek() == "file":
        files.append(_file(lines))
    note = lines.value("note")
    extra: list[tuple[str, str]] = []
    while (key := lines.peek()).startswith("x-") and len(key) > len("x-"):
        extra.append((key[len("x-") :], lines.value(key)))
    lines.end()
    if floor > seq:
        raise Refused("floor", f"{floor} is above {seq}")
    _check_files([file.name for file in files], entry)
    if total != sum(file.size for file in files):
        raise Refused("syntax", "'total' is not the sum of the sizes")
    return Manifest(
        app, cls, seq, floor, mpy, entry, tuple(files), note, arch, tuple(extra), sealed.signatures
    )


def _file(lines: Lines) -> File:
    name, size, digest = lines.fields("file", 3)
    if not _SHA256.fullmatch(digest):
        raise Refused("syntax", f"the hash of '{name[:80]}' is not 64 lower-case hex digits")
    return File(envelope.name(name), envelope.number(size), digest)


def _check_files(names: list[str], entry: str) -> None:
    """Rules 4 to 8, as far as they are about names."""
    if len(names) > limits.FILES:
        raise Refused("syntax", f"{len(names)} files, {limits.FILES} are allowed")
    if any(earlier >= later for earlier, later in pairwise(names)):
        raise Refused("syntax", "the files are not sorted, or one is listed twice")
    if not {f"{entry}.py", f"{entry}.mpy"} & set(names):
        raise Refused("syntax", f"the entry '{entry}' is not among the files")
    folders = _folders(names)
    modules = [stem(name) for name in names if stem(name) != name]
    _check_distinct([*modules, *folders])
    _check_distinct([*names, *folders, RESERVED])
    for folder, entries in folders.items():
        _check_count(folder, len(entries))
    _check_count("/", len({name.split("/")[0] for name in names}))


def _folders(names: Iterable[str]) -> dict[str, set[str]]:
    """Each folder below the top and what lies directly in it."""
    folders: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    return folders


def _check_distinct(names: Iterable[str]) -> None:
    for earlier, later in pairwise(sorted(names)):
        if earlier == later:
            raise Refused("name", f"two things are called '{later}'")


def _check_count(folder: str, entries: int) -> None:
    if entries > limits.FOLDER_ENTRIES:
        raise Refused(
            "syntax", f"{entries} entries in '{folder}', {limits.FOLDER_ENTRIES} are allowed"
        )


def stem(name: str) -> str:
    """What ``import`` would call a module's file; other names come back as they are (rule 7)."""
    for suffix in (".mpy", ".py"):
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name
