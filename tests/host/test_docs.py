"""The tables in docs/architecture.md are those of the code; links lead somewhere."""

from __future__ import annotations

import re
import struct
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "architecture.md"
LEFT = (3, 2, 1, 0)
RESULTS = ("BOOT", "AGAIN", "CONFIRM", "ROLLBACK")


def table(first: str) -> list[list[str]]:
    """Rows of the table whose head begins with `first`, cells as text."""
    lines = PAGE.read_text("utf-8").splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The boot stage's decide, record and rtc, which need no chip."""
    micropython: Any = types.ModuleType("micropython")
    micropython.const = lambda value: value
    package = types.ModuleType("bootloader")
    package.__path__ = [str(ROOT / "bootloader")]
    monkeypatch.setitem(sys.modules, "micropython", micropython)
    monkeypatch.setitem(sys.modules, "machine", types.ModuleType("machine"))
    monkeypatch.setitem(sys.modules, "bootloader", package)
    names = ("record", "rtc", "rollback", "decide")
    yield types.SimpleNamespace(**{name: import_module(f"bootloader.{name}") for name in names})
    for name in names:
        sys.modules.pop(f"bootloader.{name}", None)


def constants(section: str) -> dict[str, int]:
    """The constants of rtc.py below the comment that begins with `section`."""
    text = (ROOT / "bootloader" / "rtc.py").read_text("utf-8")
    part = text.partition(f"\n# {section}")[2].partition("\n\n")[0]
    return {name: int(value) for name, value in re.findall(r"^(\w+) = const\((\d+)\)", part, re.M)}


def word(cell: str) -> str:
    return cell.split()[0]


def test_every_end_is_in_the_table_of_trials() -> None:
    rows = table("the last life ended by")
    assert [word(row[0]) for row in rows] == list(constants("END"))


def test_the_table_of_trials_is_what_decide_does(stage: Any) -> None:
    ends = constants("END")
    for end, *cells in table("the last life ended by"):
        for left, wanted in zip(LEFT, cells, strict=False):
            r = stage.record.Record()
            r.trial, r.tries_left = 1, left
            done = stage.decide.trial(r, ends[word(end)], b"d" * 16)
            assert done == getattr(stage.decide, wanted), (end, left)
            assert r.tries_left == (
                left - 1 if wanted == "BOOT" else 0 if wanted == "ROLLBACK" else left
            )
            assert (r.trial == stage.record.NONE) == (wanted == "ROLLBACK")


def test_reasons_and_what_is_soft(stage: Any) -> None:
    ends = constants("END")
    for end, *_, counts in table("the last life ended by"):
        if not counts:
            continue
        reason, _, soft = counts.partition(", ")
        r = stage.record.Record()
        r.trial, r.tries_left = 1, 0
        stage.decide.trial(r, ends[word(end)], b"d" * 16)
        assert stage.record.REASONS[r.reason] == reason
        assert (r.flags != stage.record.HARD) == (soft == "soft")


def test_every_result_is_explained() -> None:
    text = PAGE.read_text("utf-8")
    source = (ROOT / "bootloader" / "decide.py").read_text("utf-8")
    assert tuple(re.findall(r"^([A-Z]+) = const", source, re.M)) == RESULTS
    assert all(f"- **{name}**" in text for name in RESULTS)


def test_bytes_of_rtc_memory() -> None:
    rows = table("byte")
    assert {row[1]: int(row[0]) for row in rows} == constants("Indices")
    for name, section in (("WANT", "WANT"), ("READY", "READY")):
        row = next(row for row in rows if row[1] == name)
        assert set(re.findall(r"[A-Z]{3,}", row[2])) - {"RTC"} == set(constants(section))


def test_layout_of_the_record(stage: Any) -> None:
    rows = table("offset")
    layout = "<" + "".join({1: "B", 4: "I", 16: "16s"}[int(row[1])] for row in rows)
    assert layout.replace("I", "4s", 1).removesuffix("I") == stage.record._FORMAT
    offset = 0
    for row in rows:
        assert int(row[0]) == offset
        offset += int(row[1])
    assert offset == len(stage.record.pack(stage.record.Record())) == struct.calcsize(layout)
    named = [row[2].partition("[")[0] for row in rows if row[2] not in ("magic", "check")]
    assert set(named) == set(vars(stage.record.Record())) - {"copy"}


@pytest.mark.parametrize(
    "page",
    [str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *PAGE.parent.glob("*.md")]],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_readme_names_verbs_that_exist() -> None:
    from mipy_ota.tools.cli import VERBS

    known = {words for words, _, _ in VERBS}
    text = (ROOT / "README.md").read_text("utf-8") + (PAGE.parent / "keys.md").read_text("utf-8")
    for line in re.findall(r"^ *\$? *mipy (?:--fleet \S+ )?(.+)$", text, re.M):
        words = line.split()
        assert words[0] in known or " ".join(words[:2]) in known, line
