"""Refuse in device code what runs on a desktop's MicroPython and fails on a chip.

Virtual boards run on MicroPython's unix port, which has more than a stock ESP8266 does. A test
there would pass and the board would not boot, so the difference is checked on the source. Also
refused: imports no stock firmware has, and two ways to lose a board, swallowing every exception
and waiting for ever.

The tables are the rules. Source: `ports/esp8266/mpconfigport.h` of MicroPython 1.22 to 1.29.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .. import console, places


class Finding(NamedTuple):
    """One refused construct: where, what, and what to use instead."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


# Modules of stock firmware 1.22+ on both chips (built in or frozen), and the chips' own two.
MODULES = frozenset(
    """
    _webrepl array asyncio binascii builtins collections cryptolib deflate dht ds18x20 errno esp
    esp32 framebuf gc hashlib heapq io json machine math micropython neopixel network ntptime
    onewire os random re select socket ssl struct sys time tls uctypes umqtt webrepl websocket
    """.split()
)
INSTEAD_OF_MODULE = {
    "_thread": "an asyncio task: the ESP8266 has no threads",
    "dataclasses": "a plain class",
    "enum": "const() from micropython",
    "hmac": "bootloader.hmac256.mac",
    "logging": "runtime.log",
    "pathlib": "strings and os",
    "threading": "an asyncio task: the ESP8266 has no threads",
    "typing": "a comment",
    "vfs": "os.mount and os.VfsLfs2, which every version has",
    "zlib": "deflate",
}

NAMES = {
    "NotImplemented": "raise NotImplementedError",
    "__file__": "a fixed path",
    "compile": "a function",
    "complex": "two floats",
    "execfile": "import",
}

_BITS = "os.urandom or random.getrandbits"
_SERIES = "a formula from exp and log"
MODULE_ATTRIBUTES = {
    "binascii": {"crc32": "the CRC of bootloader.record, or sha256"},
    "hashlib": {"md5": "sha256"},
    "machine": {"soft_reset": "machine.reset(): the ESP8266 does not soft-reset from a program"},
    "math": dict.fromkeys(("inf", "nan", "tau"), "float('inf'), float('nan') or a literal")
    | {"factorial": "a loop", "isclose": "abs(a - b) < limit"}
    | dict.fromkeys(
        "acosh asinh atanh cosh erf erfc expm1 gamma lgamma sinh tanh".split(),
        _SERIES,
    ),
    "os": {"sync": "close the file: LittleFS commits there"}
    | dict.fromkeys(("environ", "getenv", "path", "putenv", "system", "unsetenv"), "settings"),
    "random": dict.fromkeys(
        "choice choices randint random randrange sample shuffle uniform".split(),
        _BITS,
    ),
    "sys": dict.fromkeys(("ps1", "ps2"), "nothing: there is no prompt to change"),
}

METHODS = {
    "bit_length": "a loop of shifts",
    "cast": "struct or slices of bytes",
    "center": "the % operator with a width",
    "hexdigest": "binascii.hexlify(hash.digest())",
    "indices": "explicit start, stop and step",
    "partition": "str.split(separator, 1)",
    "rpartition": "str.rsplit(separator, 1)",
    "splitlines": "str.split('\\n')",
}

SPECIAL_METHODS = {
    "__delattr__": "a method of another name",
    "__setattr__": "a method of another name",
}


def _refused(what: str, instead: str) -> str:
    return f"{what} is not on every board; use {instead}"


# --- rules: each takes a node and yields what is wrong with it ------------------------------------


def _three_argument_pow(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Name(id="pow"), args=[_, _, _]):
            yield _refused("pow(a, b, m)", "bootloader.rsa's squarings, x * x % m")


def _complex_literal(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, complex):
        yield _refused("a complex number", NAMES["complex"])


