"""docs/glossary.md holds: what people read has one word for one thing, in plain English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from mipy_ota.tools import options
from mipy_ota.tools.cli import GROUPS, VERBS
from tests.support import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"


def not_written() -> list[str]:
    """The phrases of the glossary's last table."""
    rows = GLOSSARY.read_text("utf-8").partition("| do not write |")[2].splitlines()[2:]
    return [row.strip("|").split("|")[0].strip() for row in rows if row.startswith("|")]


def pages() -> Iterator[tuple[str, str]]:
    """(name, text) of every page that people read."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        if path != GLOSSARY:
            yield path.name, path.read_text("utf-8")


def said() -> Iterator[tuple[str, str]]:
    """(where, text) of every text and docstring in the host's code."""
    for part in ("signing", "ota_server", "tools"):
        for path in sorted((ROOT / part).rglob("*.py")):
            if "chip" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


@pytest.mark.parametrize("phrase", not_written())
def test_what_the_glossary_rules_out_is_not_written(phrase: str) -> None:
    pattern = re.compile(r"\b" + r"\s+".join(map(re.escape, phrase.split())) + r"\b", re.IGNORECASE)
    found = [where for where, text in [*pages(), *said()] if pattern.search(text)]
    assert found == []


def test_every_word_is_explained_once() -> None:
    words = re.findall(r"^\| ([a-z][a-zA-Z, ]+?) \| (?!write)", GLOSSARY.read_text("utf-8"), re.M)
    words = [word for word in words if word not in ("word", "do not write", *not_written())]
    assert len(words) == len(set(words)) > 40


def test_lines_of_help_are_sentences() -> None:
    lines = [line for _, _, line in VERBS] + list(GROUPS.values())
    lines += [
        value.__metadata__[0].help
        for value in vars(options).values()
        if hasattr(value, "__metadata__")
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Z].*\.", line)] == []
