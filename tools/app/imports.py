"""What an app imports, and who provides it: its own files, the runtime or the chip's firmware.

A board looks for a module in the slot, in the slot's lib/, and in the firmware; but what the
firmware calls a built-in of its own comes first, and what is named like another of its modules
hides that (py/builtinimport.c).

The tables are stock MicroPython's, 1.22 to 1.29: `MP_REGISTER_MODULE` and
`MP_REGISTER_EXTENSIBLE_MODULE` in its source, the boards' manifests for frozen modules. One that
only some of these versions have counts as there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ...signing.manifest import stem
from .. import places
from ..console import Failure
from . import source
from .lint_device import INSTEAD_OF_MODULE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Found before any file, so that a file of that name is never imported.
_FIXED = _words(
    "__main__ _asyncio _espnow _onewire _webrepl builtins deflate esp framebuf gc math micropython"
    " network sys tls uctypes vfs"
)
# Behind the files; with a `u` in front they are had without them.
_EXTENSIBLE = _words(
    "array binascii collections cryptolib errno hashlib heapq io json machine os platform random"
    " re select socket struct time websocket"
)
_FROZEN = _words(
    "_boot dht ds18x20 espnow flashbdev inisetup mip neopixel ntptime onewire requests"
    " ssl urequests webrepl webrepl_setup"
)
_ASYNCIO = _words(
    "asyncio asyncio.core asyncio.event asyncio.funcs asyncio.lock asyncio.stream asyncio.task"
    " uasyncio"
)
_UMQTT = _words("umqtt umqtt.robust umqtt.simple upysh")
_ESP8266 = _words("apa102 btree lwip port_diag")
_ESP32 = _words(
    "_thread aioespnow apa106 bluetooth btree cmath esp32"
)  # its classic chip's; _LACKS says what others do without
_LACKS = {
    "esp32c2": _words("_thread"),
    "esp32h2": _words("_espnow aioespnow espnow"),
    "esp32p4": _words("_espnow aioespnow bluetooth espnow"),
    "esp32s2": _words("bluetooth"),
}
_COMMON = _FIXED | _EXTENSIBLE | {f"u{name}" for name in _EXTENSIBLE} | _FROZEN
_FAMILIES = {
    "esp82661m": _COMMON | _ESP8266,
    "esp8266": _COMMON | _ESP8266 | _ASYNCIO | _UMQTT | {"ssd1306"},
    "esp32": _COMMON | _ESP32 | _ASYNCIO | _UMQTT,
}
EVERYWHERE = frozenset[str]().union(*_FAMILIES.values())

# The boot stage's, which is loaded when the app starts; bootloader is lent by ota.stage() alone.
_OURS = frozenset({"ota", "bootloader"})
_CATCHES = frozenset({"ImportError", "Exception", "BaseException"})


def firmware(cls: str) -> frozenset[str] | None:
    """Modules of the stock firmware for a class of boards; None when its name tells nothing."""
    name = cls.replace("generic", "").replace("-", "")
    found = next((table for prefix, table in _FAMILIES.items() if name.startswith(prefix)), None)
    lacks = next((table for prefix, table in _LACKS.items() if name.startswith(prefix)), set())
    return found - lacks if found is not None else None


class Import(NamedTuple):
    """A wish of an import statement. `certain`: under no `if` that may spare the board it."""

    module: str
    line: int
    certain: bool


def imports(tree: ast.Module, package: str = "") -> Iterator[Import]:
    """All that a module imports, at its beginning or later, and cannot do without.

    Args:
        tree: the module.
        package: the package that it is in, for relative imports.
    """
    yield from _imports(tree.body, package, True)


def _imports(steps: Iterable[ast.stmt], package: str, certain: bool) -> Iterator[Import]:
    for step in steps:
        match step:
            case ast.Import(names=names):
                yield from (Import(alias.name, step.lineno, certain) for alias in names)
            case ast.ImportFrom():
                yield from _from(step, package, certain)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _imports(step.orelse, package, certain)
            case ast.If():
                yield from _imports([*step.body, *step.orelse], package, False)
            case ast.Try():
                if not any(map(_catches, step.handlers)):
                    yield from _imports(step.body, package, certain)
                for handler in step.handlers:
                    yield from _imports(handler.body, package, certain)
                yield from _imports([*step.orelse, *step.finalbody], package, certain)
            case _:
                for name in ("body", "orelse"):
                    yield from _imports(getattr(step, name, []), package, certain)
        if not hasattr(step, "body"):
            yield from _by_call(step, certain)


def _catches(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in _CATCHES) for kind in kinds
    )


def _from(step: ast.ImportFrom, package: str, certain: bool) -> Iterator[Import]:
    module = step.module or ""
    if step.level:
        parents = package.split(".") if package else []
        above = parents[: len(parents) - step.level + 1]
        module = ".".join([*above, *([module] if module else [])])
    if module:
        yield Import(module, step.lineno, certain)


def _by_call(step: ast.stmt, certain: bool) -> Iterator[Import]:
    for node in ast.walk(step):
        match node:
            case ast.Call(
                func=ast.Name(id="__import__"), args=[ast.Constant(value=str(module)), *_]
            ):
                yield Import(module, node.lineno, certain)


@dataclass(frozen=True)
class Provided:
    """What there is to import in a slot: `own` names files and folders, without their endings."""

    own: frozenset[str]
    stock: frozenset[str]

    @classmethod
    def by(cls, files: Iterable[str], stock: Iterable[str]) -> Provided:
        """By the names of a slot's files, and by a firmware."""
        own: set[str] = set()
        for name in files:
            parts = name.split("/")
            own |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
            if name.endswith((".py", ".mpy")):
                own.add(stem(name))
        return cls(frozenset(own), frozenset(stock) | _OURS)

    def has(self, module: str) -> bool:
        """Whether a board finds `module`."""
        top = module.split(".")[0]
        if top in _FIXED | _OURS:
            return top == "bootloader" or module in self.stock
        path = module.replace(".", "/")
        for folder in ("", "lib/"):
            if folder + top in self.own:
                return folder + path in self.own
        return module in self.stock

    def hidden_by(self, module: str) -> str:
        """The file or folder of the slot that takes the place of the firmware's package."""
        top = module.split(".")[0]
        if module not in self.stock:
            return ""
        return next((base + top for base in ("", "lib/") if base + top in self.own), "")


