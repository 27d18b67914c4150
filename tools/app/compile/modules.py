"""The modules of a release, as bytecode.

main.py and config.py stay as they are, unless everything is to be compiled. The project's own
modules get names that every firmware has (names.py). The same input gives the same bytes,
wherever and whenever it is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ....signing import manifest
from ... import places
from ...console import Failure
from .. import source
from ..collect import SHARED, is_module, top
from . import bytecode, names
from .chips import chip_of

BYTECODE = "6.3"
BYTECODE_MAJOR = 6
SMALL_INT_BITS = 31  # of a chip; an .mpy file that needs more is refused there
SOURCE_FILES = ("main.py", "config.py")  # stay readable on the board
OURS = ("runtime", *SHARED)  # whose names are made short
# mpy-cross's architectures, by their number in an .mpy header (py/persistentcode.h).
ARCHITECTURES = (
    "", "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp",
    "xtensa", "xtensawin", "rv32imc", "rv64imc",
)  # fmt: skip


def compiled(sources: Mapping[str, Path], cls: str, compile_all: bool) -> dict[str, bytes]:
    """Name in the slot -> content, modules compiled.

    Raises:
        Failure: a module does not compile; it says where.
    """
    files = {
        name: source.read(path) if is_module(name) else path.read_bytes()
        for name, path in sources.items()
    }
    root = places.sources("app_slots")
    ours = {name for name, path in sources.items() if top(name) in OURS and root in path.parents}
    others = [
        content
        for name, content in files.items()
        if name not in ours and name.endswith((".py", ".mpy")) and top(name) != "www"
    ]
    short = our_modules(others) if ours else {}
    for name in sorted(sources):
        if not is_module(name):
            continue
        text = short[name].encode() if name in ours else files[name]
        # Of what stays readable, too: a board would refuse it as mpy-cross does.
        made = compile_module(text, name, cls)
        if compile_all or name not in SOURCE_FILES:
            del files[name]
            files[f"{manifest.stem(name)}.mpy"] = made
    return files


def our_sources() -> dict[str, str]:
    """Name in a slot -> text, of the project's own modules."""
    root = places.sources("app_slots")
    return {path.relative_to(root).as_posix(): path.read_text("utf-8")
            for folder in OURS for path in sorted((root / folder).rglob("*.py"))}  # fmt: skip


def our_modules(beside: Iterable[bytes]) -> dict[str, str]:
    """The same with names that every firmware has (names.py), but for those `beside` may use.

    Raises:
        Failure: one of them is no Python; it says where.
    """
    try:
        return names.short(our_sources(), beside)
    except SyntaxError as problem:
        where = f"{problem.filename}, line {problem.lineno}"
        raise Failure(f"{where}: {problem.msg}", "correct that line") from problem


def compile_module(text: bytes, name: str, cls: str) -> bytes:
    """Bytecode of the module `name` for boards of class `cls`; see bytecode.compiled()."""
    chip = chip_of(cls)
    return bytecode.compiled(text, name, chip.march if chip else None)


def version(files: Mapping[str, bytes], cls: str) -> tuple[str, str | None]:
    """Values of the manifest's `mpy` and `arch` lines, from the headers of all .mpy files.

    Raises:
        Failure: a file is not bytecode, or boards of class `cls` do not run it.
    """
    chip = chip_of(cls)
    native: dict[tuple[str, str], str] = {}
    for name, content in files.items():
        if not name.endswith(".mpy"):
            continue
        if len(content) < 4 or content[0:1] != b"M" or content[1] != BYTECODE_MAJOR:
            raise Failure(
                f"{name} is no bytecode of version {BYTECODE_MAJOR}",
                "put its source there, or compile it with a newer mpy-cross",
            )
        if content[3] > SMALL_INT_BITS:
            raise Failure(
                f"{name} is compiled for words of more than 32 bits",
                "put its source there, or compile it without -msmall-int-bits",
            )
        number = content[2] >> 2 & 0x0F
        if number:
            arch = ARCHITECTURES[number] if number < len(ARCHITECTURES) else str(number)
            if chip and arch != chip.march:
                raise Failure(
                    f"{name} holds native code for {arch}; {cls} has {chip.march}",
                    "put its source there, or one compiled for that",
                )
            native[f"{content[1]}.{content[2] & 3}", arch] = name
    if len(native) > 1:
        raise Failure(
            f"{' and '.join(sorted(native.values()))} hold native code that no one board runs",
            "compile them for the same processor and version",
        )
    return next(iter(native), (BYTECODE, None))
