"""The interpreter that boards run on: found, described truly, and refused in plain words."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim import micropython


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test asks anew; the tests after it too."""
    micropython.interpreter.cache_clear()
    yield
    micropython.interpreter.cache_clear()


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(argv: list[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*argv, "-c", code], capture_output=True, text=True, timeout=30)


def test_it_is_what_it_says() -> None:
    found = micropython.interpreter()
    done = run(found.argv, "import sys; print(sys.implementation[0], sys.maxsize)")
    assert done.stdout.split()[0] == "micropython"
    assert int(done.stdout.split()[1]).bit_length() + 1 == found.word
    assert found.version >= (1, 22, 0)
    assert micropython.binary() == found.argv
    assert micropython.word_size() == found.word


def test_exit_code_passes_through(mpy: list[str]) -> None:
    assert run(mpy, "import sys; sys.exit(3)").returncode == 3


def test_heap_size_is_obeyed(mpy: list[str]) -> None:
    heap = 38912 * micropython.word_size() // 32
    done = run([*mpy, "-X", f"heapsize={heap}"], "bytearray(200_000)")
    assert "MemoryError" in done.stderr


def test_named_one_is_used(mpy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = script(tmp_path / "my mpy", f'exec {" ".join(mpy)} "$@"')
    monkeypatch.setenv("MIPY_MICROPYTHON", named)
    assert micropython.binary() == [named]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("echo True 1 21 0", "1.21, too old"),
        ("echo hello", "does not run here"),
        ("exit 7", "exit code 7"),
    ],
)
def test_named_one_is_refused(
    body: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIPY_MICROPYTHON", script(tmp_path / "mpy", body))
    with pytest.raises(Failure, match=text) as caught:
        micropython.interpreter()
    assert "MIPY_MICROPYTHON" in caught.value.hint + caught.value.text


def test_named_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPY_MICROPYTHON", "/nonexistent/mpy")
    with pytest.raises(Failure, match="does not start"):
        micropython.interpreter()


def test_nothing_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.delenv("MIPY_MICROPYTHON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure) as caught:
        micropython.interpreter()
    for source in ("Debian", "PyPI", "PATH"):
        assert source in caught.value.text


def test_path_comes_last(mpy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    named = script(tmp_path / "micropython", f'exec {" ".join(mpy)} "$@"')
    monkeypatch.delenv("MIPY_MICROPYTHON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert micropython.binary() == [named]


def test_stopped_fetch_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "thing"
    with pytest.raises(KeyboardInterrupt), micropython._fetching(folder) as new:
        assert new is not None
        (new / "half").touch()
        raise KeyboardInterrupt
    assert [entry.name for entry in folder.parent.iterdir()] == ["lock"]


def test_fetch_happens_once(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    (tmp_path / ".thing-killed").mkdir()
    with micropython._fetching(folder) as new:
        assert new is not None
        (new / "whole").touch()
    with micropython._fetching(folder) as new:
        assert new is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "thing"]
    assert (folder / "whole").exists()
