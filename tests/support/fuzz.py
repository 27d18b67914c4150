"""Hosts against chip: the same mutated manifests and trust files, the same verdict.

Mutated after they were signed, as anybody on the way can; and before, as a signer's mistake can:
then the rules themselves decide. The chip's own modules run here under CPython, with a few of the
files in the place of flash, and a part of the same files on the real 32-bit MicroPython.

    python -m tests.support.fuzz --count 200000 --chip 5000

A difference is a file that one side takes and the other refuses. One kind is none: of a trust file
that the root keys have signed, the chip does not check everything that the signer and the server do
(LENIENT in tests/host/test_chip_vectors.py says what and why); those are counted beside.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from mipy_ota.signing import manifest, trust
from mipy_ota.signing.reasons import Refused
from mipy_ota.tools import places
from mipy_ota.tools.sim import micropython
from tests.host.test_chip_vectors import judged
from tests.support import vectors

PARALLEL = 500
"""Files that one run of the 32-bit binary judges."""
_SHOWN = 10
_WORDS = (
    b"ota-manifest 1 2 app class seq floor mpy arch entry total file note x-a x- end sig ota-trust"
    b" fleet version threshold root release debug key revoke reset server 0 00 01 -1 2147483647"
    b" 2147483648 4294967296 6.3 6.100 6. .3 6.3.1 main.py main.mpy lib/a.py ../a a//b .a"
    b" manifest manifest/a http://10.0.0.1:80 https://a xtensa"
).split()


@dataclass(frozen=True)
class Case:
    """A file, the trust file that counts, and whether the file is to follow that as the next."""

    raw: bytes
    trust: bytes
    step: bool
    signed: bool
    """Whether it was signed after it had been changed."""


# --- mutations


def _flip(r: random.Random, raw: bytes) -> bytes:
    at = r.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << r.randrange(8)]) + raw[at + 1 :]


def _cut(r: random.Random, raw: bytes) -> bytes:
    a, b = sorted(r.randrange(len(raw) + 1) for _ in range(2))
    return raw[:a] + raw[min(b, a + r.choice((1, 2, 8, 400))) :]


def _insert(r: random.Random, raw: bytes) -> bytes:
    at = r.randrange(len(raw) + 1)
    what = r.choice(
        (b"\n", b" ", b"  ", b"\r", b"\0", b"\t", b"0", b"\xff", b"x" * 170, b"/", b".")
    )
    return raw[:at] + what + raw[at:]


def _line(r: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    a, b = r.randrange(len(lines)), r.randrange(len(lines))
    match r.randrange(4):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            lines[a], lines[b] = lines[b], lines[a]
        case _:
            lines[a:a] = [lines[a]] * r.choice((1, 2, 40, 70))
    return b"\n".join(lines)


def _word(r: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    at = r.randrange(len(lines))
    words = lines[at].split(b" ")
    words[r.randrange(len(words))] = r.choice(_WORDS)
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _number(r: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    at = r.randrange(len(lines))
    words = lines[at].split(b" ")
    places_ = [n for n, word in enumerate(words) if word.isdigit()]
    if places_:
        n = r.choice(places_)
        words[n] = b"%d" % max(0, int(words[n]) + r.choice((-1, 1, 1 << 31, 1 << 32, -1 << 20)))
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _cut, _insert, _line, _word, _number,
)  # fmt: skip


def mutated(r: random.Random, raw: bytes) -> bytes:
    """`raw` with one to three changes."""
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        raw = r.choice(_CHANGES)(r, raw) if raw else b"\n"
    return raw


# --- cases


def _bodies() -> list[bytes]:
    return [body for _, body, code in vectors.bodies() if not code]


def _trusts() -> list[bytes]:
    old = trust.parse(vectors.first_trust())
    public = vectors.public
    made = (
        trust.following(old, add=[("debug", public("debug2"))], server="http://10.0.0.2:80"),
        trust.following(old, revoke=[public("release2").id], reset=(5, 4)),
        trust.following(old, add=[("root", public("root2"))]),
    )
    return [one.body for one in made]


def cases(seed: int, count: int) -> Iterator[Case]:
    """The same ones for the same seed."""
    r = random.Random(seed)
    first = vectors.first_trust()
    kinds = (
        (_bodies(), manifest.PREFIX, "release2", False),
        (_trusts(), trust.PREFIX, "root", True),
    )
    for _ in range(count):
        bodies, prefix, key, step = kinds[r.random() < 0.4]
        body = r.choice(bodies)
        signed = r.random() < 0.6
        if signed:
            body = mutated(r, body)
            raw = body + vectors.signature(body, key, prefix)
        else:
            raw = mutated(r, body + _signature(body, key, prefix))
        yield Case(raw, first, step, signed)


_signatures: dict[bytes, bytes] = {}


def _signature(body: bytes, key: str, prefix: bytes) -> bytes:
    if body not in _signatures:
        _signatures[body] = vectors.signature(body, key, prefix)
    return _signatures[body]


# --- verdicts: a reason code, "" where the file is taken


def host(case: Case) -> str:
    """What signer and server say."""
    by = trust.parse(case.trust)
    try:
        if case.step:
            trust.verify_next(by, case.raw)
        else:
            manifest.verify(case.raw, by)
    except Refused as refused:
        return refused.code
    return ""


class Chip:
    """The boot stage's own modules under CPython, on files in memory."""

    def __init__(self) -> None:
        stage = types.ModuleType("bootloader")
        stage.__path__ = [str(places.sources("bootloader"))]
        const = types.ModuleType("micropython")
        const.const = lambda value: value  # type: ignore[attr-defined]
        ota = types.ModuleType("ota")
        before = dict(sys.modules)
        sys.modules |= {"bootloader": stage, "micropython": const, "ota": ota}
        names = ("manifest", "manifest_syntax", "trust", "trust_update", "record")
        loaded: list[Any] = [importlib.import_module(f"bootloader.{name}") for name in names]
        self._manifest, self.syntax, self._trust, self._update, self._record = loaded
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)
        self._files: dict[str, bytes] = {}
        for module in loaded:
            module.open = self._open
            module.print = lambda *words: None
        self._record.store = lambda r: None
        self._update._copy = lambda source, path: None

    def _open(self, name: str, mode: str = "r") -> BytesIO:
        if name not in self._files:
            raise OSError(2)
        return BytesIO(self._files[name])

    def judge(self, case: Case) -> str:
        """What the chip says."""
        self._files = {"new": case.raw}
        self._files |= dict.fromkeys(("/trust/0/trust", "/trust/1/trust"), case.trust)
        try:
            if case.step:
                self._update.apply_next("new", self._record.Record(), 2)
            else:
                self._trust.verify("new", manifest.PREFIX, {})
                self.syntax.check_manifest(BytesIO(case.raw))
        except self._manifest.Rejected as rejected:
            return str(rejected.args[0])
        except Exception as problem:
            return f"crash: {problem!r}"
        return ""