def check(
    files: Mapping[str, Path],
    trees: Mapping[str, ast.Module],
    cls: str,
    *,
    more: Iterable[str] = (),
    left_out: Iterable[str] = (),
    locked: Iterable[str] = (),
) -> list[str]:
    """Hold a release's modules against what its boards have.

    Args:
        files: name in the slot -> file.
        trees: the same of all modules.
        cls: class of boards.
        more: modules that their firmware has beyond the stock one.
        left_out: names in the app's folder that do not travel.
        locked: names in lib/ that packages brought.

    Returns warnings.

    Raises:
        Failure: a module is imported that no such board has, or one is never found, or hides what
            boot stage and runtime need.
    """
    stock = firmware(cls)
    provided = Provided.by(files, (EVERYWHERE if stock is None else stock) | set(more))
    warnings = list(_hides(files, provided, frozenset(locked)))
    missing: list[tuple[str, Import]] = []
    for name, tree in trees.items():
        for wish in imports(tree, _package(name)):
            if provided.has(wish.module):
                continue
            if wish.certain and stock is not None:
                missing.append((name, wish))
            elif wish.certain or wish.module not in EVERYWHERE:
                warnings.append(f"{name}, line {wish.line} {_lacks(wish.module, cls)}")
    if missing:
        name, wish = missing[0]
        others = ", ".join(sorted({other.module for _, other in missing} - {wish.module}))
        raise Failure(
            f"{name}, line {wish.line} {_lacks(wish.module, cls)}"
            + (f"; nor {others}" if others else ""),
            _remedy(wish.module, provided, frozenset(left_out)),
        )
    return warnings


def _package(name: str) -> str:
    return ".".join(name.removeprefix("lib/").split("/")[:-1])


def _lacks(module: str, cls: str) -> str:
    return f"imports {module}, which neither the release nor the firmware of {cls} has"


def _remedy(module: str, provided: Provided, left_out: frozenset[str]) -> str:
    top = module.split(".")[0]
    if top in left_out:
        return f"{top}/ stays at home: call the folder otherwise"
    if top == "runtime":
        return "write runtime = true into app.toml, or do without it"
    if hiding := provided.hidden_by(module):
        return f"{hiding} hides the firmware's {top}: put {module} beside it, or rename it"
    if module in ("asyncio", "uasyncio"):
        return "such firmware runs apps without the runtime: runtime = false in app.toml"
    if top in INSTEAD_OF_MODULE:
        return f"use {INSTEAD_OF_MODULE[top]}"
    return (
        f"write {top}.py or bring it along with `mipy mip install`; for firmware that has it: "
        f'modules = ["{top}"] in app.toml'
    )


# --- what hides the firmware's -------------------------------------------------------------------


def _hides(files: Mapping[str, Path], provided: Provided, locked: frozenset[str]) -> Iterator[str]:
    ours = places.sources("app_slots")
    seen: set[str] = set()
    for name, path in files.items():
        at_root = name.removeprefix("lib/")
        top = at_root.split("/")[0]
        module = top if "/" in at_root else stem(top)
        is_module = "/" in at_root or top.endswith((".py", ".mpy"))
        shown = name[: len(name) - len(at_root)] + (f"{top}/" if "/" in at_root else top)
        if not is_module or shown in seen or ours in path.parents:
            continue
        seen.add(shown)
        if module in _OURS | _FIXED:
            raise Failure(
                f"{shown} is never imported: {module} is the "
                f"{'boot stage' if module in _OURS else 'firmware'}'s, which comes first",
                "rename it",
            )
        if module not in provided.stock or at_root in locked:
            continue
        in_lib = shown.startswith("lib/")
        if module in _needed() and not in_lib:
            raise Failure(
                f"{shown} hides the firmware's {module}, which boot stage and runtime need",
                "rename it",
            )
        if module in _needed() or not in_lib:
            yield f"{shown} takes the place of the firmware's {module}; rename it if not meant to"


@cache
def _needed() -> frozenset[str]:
    """Top-level modules that boot stage and runtime import."""
    folders = (places.sources("bootloader"), places.sources("app_slots") / "runtime")
    return frozenset(
        wish.module.split(".")[0]
        for folder in folders
        for path in folder.glob("*.py")
        for wish in imports(ast.parse(source.read(path)))
    )
