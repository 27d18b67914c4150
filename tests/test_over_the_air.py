"""`mipy`'s verbs for a board at work, as a person types them.

Their board is the tightest one there is: a virtual ESP8266 for development, in real time, whose app
stands on the runtime, so that its watchdog is on and its heap nearly full.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import workbench

ADDRESS = "127.0.0.64"
SECONDS = 120
NAME = workbench.NAME


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[workbench.Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with workbench.desk(folder, speed=1, runtime=True, address=ADDRESS) as made:
        assert made.board.wait(lambda _: made.server.board("b1")["address"] == ADDRESS, SECONDS)
        yield made


def mipy(*words: str | Path, code: int = 0) -> str:
    """What the command prints on standard output; with another `code`, on the other one."""
    command = [sys.executable, "-m", "mipy_ota.tools.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


# --- fs


def test_a_large_file_there_and_back(desk: workbench.Desk, tmp_path: Path) -> None:
    """The watchdog bites after two seconds; the transfer takes eight in each direction."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(secrets.token_bytes(200_000))
    resets = desk.board.console.count("ota: a ")
    mipy("fs", "cp", NAME, there, ":big")
    mipy("fs", "cp", NAME, ":big", back)
    assert back.read_bytes() == there.read_bytes()
    assert desk.runs("one")
    # Of the two commands.
    assert desk.board.console.count("ota: a ") == resets + 2


# --- push


def test_push_of_an_app_on_the_runtime(desk: workbench.Desk) -> None:
    """Its heap is too full to verify a release beside it."""
    for value in ("'two'", "'three'"):
        desk.edit(value)
        said = mipy("push", NAME, "--app", desk.app)
        assert "confirmed after" in said and said.endswith("sent: part.mpy\n"), said
        assert desk.runs(value.strip("'"))