@dataclass
class Figures:
    """What came of it.

    `lenient`: trust files signed by the root keys that only the host refuses; `codes`: refused by
    both, for different reasons.
    """

    judged: int = 0
    taken: int = 0
    lenient: int = 0
    codes: int = 0
    differences: list[str] = field(default_factory=list)

    def note(self, case: Case, there: str, here: str) -> None:
        """Compare the host's verdict with the chip's."""
        self.judged += 1
        there, here = there or "taken", here or "taken"
        same = (there == "taken") == (here == "taken")
        self.taken += here == "taken"
        if same and not here.startswith("crash"):
            self.codes += there != here
        elif case.step and case.signed and here == "taken":
            self.lenient += 1
        else:
            kind = "trust file" if case.step else "manifest"
            self.differences.append(f"file {self.judged}, a {kind}: host {there}, chip {here}")

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.judged} judged, {self.taken} taken by the chip, {len(self.differences)}"
                f" differences, {self.codes} refused for different reasons,"
                f" {self.lenient} of the root keys' own mistakes taken by the chip",
                *self.differences[:_SHOWN],
            )
        )


def compare(seed: int, count: int, chip: Chip | None = None) -> Figures:
    """Under CPython."""
    chip, figures = chip or Chip(), Figures()
    for case in cases(seed, count):
        figures.note(case, host(case), chip.judge(case))
    return figures


def compare_on_chip(seed: int, count: int) -> Figures:
    """On the 32-bit binary."""
    figures = Figures()
    some: list[Case] = []
    mpy = micropython.binary()
    for n, case in enumerate(cases(seed, count), 1):
        some.append(case)
        if n % PARALLEL and n != count:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = [(one.raw, one.trust, "", one.step) for one in some]
            for one, said in zip(some, judged(mpy, Path(folder), rows), strict=True):
                known = "crash: " + said if "(" in said else said
                figures.note(one, host(one), known)
        some = []
    return figures


def main(words: Sequence[str]) -> int:
    """Compare; 1 where host and chip differ."""
    parser = argparse.ArgumentParser(prog="fuzz", description=main.__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="files judged under CPython")
    parser.add_argument("--chip", type=int, default=5_000, help="of them on the 32-bit binary")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args(words)
    failed = Counter[str]()
    for name, run, count in (
        ("CPython", compare, given.count),
        ("32-bit MicroPython", compare_on_chip, given.chip),
    ):
        figures = run(given.seed, count)
        print(f"seed {given.seed}, {name}: {figures}", flush=True)
        failed[name] = len(figures.differences)
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
