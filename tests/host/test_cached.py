"""What the build keeps of its work: the same bytes, however they were come by."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.app.compile import bytecode, cached, names
from mipy_ota.tools.console import Failure


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return places.cache() / "build"


def once(*parts: bytes, made: bytes = b"made") -> list[int]:
    """How often it was made, in three calls with this input."""
    calls: list[int] = []
    for _ in range(3):
        assert cached.content(parts, lambda: calls.append(1) or made) == made
    return calls


def test_the_same_input_is_made_once(folder: Path) -> None:
    assert [len(once(b"a", b"b")), len(once(b"ab", b"")), len(once(b"a", b"b"))] == [1, 1, 0]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100])
def test_a_damaged_file_is_made_again(folder: Path, damage: bytes) -> None:
    once(b"a")
    (file,) = folder.iterdir()
    file.write_bytes(damage)
    assert len(once(b"a")) == 1


def test_a_folder_that_cannot_be_written_is_no_need(tmp_path: Path) -> None:
    places.cache().write_text("no folder")
    assert len(once(b"a")) == 3


def test_what_is_not_used_for_a_month_goes(folder: Path) -> None:
    once(b"old")
    once(b"used")
    old, used = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    month = time.time() - cached.DAYS * 86_400
    os.utime(old, (month - 60, month - 60))
    os.utime(used, (month - 60, month - 60))
    assert len(once(b"used")) == 0
    cached._tidy.cache_clear()
    once(b"new")
    assert used.exists() and not old.exists()


def test_bytecode_depends_on_all_that_it_is_made_of() -> None:
    source = b"def f(a):\n    return a\n"
    made = {
        bytecode.compiled(source, "x.py"),
        bytecode.compiled(source, "y.py"),
        bytecode.compiled(source + b"a = 1\n", "x.py"),
    }
    assert len(made) == 3
    assert bytecode.compiled(source, "x.py") in made
    native = b"@micropython.native\n" + source
    assert bytecode.compiled(native, "x.py", "xtensa") != bytecode.compiled(
        native, "x.py", "armv6m"
    )
    with pytest.raises(Failure):
        bytecode.compiled(native, "x.py")


def test_names_depend_on_the_module_beside() -> None:
    ours = {"runtime/loop.py": "class App:\n    def checks(self, width):\n        return width\n"}
    plain = names.short(ours)
    assert "checks" not in plain["runtime/loop.py"]
    assert names.short(ours, [b"x = 1\n"]) == plain
    assert "checks" in names.short(ours, [b"app.checks(1)\n"])["runtime/loop.py"]
    assert "width" in names.short(ours, [b"f(width=1)\n"])["runtime/loop.py"]
    assert names.short(ours) == plain
