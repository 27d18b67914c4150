"""`mipy build`: an app's folder becomes an unsigned release.

What goes into a slot: main.py and config.py as they are (unless everything is to be compiled),
every other module as bytecode, everything else as it is. `runtime/` comes from the app or, if it
has none, from this installation: the loop and the installer, what these import, and what the app
imports. Of `drivers/` and `utilities/` travels what is imported, from the app first. The same input
gives the same bytes, wherever and whenever it is built.
"""

from __future__ import annotations

import ast
import re
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from ...signing import bundle, limits, manifest
from ...signing.reasons import Refused
from .. import console, places
from ..console import Failure
from ..files import write
from . import bytecode, config, mip, names

FACTS = "app.toml"
SEQ_EPOCH = 1_577_836_800  # 2020-01-01 UTC; a seq counts minutes from here
BYTECODE = "6.3"
BYTECODE_MAJOR = 6

SOURCE_FILES = ("main.py", "config.py")  # stay readable on the board
SHARED = ("drivers", "utilities")  # what is not imported stays at home
OURS = ("runtime", *SHARED)  # whose names are made short
# In any case: the loop and the installer, and what stands in the place of the firmware's mip.
RUNTIME = ("runtime/__init__.py", "runtime/loop.py", "runtime/installer.py", "lib/mip.py")
NOT_FOR_BOARDS = re.compile(
    r"app\.toml|mip\.lock|README.*|LICENSE.*|build|tests|Makefile", re.IGNORECASE
)

# Nothing secret may be in a release: whoever listens can read it.
SECRETS = (
    (
        re.compile(r"wifi\.json"),
        "Wi-Fi passwords go to each board through its portal; move the file out of the app",
    ),
    (
        re.compile(r".*\.(pem|key)"),
        "private keys belong to `mipy keys` (new, restore); move the file out of the app",
    ),
    (
        re.compile(r"webrepl_cfg\.py"),
        "each board has its own WebREPL password in its board file; delete this file",
    ),
    (
        re.compile(r"\.env(\..*)?"),
        "settings without secrets belong into config.py; move the file out of the app",
    ),
)

# mpy-cross's architectures, by their number in an .mpy header (py/persistentcode.h).
ARCHITECTURES = (
    "", "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp",
    "xtensa", "xtensawin", "rv32imc", "rv64imc",
)  # fmt: skip

HEAP_PER_BYTECODE = 1.6  # bytes of heap a module of one byte takes when imported from LittleFS
# Modules of runtime/ that are no burden beside an app: it lends them, for a moment.
LENT = frozenset(
    "answers copies describe discovery health installer mqtt_open orders pages poll report roam"
    " settings web".split()
)
BLOCK = 4096
BOOT_STAGE_BLOCKS = 40


@dataclass(frozen=True)
class Chip:
    """What a family of boards can hold; sizes in bytes. `flash` is the file system's size."""

    march: str
    heap: int
    flash: int


# The first entry that a class's name, less "generic" and hyphens, begins with.
CHIPS = {
    "esp82661m": Chip("xtensa", 18 * 1024, 392 * 1024),
    "esp8266": Chip("xtensa", 18 * 1024, 1004 * 1024),
    **{
        f"esp32{kind}": Chip("rv32imc", 100 * 1024, 2048 * 1024)
        for kind in ("c2", "c3", "c5", "c6", "h2", "p4")
    },
    "esp32": Chip("xtensawin", 100 * 1024, 2048 * 1024),
}


def chip_of(cls: str) -> Chip | None:
    """What is known about a class of boards; None when its name tells nothing."""
    name = cls.replace("generic", "").replace("-", "")
    return next((chip for prefix, chip in CHIPS.items() if name.startswith(prefix)), None)


@dataclass(frozen=True)
class Facts:
    """An app's app.toml."""

    name: str
    classes: tuple[str, ...]
    runtime: bool = True
    floor: int = 0


