"""Every command in the pages is one: the verb and its options exist, the make target too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
import typer

from mipy_ota.tools import cli
from tests.support import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def fences(text: str) -> Iterator[str]:
    """The lines between ``` and ```, of blocks that hold commands or output."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if kind in ("", "sh", "bash", "console"):
            yield from block.splitlines()


def commands(program: str) -> list[tuple[str, str]]:
    """(page, command line), from code blocks and from `mipy ...` within sentences."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = [line.strip().removeprefix("$ ") for line in fences(text)]
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
        found += [
            (page.name, line)
            for line in lines
            if line.startswith(program + " ") and not re.search(r"\.\.\.|[|<>]|\bVERB\b", line)
        ]
    return found


def words(line: str) -> list[str]:
    """A command line's words; what follows two spaces in a list of commands is a remark."""
    line = re.sub(r"\[[A-Z]+\]", "", line).replace("SEQ", "1")
    return shlex.split(re.split(r"\s{3,}|  #", line)[0], comments=True)


def parsed(line: str) -> None:
    """Have a verb of `mipy` parse its arguments without running it.

    Raises:
        LookupError: there is no such verb.
        typer.TyperException: it does not take these arguments.
    """
    rest = words(line)[1:]
    if rest[0] == "--fleet":
        rest = rest[2:]
    for count in (2, 1):
        for verb, where, help_ in cli.VERBS:
            if verb == " ".join(rest[:count]):
                command = cli.Verb(verb, where, help_).load()
                command.make_context(verb, list(rest[count:]))
                return
    if (rest not in (["--version"], ["--help"]) and rest[0] not in cli.GROUPS) or rest[1:]:
        raise LookupError(f"there is no verb {' '.join(rest[:2])}")


def sentence(line: str) -> bool:
    """Whether a command is named without what it needs, as one may within a sentence."""
    return len(words(line)) <= 3


@pytest.mark.parametrize(("page", "line"), sorted(set(commands("mipy"))))
def test_mipy_understands_it(page: str, line: str) -> None:
    try:
        parsed(line)
    except typer.TyperException as wrong:
        missing = type(wrong).__name__ in ("MissingParameter", "BadOptionUsage")
        assert missing and sentence(line), f"{line}: {wrong.format_message()}"


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    named = {(page, words(line)[1]) for page, line in commands("make")}
    missing = {one for one in named if one[1] not in targets and not re.search(r"[A-Z_]+=", one[1])}
    assert named and missing == set()


@pytest.mark.parametrize(
    "line", ["mipy boards --colour", "mipy bords", "mipy fs lss", "mipy keys new --threshold x"]
)
def test_a_wrong_one_is_found(line: str) -> None:
    with pytest.raises((typer.TyperException, LookupError)):
        parsed(line)
