"""What all tests keep to, so that they may run side by side, in any order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, loopback, order, testkeys

SOURCES = sorted((ROOT / "tests").rglob("*.py"))


def found(pattern: str, *but: str) -> list[str]:
    """The lines of tests that hold this."""
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in SOURCES
        if path.name not in but
        for line in path.read_text("utf-8").splitlines()
        if re.search(pattern, line)
    ]


def test_boards_have_addresses_of_their_own() -> None:
    assert (
        found(r"(with|=|\() ?VirtualBoard\(", "boards.py", "test_sim.py", Path(__file__).name) == []
    )
    assert found(r"address=f?[\"']127\.") == []


def test_two_processes_share_no_address_and_no_port() -> None:
    code = (
        "from tests.support import loopback as l;"
        "print([l.address() for _ in range(300)], [l.port() for _ in range(5)], sep='\\n');"
        "input()"
    )
    command = [sys.executable, "-c", code]
    ours = [[loopback.address()], [loopback.port()]]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, cwd=ROOT, **pipes) as one,
        subprocess.Popen(command, cwd=ROOT, **pipes) as other,
    ):
        told = []
        for process in (one, other):
            assert process.stdout
            told.append([eval(process.stdout.readline()) for _ in range(2)])
        for process in (one, other):
            process.communicate("\n")
    for which, count in ((0, 601), (1, 11)):
        every = [value for kind in (*told, ours) for value in kind[which]]
        assert len(set(every)) == len(every) == count


def test_test_keys_are_the_same_everywhere_and_for_their_owner() -> None:
    code = "from tests.support.testkeys import key; print(key('release', 2048).private_numbers().d)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert int(said.stdout) == testkeys.key("release", 2048).private_numbers().d
    assert testkeys.FOLDER.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in testkeys.FOLDER.iterdir())


@pytest.mark.parametrize("workers", [2, 3, 4, 16])
def test_every_worker_begins_with_long_tests(workers: int) -> None:
    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    names = [f"tests/{n}.py::test" for n in range(960)]
    names[::96] = [f"{long}::{n}" for n, long in enumerate((*order.LONGEST, *order.LONGEST[:2]))]
    items = [Item(name) for name in names]
    ordered = order.longest_first(items, workers)  # type: ignore[arg-type]
    assert len(ordered) == len(items) and {*ordered} == {*items}
    for n in range(min(workers, len(order.LONGEST))):
        assert ordered[n * len(items) // workers].nodeid.startswith(order.LONGEST[n])


def test_the_longest_are_there() -> None:
    for long in order.LONGEST:
        file, _, test = long.partition("::")
        assert f"def {test}" in (ROOT / file).read_text("utf-8"), long
