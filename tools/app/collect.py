"""Which files a release is made of.

What goes into a slot: everything in the app's folder that is for boards. `runtime/` comes from the
app or, if it has none, from this installation: the loop and the installer, what these import, and
what the app imports. Of `drivers/` and `utilities/`, what is imported; the app's own come first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...signing import manifest
from .. import places
from ..console import Failure
from ..files import failed
from . import leaks, packages, source

SHARED = ("drivers", "utilities")  # what is not imported stays at home
# In any case: the loop and the installer, and what stands in the place of the firmware's mip.
RUNTIME = ("runtime/__init__.py", "runtime/loop.py", "runtime/installer.py", "lib/mip.py")
NOT_FOR_BOARDS = re.compile(
    r"app\.toml|mip\.lock|README.*|LICENSE.*|build|tests|Makefile", re.IGNORECASE
)


def collect(app_dir: Path, with_runtime: bool, public: Iterable[str] = ()) -> dict[str, Path]:
    """Name in the slot (still as source) -> file, of everything the app needs.

    Args:
        app_dir: the app's folder.
        with_runtime: whether the release is to hold the runtime.
        public: files that are no secret although they are called like one.

    Raises:
        Failure: something secret, something ambiguous or something missing.
    """
    own = dict(_walk(app_dir))
    for name, path in own.items():
        leaks.well_known(path, name, public)
    if "main.py" not in own:
        raise Failure(f"{app_dir} is no app: it has no main.py", "start one with `mipy new DIR`")
    root = places.sources("app_slots")
    project = own if app_dir.resolve() == root.resolve() else dict(_walk(root))
    chosen = {name: path for name, path in own.items() if top(name) not in SHARED}
    offered = {name: path for name, path in project.items() if top(name) in SHARED}
    chosen = {name: path for name, path in chosen.items() if top(name) != "runtime"}
    if with_runtime:
        base = own if any(top(name) == "runtime" for name in own) else project
        offered |= {name: path for name, path in base.items() if top(name) == "runtime"}
        taken = {_module(name) for name in chosen}
        chosen |= {
            name: base[name] for name in RUNTIME if name in base and _module(name) not in taken
        }
    for name in [name for name in own if top(name) in SHARED]:
        offered = {
            other: path for other, path in offered.items() if _module(other) != _module(name)
        }
    offered |= {name: path for name, path in own.items() if top(name) in SHARED}
    chosen |= _imported(chosen, offered)
    _check_twins(chosen)
    packages.check(app_dir)
    return chosen


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """(name in the slot, file) below `folder`, without what is not for boards."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as problem:
        raise failed(f"cannot read {folder}", problem, "name an app's folder") from None
    for path in entries:
        if path.name.startswith("."):
            leaks.well_known(path, prefix + path.name)
            continue
        if path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if not prefix and NOT_FOR_BOARDS.fullmatch(path.name):
            continue
        if path.is_symlink():
            raise Failure(f"{path} is a link", "put the file itself there")
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/")
        else:
            yield prefix + path.name, path


def left_out(app_dir: Path) -> list[str]:
    """Folders at an app's top that are not for boards, but for one that builds went to."""
    return sorted(
        path.name
        for path in app_dir.iterdir()
        if path.is_dir() and NOT_FOR_BOARDS.fullmatch(path.name)
        if any(file.suffix != ".ota" for file in path.iterdir())
    )


def is_module(name: str) -> bool:
    """Whether a file of a slot, still as source, is Python that a board runs."""
    return name.endswith(".py") and top(name) != "www"


def top(name: str) -> str:
    """The folder at the top of a slot that holds the file `name`; empty for none."""
    return name.split("/", 1)[0] if "/" in name else ""


def _module(name: str) -> str:
    """`drivers/led.py`, `drivers/led.mpy` and `drivers/led/x.py` are all of `drivers/led`."""
    return manifest.stem("/".join(name.split("/")[:2]))


def _imported(chosen: Mapping[str, Path], offered: Mapping[str, Path]) -> dict[str, Path]:
    """Those of `offered` that `chosen` imports, and what they import in turn."""
    taken: dict[str, Path] = {}
    shared = {*SHARED, *map(top, offered)}
    unread = dict(chosen)
    while unread:
        found: dict[str, Path] = {}
        for name, path in unread.items():
            if not is_module(name):
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
    names: set[str] = set()
    for node in ast.walk(source.parsed(path)):
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
