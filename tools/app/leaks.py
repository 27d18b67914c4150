"""Secrets in an app's files: whoever listens can read a release.

Refused are the files in which secrets usually lie, private keys, addresses with a password in
them, and texts that are given to what is named like a secret. What is meant to be read is said to
be: a line of Python by a comment `# public`, another file by `public = ["FILE"]` in app.toml.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ..console import Failure

_WELL_KNOWN = (
    (
        r"wifi\.json",
        "Wi-Fi passwords go to each board through its portal; move the file out of the app",
    ),
    (
        r".*\.(pem|key|p12|pfx)",
        "private keys belong to `mipy keys` (new, restore); move the file out of the app",
    ),
    (
        r"webrepl_cfg\.m?py",
        "each board has its own WebREPL password in its board file; delete this file",
    ),
    (
        r"\.env(\..*)?",
        "settings without secrets belong into config.py; move the file out of the app",
    ),
    (
        r"(secrets?|credentials?|passwords?)\.(m?py|json|toml|ini|cfg|txt|ya?ml|csv)",
        "a board has its own secrets: declare them in config.py and `mipy set` them",
    ),
)
_NAMED = re.compile(
    r".*(password|passwd|passphrase|secret|psk)"
    r"|(.*[_.-])?(pass|pwd|pw|token)"
    r"|.*(api|auth|access|private|wifi|wlan|network)[_-]?(key|token|pass|pwd)",
    re.IGNORECASE,
)
_KEY_FILE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")
# A line may be as long as a file. So each pattern begins where it can begin only once in a word, or
# a word of 64 KB would be gone through 64 K times.
_IN_ADDRESS = re.compile(r"[a-z0-9+.-]://[^\s/:@\"'<>]*:([^\s/@\"'<>%{}]+)@", re.IGNORECASE)
_PUBLIC = re.compile(r"#\s*public\b")
# What holds settings, where `name = value` and `"name": value` mean what they say.
_TABLES = frozenset(
    (".json", ".toml", ".ini", ".cfg", ".conf", ".txt", ".yaml", ".yml", ".properties")
)
_ENTRY = re.compile(r"""(?<![\w.-])["']?([\w.-]++)["']?[ \t]*[:=][ \t]*["']?([^\s"',;{}\[\]]+)""")
_NOTHING = frozenset(("null", "none", "true", "false", "~", "*", "**", "***", "..."))
_LARGEST = 64 * 1024  # bytes of a file that is looked at
_ASKED = (
    'in config.py: NAME = ""  #: secret, then `mipy set BOARD NAME`; '
    "networks go to a board through its portal. If it is no secret: "
)


def well_known(path: Path, name: str, public: Iterable[str] = ()) -> None:
    """Refuse a file whose name says that secrets are in it. `name` is its name in the slot.

    Raises:
        Failure: it is one.
    """
    for pattern, hint in _WELL_KNOWN:
        if re.fullmatch(pattern, path.name.lower()) and name not in public:
            raise Failure(f"{path} must not be in a release", hint)


def check(
    files: Mapping[str, Path], trees: Mapping[str, ast.Module], public: Iterable[str] = ()
) -> None:
    """Look for secrets in an app's own files.

    Args:
        files: name in the slot -> file.
        trees: the same of all modules.
        public: names of files that may be read by anybody.

    Raises:
        Failure: there is one; it says where, never what.
    """
    for name, path in files.items():
        if name in public:
            continue
        raw = path.read_bytes()[:_LARGEST]
        if _KEY_FILE.search(raw):
            raise Failure(f"{name} holds a private key", "move it out of the app")
        lines = raw.decode("utf-8", "replace").splitlines()
        found = _in_python(trees[name]) if name in trees else _in_text(name, lines)
        for line, what in sorted(found):
            shown = lines[line - 1] if line <= len(lines) else ""
            if name in trees and _PUBLIC.search(shown):
                continue
            mark = (
                "# public behind the line" if name in trees else f'public = ["{name}"] in app.toml'
            )
            raise Failure(
                f"{name}, line {line}: {what}, and releases can be read by anybody", _ASKED + mark
            )


def _in_text(name: str, lines: list[str]) -> Iterator[tuple[int, str]]:
    table = PurePosixPath(name).suffix.lower() in _TABLES
    for number, line in enumerate(lines, 1):
        if _IN_ADDRESS.search(line):
            yield number, "an address with a password in it"
        for key, value in _ENTRY.findall(line) if table else ():
            if _NAMED.fullmatch(key) and value.lower() not in _NOTHING:
                yield number, f"{key} has a value"


def _in_python(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        yield from ((text.lineno, what) for text, what in _told(node))
        match node:
            case ast.Constant(value=str(text)) if _IN_ADDRESS.search(text):
                yield node.lineno, "an address with a password in it"


def _told(node: ast.AST) -> Iterator[tuple[ast.Constant, str]]:
    """(literal, what it is given to) of all texts that a node gives to something like a secret."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _if_secret(_name(target), value)
        case ast.AnnAssign(target=target, value=ast.Constant() as value):
            yield from _if_secret(_name(target), value)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                yield from _if_secret(key.value if isinstance(key, ast.Constant) else "", value)
        case ast.arguments():
            yield from _by_default(node)
        case ast.Call():
            yield from _in_call(node)


def _by_default(node: ast.arguments) -> Iterator[tuple[ast.Constant, str]]:
    named = [*node.posonlyargs, *node.args]
    for parameter, default in zip(reversed(named), reversed(node.defaults), strict=False):
        yield from _if_secret(parameter.arg, default)
    for parameter, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        if default:
            yield from _if_secret(parameter.arg, default)


def _in_call(node: ast.Call) -> Iterator[tuple[ast.Constant, str]]:
    called = _name(node.func)
    for keyword in node.keywords:
        wifi = keyword.arg == "key" and called in ("connect", "config")
        yield from _if_secret("password" if wifi else keyword.arg, keyword.value, called)
    if "connect" in called.lower() and len(node.args) > 1:
        yield from _if_secret("password", node.args[1], called)


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
    return ""


def _if_secret(
    name: object, value: ast.AST, called: str = ""
) -> Iterator[tuple[ast.Constant, str]]:
    match value:
        case ast.Constant(value=str(text) | bytes(text)) if (
            text and isinstance(name, str) and _NAMED.fullmatch(name)
        ):
            what = f"{called}(...) is given a password" if called else f"{name} has a value"
            yield value, what