def facts(folder: Path) -> Facts:
    """Read `folder`/app.toml.

    Raises:
        Failure: it is missing or says something that has no meaning.
    """
    path = folder / FACTS
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Failure(
            f"{folder} is no app: it has no {FACTS}", "start one with `mipy new DIR`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise Failure(f"cannot read {path}: {problem}", "mend it") from problem
    kinds = {"name": str, "classes": list, "runtime": bool, "floor": int}
    for key, value in table.items():
        if key not in kinds or type(value) is not kinds[key]:
            raise Failure(
                f"{path}: '{key} = {value!r}' has no meaning",
                'it may say name = "...", classes = ["..."], runtime = true or false, floor = 0',
            )
    classes = table.get("classes", [])
    if "name" not in table or not all(isinstance(cls, str) for cls in classes):
        raise Failure(f"{path}: name and classes are texts", 'write name = "..." into it')
    return Facts(table["name"], tuple(classes), table.get("runtime", True), table.get("floor", 0))


def minutes() -> int:
    """The seq of a release made now: minutes since 2020-01-01 UTC."""
    return int((time.time() - SEQ_EPOCH) // 60)


@dataclass(frozen=True)
class Built:
    """A release: its bundle, its manifest, and what somebody should know."""

    bundle: bytes
    manifest: manifest.Manifest
    warnings: tuple[str, ...]


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
    sources = collect(app_dir, about.runtime)
    # Without the runtime config.py is a module like any other.
    warnings = config.check(sources) if about.runtime else []
    files = compiled(sources, cls, compile_all)
    floor = about.floor if floor is None else floor
    built = packed(about.name, cls, seq, files, floor, note)
    return replace(built, warnings=(*warnings, *built.warnings))


def packed(
    app: str, cls: str, seq: int, files: Mapping[str, bytes], floor: int = 0, note: str = "-"
) -> Built:
    """A release of `files` (name in the slot -> content, modules compiled).

    Raises:
        Failure: they cannot be a release; it says why.
    """
    mpy, arch = _bytecode(files)
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


# --- which files -------------------------------------------------------------------------------


def collect(app_dir: Path, with_runtime: bool) -> dict[str, Path]:
    """Name in the slot (still as source) -> file, of everything the app needs.

    Raises:
        Failure: something secret, something ambiguous or something missing.
    """
    own = dict(_walk(app_dir))
    if "main.py" not in own:
        raise Failure(f"{app_dir} is no app: it has no main.py", "start one with `mipy new DIR`")
    root = places.sources("app_slots")
    project = own if app_dir.resolve() == root.resolve() else dict(_walk(root))
    chosen = {name: path for name, path in own.items() if _top(name) not in SHARED}
    offered = {name: path for name, path in project.items() if _top(name) in SHARED}
    chosen = {name: path for name, path in chosen.items() if _top(name) != "runtime"}
    if with_runtime:
        source = own if any(_top(name) == "runtime" for name in own) else project
        offered |= {name: path for name, path in source.items() if _top(name) == "runtime"}
        taken = {_module(name) for name in chosen}
        chosen |= {
            name: source[name] for name in RUNTIME if name in source and _module(name) not in taken
        }
    for name in [name for name in own if _top(name) in SHARED]:
        offered = {
            other: path for other, path in offered.items() if _module(other) != _module(name)
        }
    offered |= {name: path for name, path in own.items() if _top(name) in SHARED}
    chosen |= _imported(chosen, offered)
    _check_twins(chosen)
    mip.check(app_dir)
    return chosen


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """(name in the slot, file) below `folder`, without what is not for boards."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as problem:
        raise Failure(f"cannot read {folder}: {problem.strerror}", "name an app's folder") from None
    for path in entries:
        for pattern, hint in SECRETS:
            if pattern.fullmatch(path.name.lower()):
                raise Failure(f"{path} must not be in a release", hint)
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if not prefix and NOT_FOR_BOARDS.fullmatch(path.name):
            continue
        if path.is_symlink():
            raise Failure(f"{path} is a link", "put the file itself there")
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name, path


def _top(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else ""


def _module(name: str) -> str:
    """`drivers/led.py`, `drivers/led.mpy` and `drivers/led/x.py` are all of `drivers/led`."""
    return manifest.stem("/".join(name.split("/")[:2]))


def _imported(chosen: Mapping[str, Path], offered: Mapping[str, Path]) -> dict[str, Path]:
    """Those of `offered` that `chosen` imports, and what they import in turn."""
    taken: dict[str, Path] = {}
    shared = {*SHARED, *map(_top, offered)}
    unread = dict(chosen)
    while unread:
        found: dict[str, Path] = {}
        for name, path in unread.items():
            if not name.endswith(".py") or _top(name) == "www":
                continue
            for module in sorted(_imports(path)):
                if module.split(".")[0] in shared:
                    found |= _provide(module, path, offered)
        unread = {name: path for name, path in found.items() if name not in taken}
        taken |= unread
    return taken


def _provide(module: str, path: Path, offered: Mapping[str, Path]) -> dict[str, Path]:
    top, _, below = module.partition(".")
    package = {f"{top}/__init__.py", f"{top}/__init__.mpy"}
    found = {name: file for name, file in offered.items() if name in package}
    if not below:
        return found
    wanted = f"{top}/{below.split('.')[0]}"
    parts = {name: file for name, file in offered.items() if _module(name) == wanted}
    if not parts and not found:
        raise Failure(
            f"{path} imports {module}, which is nowhere", f"write {wanted}.py or drop the import"
        )
    return found | parts


def _imports(path: Path) -> set[str]:
    """Modules that a source file imports, wherever in it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as problem:
        line = getattr(problem, "lineno", 0)
        raise Failure(f"{path}, line {line}: {problem.args[0]}", "mend it") from problem
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            if node.module in (*SHARED, "runtime"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
        elif isinstance(node, ast.Call):
            match node.func, node.args:
                case ast.Name(id="__import__"), [ast.Constant(value=module), *_]:
                    names.add(str(module))
                case (
                    (ast.Attribute(attr="lend") | ast.Name(id="lend")),
                    [ast.Constant(value=module)],
                ):
                    names.add(f"runtime.{module}")
    return names


def _check_twins(files: Mapping[str, Path]) -> None:
    for name in files:
        if name.endswith(".py") and f"{manifest.stem(name)}.mpy" in files:
            raise Failure(
                f"{name} stands beside {manifest.stem(name)}.mpy", "remove one of the two"
            )


# --- bytecode ----------------------------------------------------------------------------------


def compiled(sources: Mapping[str, Path], cls: str, compile_all: bool) -> dict[str, bytes]:
    """Name in the slot -> content, modules compiled.

    Raises:
        Failure: a module does not compile; it says where.
    """
    files = {name: path.read_bytes() for name, path in sources.items()}
    root = places.sources("app_slots")
    ours = {name for name, path in sources.items() if _top(name) in OURS and root in path.parents}
    others = [
        content
        for name, content in files.items()
        if name not in ours and name.endswith((".py", ".mpy")) and _top(name) != "www"
    ]
    short = our_modules(others) if ours else {}
    for name in sorted(sources):
        stays = name in SOURCE_FILES and not compile_all
        if name.endswith(".py") and _top(name) != "www" and not stays:
            text = files.pop(name)
            if name in ours:
                text = short[name].encode()
            runtime = name in ours and _top(name) == "runtime"
            files[f"{manifest.stem(name)}.mpy"] = compile_module(text, name, cls, runtime=runtime)
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
        raise Failure(f"{where}: {problem.msg}", "mend it") from problem


def compile_module(source: bytes, name: str, cls: str, *, runtime: bool = False) -> bytes:
    """Bytecode of the module `name` for boards of class `cls`; see bytecode.compiled().

    On an ESP8266 each byte counts: there the modules of the `runtime` go without lines.
    """
    chip = chip_of(cls)
    with_lines = not (runtime and cls.startswith("esp8266"))
    return bytecode.compiled(source, name, chip.march if chip else None, with_lines=with_lines)


def _bytecode(files: Mapping[str, bytes]) -> tuple[str, str | None]:
    """Values of the manifest's `mpy` and `arch` lines, from the headers of all .mpy files."""
    native: dict[tuple[str, str], str] = {}
    for name, content in files.items():
        if not name.endswith(".mpy"):
            continue
        if len(content) < 4 or content[0:1] != b"M" or content[1] != BYTECODE_MAJOR:
            raise Failure(
                f"{name} is no bytecode of version {BYTECODE_MAJOR}",
                "put its source there, or compile it with a newer mpy-cross",
            )
        number = content[2] >> 2 & 0x0F
        if number:
            arch = ARCHITECTURES[number] if number < len(ARCHITECTURES) else str(number)
            native[f"{content[1]}.{content[2] & 3}", arch] = name
    if len(native) > 1:
        raise Failure(
            f"{' and '.join(sorted(native.values()))} hold native code that no one board runs",
            "compile them for the same processor and version",
        )
    return next(iter(native), (BYTECODE, None))


# --- will it fit -------------------------------------------------------------------------------


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
    heap = int(bytecode * HEAP_PER_BYTECODE)
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


# --- the verb ----------------------------------------------------------------------------------


def app_folder(named: Path | None) -> Path:
    """The app to build: the one named, else the current folder if it is one, else app_slots/."""
    here = Path.cwd()
    return named or (here if (here / FACTS).exists() else places.sources("app_slots"))


def classes_of(app_dir: Path, wanted: list[str] | None) -> tuple[str, ...]:
    """The classes to build for: those asked for, else all that app.toml names.

    Raises:
        Failure: there is none.
    """
    named = tuple(wanted) if wanted else facts(app_dir).classes
    if not named:
        raise Failure("for which class of boards?", "name it, like --class esp8266-generic")
    return named


def build(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The app; here, else app_slots/.")
    ] = None,
    cls: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="Class of boards; all of app.toml's."),
    ] = None,
    seq: Annotated[
        int | None, typer.Option(min=0, help="Number of the release; minutes since 2020.")
    ] = None,
    floor: Annotated[
        int | None, typer.Option(min=0, help="Boards refuse anything below it afterwards.")
    ] = None,
    note: Annotated[str, typer.Option(help="One line for people, like a version.")] = "-",
    compile_all: Annotated[
        bool, typer.Option("--compile-all", help="Compile main.py and config.py too.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to put it.")
    ] = Path("build"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile an app into an unsigned release, one for each class of boards."""
    app_dir = app_folder(folder)
    results: list[dict[str, Any]] = []
    for one in classes_of(app_dir, cls):
        number = next_seq(app_dir, one, output) if seq is None else seq
        built = assemble(app_dir, one, number, floor=floor, note=note, compile_all=compile_all)
        path = save(built, output)
        for warning in built.warnings:
            console.warn(warning)
        if not as_json:
            _show(built, path)
        results.append(_as_data(built, path))
    if as_json:
        console.data(results)


def file_name(made: manifest.Manifest) -> str:
    """What a release's bundle is called."""
    return f"{made.app}-{made.cls}-{made.seq}.ota"


def next_seq(app_dir: Path, cls: str, output: Path) -> int:
    """This minute's seq, or the next that `output` has no release with."""
    name, seq = facts(app_dir).name, minutes()
    while (output / f"{name}-{cls}-{seq}.ota").exists():
        seq += 1
    return seq


def save(built: Built, output: Path) -> Path:
    """Put the bundle into `output`. Raises Failure when it cannot be written."""
    path = output / file_name(built.manifest)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write(path, built.bundle)
    except OSError as problem:
        raise Failure(f"cannot write {path}: {problem.strerror}", "name another --output") from None
    return path


def _show(built: Built, path: Path) -> None:
    made = built.manifest
    rows = [(file.name, f"{file.size:>7}") for file in made.files]
    console.table(
        f"{made.app} for {made.cls}, seq {made.seq}",
        ("file", "  bytes"),
        [*rows, (f"{len(made.files)} files", f"{made.total:>7}")],
    )
    console.say(f"{path} (not signed yet: `mipy sign {path}`)")


def _as_data(built: Built, path: Path) -> dict[str, Any]:
    made = built.manifest
    return {
        "path": str(path),
        "app": made.app,
        "class": made.cls,
        "seq": made.seq,
        "floor": made.floor,
        "digest": made.digest,
        "mpy": made.mpy,
        "arch": made.arch,
        "total": made.total,
        "files": {file.name: file.size for file in made.files},
        "warnings": list(built.warnings),
    }
