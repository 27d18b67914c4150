"""An app's folder becomes an unsigned release.

What goes into a slot is chosen by collect.py and compiled by modules.py. The same input gives the
same bytes, wherever and whenever it is built.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...signing import bundle, limits, manifest
from ...signing.reasons import Refused
from ..console import Failure
from . import checks
from .collect import collect, left_out
from .compile.chips import chip_of
from .compile.modules import compiled, version
from .project import FACTS, facts

SEQ_EPOCH = 1_577_836_800  # 2020-01-01 UTC; a seq counts minutes from here
# Modules of runtime/ that are no burden beside an app: it lends them, for a moment.
LENT = frozenset(
    "describe discovery health installer mqtt_connect mqtt_tls network_changes poll poll_reply"
    " report settings settings_store web web_answer web_io".split()
)
BLOCK = 4096
BOOT_STAGE_BLOCKS = 40


def minutes() -> int:
    """The seq of a release made now: minutes since 2020-01-01 UTC."""
    return int((time.time() - SEQ_EPOCH) // 60)


@dataclass(frozen=True)
class Built:
    """A release: its bundle, its manifest, what somebody should know, and what stayed at home."""

    bundle: bytes
    manifest: manifest.Manifest
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def make(
    app_dir: Path,
    cls: str,
    seq: int,
    *,
    floor: int | None = None,
    note: str = "-",
    compile_all: bool = False,
) -> bytes:
    """The unsigned bundle of `app_dir` for boards of class `cls`; see `assemble`."""
    return assemble(app_dir, cls, seq, floor=floor, note=note, compile_all=compile_all).bundle


def assemble(
    app_dir: Path,
    cls: str,
    seq: int,
    *,
    floor: int | None = None,
    note: str = "-",
    compile_all: bool = False,
) -> Built:
    """Build a release.

    Args:
        app_dir: folder with main.py and app.toml.
        cls: class of boards.
        seq: the release's number.
        floor: releases below it are refused once this one is confirmed; None takes app.toml's.
        note: one line for people.
        compile_all: compile main.py and config.py too.

    Raises:
        Failure: the app cannot be a release; it says why.
    """
    about = facts(app_dir)
    sources = collect(app_dir, about.runtime, about.public)
    warnings = checks.check(app_dir, about, sources, cls)
    files = compiled(sources, cls, compile_all)
    floor = about.floor if floor is None else floor
    built = packed(about.name, cls, seq, files, floor, note)
    return replace(built, warnings=(*warnings, *built.warnings), left_out=tuple(left_out(app_dir)))


def packed(
    app: str, cls: str, seq: int, files: Mapping[str, bytes], floor: int = 0, note: str = "-"
) -> Built:
    """A release of `files` (name in the slot -> content, modules compiled).

    Raises:
        Failure: they cannot be a release; it says why.
    """
    mpy, arch = version(files, cls)
    try:
        raw = manifest.make(app, cls, seq, files, floor=floor, mpy=mpy, arch=arch, note=note)
    except Refused as refused:
        raise Failure(f"this cannot be a release: {refused}", _remedy(refused)) from refused
    made = bundle.write(raw, files)
    if len(made) > limits.BUNDLE_BYTES:
        raise Failure(
            f"the release has {len(made)} bytes, {limits.BUNDLE_BYTES} are allowed",
            "leave out what the board does not need",
        )
    return Built(made, manifest.parse(raw), tuple(_warnings(files, cls)))


def _remedy(refused: Refused) -> str:
    if refused.code == "name":
        return "rename it: letters, digits, _ . - and at most 64 in a path; each name once"
    if refused.code == "floor":
        return f"lower the floor in {FACTS}, or take a higher seq"
    return (
        f"a release has a main.py, at most {limits.FILES} files, "
        f"{limits.FOLDER_ENTRIES} entries in a folder and short lines of plain ASCII"
    )


def _warnings(files: Mapping[str, bytes], cls: str) -> Iterator[str]:
    chip = chip_of(cls)
    if chip is None:
        yield f"nothing is known about the class {cls}: whether the release fits is not checked"
        return
    lent = {f"runtime/{name}.mpy" for name in LENT}
    bytecode = sum(
        len(content)
        for name, content in files.items()
        if name.endswith(".mpy") and name not in lent
    )
    heap = int(bytecode * chip.taken)
    if heap > chip.heap:
        yield (
            f"{bytecode} bytes of bytecode take some {heap} of heap if all is imported; "
            f"{cls} has about {chip.heap} for it"
        )
    needed = (2 * slot_blocks(files) + BOOT_STAGE_BLOCKS) * BLOCK
    if needed > chip.flash:
        yield f"two slots of this size need {needed} bytes of flash, {cls} has {chip.flash}"


def slot_blocks(files: Mapping[str, bytes]) -> int:
    """Blocks of flash that a slot takes: two a folder, and the files' own."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return 2 * len(folders) + sum(-(-len(content) // BLOCK) for content in files.values())
