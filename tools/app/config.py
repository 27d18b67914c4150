"""An app's config.py: what it declares, and whether a value fits.

A setting is a line `NAME = default` at the left margin; the type of the default is the setting's.
A comment that begins with `#:` says more, one rule a line:

    PASSWORD = ""  #: secret                    never shown; only boards have one
    LOG_LEVEL = 1  #: 0..3                      bounds; either side may be missing
    UNIT = "C"  #: C | F                        one of these
    SERVER = ""  #: url                         an address of a server, or none
    TIMEZONE = "UTC0"  #: tz                    a POSIX time zone rule

A module of a release says in a comment of its own, in the same form behind `# config: `, what type
and rule a setting is to have. One that is read as `config.NAME` must be there; one that is read by
`getattr(config, "NAME", default)` may be missing.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ..console import Failure
from . import source

Value = bool | int | float | str

KINDS = {bool: "a switch (True or False)", int: "a whole number", float: "a number", str: "a text"}
_SWITCH = {"1": True, "true": True, "on": True, "yes": True}
_SWITCH |= {"0": False, "false": False, "off": False, "no": False}
_BOUNDS = re.compile(r"(-?[0-9.]*[0-9])?\.\.(-?[0-9][0-9.]*)?")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_NAMED_SECRET = re.compile(
    r"(.*_)?(PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|PSK|SECRET|TOKEN|KEY)", re.IGNORECASE
)
_WANTED = re.compile(r"^# config: (.+)$", re.MULTILINE)

# POSIX 1003.1, "Environment Variables", TZ: std offset [dst [offset] , start [/time] , end [/time]]
_ZONE = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)"
_TIME = r"[0-9]{1,3}(?::[0-5]?[0-9]){0,2}"
_DAY = rf"(?:M(?:[1-9]|1[0-2])\.[1-5]\.[0-6]|J?[0-9]{{1,3}})(?:/[+-]?{_TIME})?"
_TZ = re.compile(rf"{_ZONE}[+-]?{_TIME}(?:{_ZONE}(?:[+-]?{_TIME})?,{_DAY},{_DAY})?")


@dataclass(frozen=True)
class Key:
    """A declared setting; `rule` is the text behind `#:`, `line` where it stands."""

    name: str
    default: Value
    rule: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """Its type, for people."""
        return KINDS[type(self.default)]

    @property
    def secret(self) -> bool:
        """Whether its value must not be shown; without a rule, by its name."""
        named = isinstance(self.default, str) and _NAMED_SECRET.fullmatch(self.name)
        return self.rule == "secret" or bool(named)

    @property
    def text(self) -> str:
        """The line that declares it."""
        value = json.dumps(self.default) if isinstance(self.default, str) else self.default
        return f"{self.name} = {value}{f'  #: {self.rule}' if self.rule else ''}"

    def parse(self, text: str) -> Value:
        """A value as typed.

        Raises:
            ValueError: it does not fit; says why, without the value.
        """
        if isinstance(self.default, bool):
            if text.lower() not in _SWITCH:
                raise ValueError("is on or off")
            return _SWITCH[text.lower()]
        try:
            value = text if isinstance(self.default, str) else type(self.default)(text)
        except ValueError:
            raise ValueError(f"is {self.kind}") from None
        self.check(value)
        return value

    def check(self, value: Value) -> None:
        """Hold a value of the right type against the rule.

        Raises:
            ValueError: it does not fit; says why, without the value.
        """
        if isinstance(value, str):
            if any(ord(c) < 32 for c in value):
                raise ValueError("is one line of text")
            if "|" in self.rule and value not in _choices(self.rule):
                raise ValueError(f"is one of {', '.join(_choices(self.rule))}")
            if self.rule == "url" and value and not _URL.fullmatch(value):
                raise ValueError("is an address like http://192.168.1.2:8266")
            if self.rule == "tz" and not _TZ.fullmatch(value):
                raise ValueError("is a POSIX time zone rule like CET-1CEST,M3.5.0,M10.5.0/3")
        elif not isfinite(value):
            raise ValueError("is a number")
        elif bounds := _BOUNDS.fullmatch(self.rule):
            low, high = bounds.groups()
            if (low and value < float(low)) or (high and value > float(high)):
                raise ValueError(f"is within {self.rule}")


def _choices(rule: str) -> list[str]:
    return [choice.strip() for choice in rule.split("|")]


# --- reading -----------------------------------------------------------------------------------


def declared(source: str, where: str = "config.py") -> dict[str, Key]:
    """Name -> setting, of a config.py's text.

    Raises:
        Failure: a line is not a declaration, or its default breaks its own rule.
    """
    try:
        tree = ast.parse(source)
        rules = dict(_rules(source))
    except (SyntaxError, ValueError, tokenize.TokenError) as problem:
        line = getattr(problem, "lineno", 0)
        raise Failure(f"{where}, line {line}: {problem.args[0]}", "correct that line") from problem
    keys: dict[str, Key] = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        at = f"{where}, line {node.lineno}"
        name = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if not isinstance(node, ast.Assign) or not isinstance(name, ast.Name):
            raise Failure(f"{at} is no setting", "it may only say NAME = default")
        if name.id.startswith("_") or name.id in keys:
            raise Failure(f"{at}: {name.id} is declared twice or private", "name it otherwise")
        rule = rules.pop(node.end_lineno or node.lineno, "")
        keys[name.id] = _key(at, name.id, node, rule)
    for line, rule in rules.items():
        raise Failure(f"{where}, line {line}: `#: {rule}` belongs to no setting", "write # alone")
    return keys


def _rules(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("#:"):
            yield token.start[0], token.string[2:].strip()


def _key(at: str, name: str, node: ast.Assign, rule: str) -> Key:
    try:
        value = _constant(node.value)
    except ValueError:
        raise Failure(
            f"{at}: the default of {name} is neither True, False, a number nor a text",
            "boards can override these only; move anything else into a module",
        ) from None
    key = Key(name, value, rule, node.lineno)
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    known = (
        rule in (("secret", "url", "tz", "") if isinstance(value, str) else ("",))
        or (isinstance(value, str) and "|" in rule)
        or (plain and rule != ".." and _BOUNDS.fullmatch(rule))
    )
    if not known:
        raise Failure(
            f"{at}: `#: {rule}` is no rule for {key.kind}",
            "a text may have secret, url, tz or a | b; a number low..high",
        )
    if key.secret and rule != "secret":
        raise Failure(
            f"{at}: {name} sounds like a secret",
            f'write `{name} = ""  #: secret`, or name it otherwise',
        )
    if rule == "secret" and value:
        raise Failure(
            f"{at}: {name} is a secret, and releases can be read by anybody",
            f'write `{name} = ""  #: secret`, and `mipy set BOARD {name}` for each board',
        )
    try:
        key.check(value)
    except ValueError as problem:
        raise Failure(
            f"{at}: the default of {name} is not {str(problem).removeprefix('is ')}",
            "correct the default",
        ) from None
    return key


def _constant(node: ast.expr) -> Value:
    """The value of a literal or of arithmetic on numbers. Raises ValueError for anything else."""
    parts = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)
    if not all(isinstance(part, parts) for part in ast.walk(node)):
        raise ValueError
    try:
        value = eval(compile(ast.Expression(node), "config.py", "eval"), {})
    except (ArithmeticError, TypeError) as problem:
        raise ValueError from problem
    if type(value) not in KINDS:
        raise ValueError
    return value


# --- a release as a whole ----------------------------------------------------------------------


def check(sources: Mapping[str, Path]) -> list[str]:
    """Hold what the modules of a release (name in the slot -> file) want against its config.py.

    Returns warnings.

    Raises:
        Failure: config.py lacks a setting that is used, or has it with another type or rule.
    """
    modules = {
        name: source.read(path).decode()
        for name, path in sorted(sources.items())
        if name.endswith(".py") and not name.startswith("www/")
    }
    keys = declared(modules.pop("config.py", ""))
    wanted: dict[str, Key] = {}
    for name, text in modules.items():
        wants = declared("\n".join(_WANTED.findall(text)), f"{name}, its `# config:` lines")
        for key in wants.values():
            if key.name in keys:
                _same(keys[key.name], key, name)
        wanted |= wants
    warnings = []
    for name in modules:
        for key, line, early in _uses(ast.parse(modules[name])):
            if key not in keys:
                line_for_it = wanted[key].text if key in wanted else f"{key} = ..."
                raise Failure(
                    f"{name}, line {line} uses config.{key}, which config.py does not declare",
                    f"write `{line_for_it}` into it",
                )
            if early:
                warnings.append(
                    f"{name}, line {line} reads config.{key} before the board's own value is in it;"
                    " read it in setup() or later"
                )
    # By its name anywhere, since an app may read settings by names that it holds as texts.
    named = set(re.findall(r"\w+", "\n".join(modules.values()))) | {"NAME"}
    warnings += [
        f"config.py, line {key.line} declares {key.name}, which nothing reads; is it misspelled?"
        for key in keys.values()
        if key.name not in named
    ]
    return warnings


def _same(key: Key, wanted: Key, module: str) -> None:
    if type(key.default) is not type(wanted.default) or wanted.rule not in ("", key.rule):
        raise Failure(
            f"config.py, line {key.line}: {key.name} is {wanted.kind}"
            f"{f' with the rule `#: {wanted.rule}`' if wanted.rule else ''} for {module}",
            f"write it like `{wanted.text}`",
        )


def _uses(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """(setting, line, whether it is read while the module is imported) of a module."""
    nodes = list(ast.walk(tree))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    late = {id(inner) for node in nodes if isinstance(node, functions) for inner in ast.walk(node)}
    names = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "config"
    }
    own = {
        id(inner)
        for node in nodes
        if isinstance(node, functions) and not names.isdisjoint(_bound(node))
        for inner in ast.walk(node)
    }
    for node in nodes:
        match node:
            case (
                ast.Attribute(value=ast.Name(id=name), attr=key, ctx=ast.Load())
                | ast.Call(
                    func=ast.Name(id="getattr"),
                    args=[ast.Name(id=name), ast.Constant(value=str(key))],
                )
            ) if name in names and id(node) not in own:
                yield key, node.lineno, id(node) not in late
            case ast.ImportFrom(module="config", level=0):
                for alias in node.names:
                    yield alias.name, node.lineno, id(node) not in late


def _bound(function: ast.AST) -> Iterator[str]:
    """Names that are a function's own, be they parameters or assigned to."""
    for node in ast.walk(function):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
