"""The text of an app's modules, as boards get it."""

from __future__ import annotations

import ast
import codecs
from pathlib import Path

from ..console import Failure
from ..files import failed

BOM = codecs.BOM_UTF8
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(path: Path) -> bytes:
    """A module's source: UTF-8, LF, no byte order mark.

    MicroPython takes a mark for the beginning of the first name, and fails at it when it runs.
    Line ends are made the same because git may change them between two computers, and one source
    shall make one release.

    Raises:
        Failure: it cannot be read or is no UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem) from None
    if raw.startswith(_UTF16):
        raise Failure(f"{path} is UTF-16, which no board reads", "save it as UTF-8")
    text = raw.removeprefix(BOM).replace(b"\r\n", b"\n")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = text.count(b"\n", 0, problem.start) + 1
        raise Failure(f"{path}, line {line} is no UTF-8", "save it as UTF-8") from None
    return text


def parsed(path: Path) -> ast.Module:
    """A module's tree.

    Raises:
        Failure: it is no Python; it says where.
    """
    try:
        return ast.parse(read(path), str(path))
    except (SyntaxError, ValueError) as problem:
        line = getattr(problem, "lineno", 0)
        raise Failure(f"{path}, line {line}: {problem.args[0]}", "correct that line") from problem


def has_bom(path: Path) -> bool:
    """Whether a file begins with a byte order mark."""
    with path.open("rb") as file:
        return file.read(len(BOM)) == BOM
