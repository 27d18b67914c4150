"""Whether an app's main.py starts what it is to start.

A board imports main.py, it does not run it as a script: `__name__` is "main" there. And a release
that holds the runtime but never calls `runtime.run()` has no Wi-Fi and asks no server.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

_CALL = "call runtime.run(setup) at its end, at the left margin"
Defined = ast.FunctionDef | ast.AsyncFunctionDef


def warnings(modules: Mapping[str, ast.Module], with_runtime: bool) -> Iterator[str]:
    """What is wrong with the entry.

    Args:
        modules: name in the slot -> tree, of main.py and of the app's other own modules.
        with_runtime: whether the release holds the runtime.
    """
    tree = modules["main.py"]
    guarded = next((node.lineno for node in ast.walk(tree) if _is_script_guard(node)), 0)
    if not any(not _is_text(step) for step in tree.body):
        yield "main.py is empty: a board with this release does nothing" + (
            f"; {_CALL}" if with_runtime else ""
        )
    elif guarded:
        yield (
            f'main.py, line {guarded}: a board imports main.py, so `__name__` is "main" '
            "there and this block never runs; move what is in it to the left margin"
        )
    elif with_runtime and not _starts(modules):
        yield (
            "main.py never reaches runtime.run(): such a board has no Wi-Fi and asks no server; "
            f"{_CALL}, or write runtime = false into app.toml"
        )


def _is_text(step: ast.stmt) -> bool:
    return isinstance(step, ast.Pass) or (
        isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)
    )


def _is_script_guard(node: ast.AST) -> TypeGuard[ast.If]:
    match node:
        case ast.If(
            test=ast.Compare(
                left=ast.Name(id="__name__"),
                ops=[ast.Eq()],
                comparators=[ast.Constant(value="__main__")],
            ),
            orelse=[],
        ):
            return True
    return False


def _starts(modules: Mapping[str, ast.Module]) -> bool:
    """Whether the import of main.py reaches a call of `runtime.run`, itself or by a module."""
    tree = modules["main.py"]
    if _Walk(tree).reaches(tree.body):
        return True
    others = [name for name in modules if name != "main.py"]
    callers = {
        name.removeprefix("lib/").split("/")[0].removesuffix(".py")
        for name in others
        if any(_Walk(modules[name]).is_start(node) for node in ast.walk(modules[name]))
    }
    return not callers.isdisjoint(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


class _Walk:
    """Follows what runs when a module is imported."""

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        self._functions = {node.name: node for node in nodes if isinstance(node, Defined)}
        self._seen: set[str] = set()
        self._modules = {
            alias.asname or alias.name
            for node in nodes
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "runtime"
        }
        self._run = {
            alias.asname or alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module == "runtime"
            for alias in node.names
            if alias.name == "run"
        }

    def is_start(self, node: ast.AST) -> bool:
        """Whether a node calls `runtime.run`, by whatever name."""
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="run")):
                return name in self._modules
            case ast.Call(func=ast.Name(id=name)):
                return name in self._run
        return False

    def reaches(self, steps: Iterable[ast.stmt]) -> bool:
        """Whether these statements, run one after the other, come to such a call."""
        for step in steps:
            if isinstance(step, Defined | ast.ClassDef):
                continue
            if any(self._calls(node) for node in _expressions(step)):
                return True
            if any(self.reaches(block) for block in _blocks(step)):
                return True
            if _is_endless(step):
                return False
        return False

    def _calls(self, node: ast.AST) -> bool:
        if self.is_start(node):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            function = self._functions.get(node.func.id)
            if function and function.name not in self._seen:
                self._seen.add(function.name)
                return self.reaches(function.body)
        return False


def _blocks(step: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(step, name, [])
    for handler in getattr(step, "handlers", []):
        yield handler.body


def _expressions(step: ast.stmt) -> Iterator[ast.AST]:
    """All nodes of a statement but those of the statements in it."""
    left: list[ast.AST] = [step]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.Lambda):
            left += [
                child
                for child in ast.iter_child_nodes(node)
                if not isinstance(child, ast.stmt | ast.ExceptHandler)
            ]


def _is_endless(step: ast.stmt) -> bool:
    match step:
        case ast.While(test=ast.Constant(value=value)) if value:
            return not any(isinstance(node, ast.Break | ast.Return) for node in ast.walk(step))
    return False
