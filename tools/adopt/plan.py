"""What becomes of each file of a board that is adopted.

Code becomes the first release; other files are copied to /data, where a release finds them by
relative names; everything else stays where it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ...signing import envelope
from ...signing.manifest import stem
from ...signing.reasons import Refused
from .. import places
from ..app.compile import modules
from ..board.remote import show
from ..console import Failure

BOOT, MAIN = b"/boot.py", b"/main.py"
OURS = (b"/bootloader", b"/trust", b"/state", b"/app_slots")
"""Folders that the boot stage keeps for itself."""
DATA = b"/data"
_SECRET = ("webrepl_cfg.py",)
_AS_SCRIPT = re.compile(rb"__name__\s*==\s*([\"'])__main__\1")
Tree = Mapping[bytes, bytes | None]


@dataclass(frozen=True)
class Plan:
    """What becomes of each file of a board.

    Attributes:
        files: the release's, by name in the slot, compiled.
        code: paths that the release takes the place of; removed at the end.
        data: path -> path of its copy.
        left: path -> why nothing happens to it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    code: list[bytes] = field(default_factory=list)
    data: dict[bytes, bytes] = field(default_factory=dict)
    left: dict[bytes, str] = field(default_factory=dict)


def plan(tree: Tree, cls: str) -> Plan:
    """Sort a board's files (path -> content, None for a folder).

    Raises:
        Failure: the board cannot be adopted as it is; says which file stands in the way.
    """
    _check_free(tree)
    made = Plan()
    for path, content in sorted(tree.items()):
        name = _slot_name(path)
        if content is None or path in (BOOT, MAIN):
            continue
        if path.startswith(DATA + b"/"):
            made.left[path] = "it is in /data already"
        elif name is None:
            _take_data(made, path, tree)
        elif name.endswith(".mpy") and path[:-3] + b"py" in tree:
            made.code.append(path)  # MicroPython never looked at it beside the source
        elif path[: -len(Path(name).suffix)] in tree:
            made.code.append(path)  # nor at a module beside a package of its name
        else:
            _take_code(made, path, name, content, cls)
    if MAIN in tree:
        made.files["main.py"] = _as_module(tree[MAIN] or b"")
        _compiled("main.py", made.files["main.py"], cls)
    return made


def _check_free(tree: Tree) -> None:
    taken = [path for path in OURS if path in tree or path + b".py" in tree]
    if DATA in tree and tree[DATA] is not None:
        taken.append(DATA)
    if taken:
        raise Failure(
            f"the board has a {show(taken[0])} of its own, where the boot stage keeps its files",
            "rename it there and in the program, and run it again",
        )
    for path in tree:
        if path.count(b"/") == 1 and stem(show(path[1:])) in firmware_modules():
            raise Failure(
                f"{show(path)} would hide a module of the firmware from the boot stage",
                "move it to /lib, or rename it, and run it again",
            )


@cache
def firmware_modules() -> frozenset[str]:
    """The modules of the firmware that the boot stage imports."""
    names: set[str] = set()
    for source in places.sources("bootloader").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return frozenset(names - {"bootloader", "ota"})


def _slot_name(path: bytes) -> str | None:
    """The path in a release, of what can be imported; None for everything else."""
    try:
        name = envelope.name(path[1:].decode("ascii"))
    except (UnicodeDecodeError, Refused):
        return None
    if stem(name) == name or name in _SECRET or "-" in name:
        return None
    return name


def _take_data(made: Plan, path: bytes, tree: Tree) -> None:
    target = DATA + path
    if path.rpartition(b"/")[2].decode("ascii", "replace") in _SECRET:
        made.left[path] = "passwords are in the board file from now on"
    elif target in tree or path.startswith(b"/settings"):
        made.left[path] = f"{show(target)} has another meaning"
    else:
        made.data[path] = target


def _take_code(made: Plan, path: bytes, name: str, content: bytes, cls: str) -> None:
    try:
        target, compiled = _compiled(name, content, cls)
    except Failure as failure:
        made.left[path] = failure.text
        return
    made.code.append(path)
    made.files[target] = compiled


def _compiled(name: str, content: bytes, cls: str) -> tuple[str, bytes]:
    if name.endswith(".mpy"):
        return name, content
    return f"{stem(name)}.mpy", modules.compile_module(content, name, cls)


def _as_module(source: bytes) -> bytes:
    """main.py as a release's entry, which is imported and hence called "main"."""
    return _AS_SCRIPT.sub(rb'__name__ in ("__main__", "main")', source)