def _missing_name(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in NAMES:
        yield _refused(node.id, NAMES[node.id])


def _missing_method(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
            yield _refused(f".{name}()", METHODS[name])


def _special_method(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) if name in SPECIAL_METHODS:
            yield _refused(name, SPECIAL_METHODS[name])


def _swallow(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.ExceptHandler) or not _does_nothing(node.body):
        return
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    broad = {"Exception", "BaseException"}
    if any(kind is None or (isinstance(kind, ast.Name) and kind.id in broad) for kind in kinds):
        yield "every exception is swallowed here; name the expected one, or report it"


def _endless_wait(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.While(test=ast.Constant(value=value), body=body) if value and _does_nothing(body):
            yield "this waits for ever; bound it, or machine.reset()"


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(step, ast.Pass | ast.Continue)
        or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
        or (isinstance(step, ast.Return) and step.value is None)
        for step in body
    )


RULES = (
    _three_argument_pow,
    _complex_literal,
    _missing_name,
    _missing_method,
    _special_method,
    _swallow,
    _endless_wait,
)


# --- imports, which need to know the file's other imports and the tree's own modules --------------


def _imports(tree: ast.AST, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    guarded = set(_guarded(tree))
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _module(node.lineno, name.name, own)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from _module(node.lineno, node.module, own)
            for name in node.names:
                yield from _attribute(node.lineno, node.module, name.name)


def _guarded(tree: ast.AST) -> Iterator[ast.AST]:
    """Imports that may fail: an `except ImportError` says what is done then."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(
            isinstance(name, ast.Name) and name.id == "ImportError"
            for handler in node.handlers
            if handler.type
            for name in ast.walk(handler.type)
        ):
            yield from node.body


def _module(line: int, dotted: str, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    top = dotted.split(".")[0]
    if top not in MODULES and top not in own:
        instead = INSTEAD_OF_MODULE.get(top, "what stock firmware has, or add it to lib/")
        yield line, _refused(f"module {dotted}", instead)


def _attribute(line: int, module: str, name: str) -> Iterator[tuple[int, str]]:
    instead = MODULE_ATTRIBUTES.get(module, {}).get(name)
    if instead:
        yield line, _refused(f"{module}.{name}", instead)


def _attributes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    modules = {
        name.asname or name.name: name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                yield from _attribute(node.lineno, modules[name], attribute)


def check(source: str, path: Path, own: Iterable[str] = ()) -> list[Finding]:
    """All findings in one device source, by line.

    Args:
        source: the file's text.
        path: its name, for the findings.
        own: top-level modules that come with the code itself.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as problem:
        return [Finding(path, problem.lineno or 1, f"syntax: {problem.msg}")]
    known = frozenset(own)
    found = {*_imports(tree, known), *_attributes(tree)}
    for node in ast.walk(tree):
        for rule in RULES:
            # Rules speak of nodes that have a line: expressions, statements, handlers.
            found.update((getattr(node, "lineno", 0), text) for text in rule(node))
    return [Finding(path, line, text) for line, text in sorted(found)]


def own_modules(app: Path) -> frozenset[str]:
    """What an app's sources may import beside stock modules: its files, lib/, the boot stage."""
    beside = (entry.stem for folder in (app, app / "lib") for entry in folder.glob("*"))
    return frozenset(beside) | {"bootloader", "ota"}


def check_folder(folder: Path, own: Iterable[str]) -> list[Finding]:
    """All findings in the `.py` files under `folder`, by path and line."""
    return [
        finding
        for path in sorted(folder.rglob("*.py"))
        for finding in check(path.read_text("utf-8"), path, own)
    ]


def main() -> int:
    """Lint all device code; print the findings. Exit code 1 when there are any."""
    app = places.sources("app_slots")
    own = own_modules(app)
    folders = (places.sources("bootloader"), app, places.sources("examples"))
    findings = [finding for folder in folders for finding in check_folder(folder, own)]
    for finding in findings:
        console.say(str(finding))
    if findings:
        console.error(f"{len(findings)} places in device code would fail on a board")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
