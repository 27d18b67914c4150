"""`mipy`'s verbs for a board at work, as a person types them.

Their board is the tightest one there is: a virtual ESP8266 for development, in real time, whose app
stands on the runtime, so that its watchdog is on and its heap nearly full.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mipy_ota.tools.board import session, target
from mipy_ota.tools.board.repl import Repl
from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim.board import Snapshot
from tests.support import bridged, loopback, workbench

ADDRESS = loopback.address()
SECONDS = 120
NAME = workbench.NAME


Flashed = tuple[workbench.Desk, Snapshot]


@pytest.fixture(scope="module")
def flashed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flashed]:
    """A desk whose board, which is off, is known to the server."""
    folder = tmp_path_factory.mktemp("desk")
    with workbench.desk(folder, speed=1, runtime=True, address=ADDRESS) as made:
        assert made.board.wait(lambda _: made.server.board("b1")["address"] == ADDRESS, SECONDS)
        made.board.stop()
        yield made, made.board.save()


@pytest.fixture
def desk(flashed: Flashed) -> Iterator[workbench.Desk]:
    """The desk as it was, with its app running on the board."""
    made, snapshot = flashed
    made.edit("'one'")
    made.board.restore(snapshot)
    at = len(made.board.console)
    made.board.start()
    try:
        assert made.board.wait(lambda board: "turn 1 one" in board.console[at:], SECONDS)
        yield made
    finally:
        made.board.stop()


def mipy(*words: str | Path, code: int = 0) -> str:
    """What the command prints on standard output; with another `code`, on the other one."""
    command = [sys.executable, "-m", "mipy_ota.tools.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


@contextmanager
def running(*words: str | Path) -> Iterator[Iterator[str]]:
    """The lines of a command that goes on until Ctrl-C, as they come."""
    command = [sys.executable, "-u", "-m", "mipy_ota.tools.cli", *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        late = threading.Timer(SECONDS, process.kill)
        late.start()
        try:
            assert process.stdout
            yield process.stdout
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130
        finally:
            late.cancel()
            process.kill()


def comes(lines: Iterator[str], text: str) -> None:
    """Wait for a line with this text."""
    seen = []
    for line in lines:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"no {text!r} in {seen}")


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


def test_files_in_mpremotes_words(desk: workbench.Desk, tmp_path: Path) -> None:
    stopped(desk)
    note, back = tmp_path / "note.txt", tmp_path / "back.txt"
    note.write_bytes(b"a note\n")
    mipy("fs", "mkdir", NAME, ":box/inner")
    mipy("fs", "cp", NAME, note, ":box/")
    mipy("fs", "cp", NAME, ":box/note.txt", ":box/inner/copy")
    assert mipy("fs", "ls", NAME, ":box").splitlines() == [
        "           inner/",
        "         7 note.txt",
    ]
    assert mipy("fs", "tree", NAME, ":box").splitlines() == [
        "/data/box",
        "   inner/",
        "      copy  7",
        "   note.txt  7",
    ]
    assert mipy("fs", "cat", NAME, ":box/inner/copy") == "a note\n"
    mipy("fs", "cp", NAME, ":box/note.txt", f"{tmp_path}/back.txt")
    assert back.read_bytes() == note.read_bytes()
    told = mipy("fs", "sha256sum", NAME, "box/note.txt")
    assert told == f"{hashlib.sha256(note.read_bytes()).hexdigest()}  /data/box/note.txt\n"
    used = re.fullmatch(r"(\d+) of (\d+) bytes are used, (\d+) are free\n", mipy("fs", "df", NAME))
    assert used and int(used[1]) + int(used[3]) == int(used[2])
    mipy("reset", NAME)


def test_what_files_cannot_be(desk: workbench.Desk) -> None:
    """In plain words; the board goes on in any case."""
    stopped(desk)
    mipy("fs", "mkdir", NAME, ":full/er")
    assert "the folder is not empty" in mipy("fs", "rm", NAME, ":full", code=1)
    assert "no such file or folder" in mipy("fs", "rm", NAME, ":39", code=1)
    assert "no such file or folder" in mipy("fs", "cat", NAME, ":no28", code=1)
    assert "is a folder" in mipy("fs", "cat", NAME, ":full", code=1)
    assert "mipy push BOARD" in mipy("fs", "cp", NAME, ":full", ":/app_slots/a/x", code=1)
    mipy("fs", "rm", "-r", NAME, ":full")
    assert "full" not in mipy("fs", "ls", NAME)
    mipy("reset", NAME)
    assert desk.board.wait(lambda board: "turn 1 " in board.console[-2000:], SECONDS)


# --- exec, run, reset, logs


def stopped(desk: workbench.Desk) -> None:
    """Let the app be stopped as by hand: then commands need no reset at their end."""
    stream = target.find(NAME).open()
    repl = Repl(stream, NAME)
    repl.enter(soft_reset=False)
    repl.run(session.DROP)
    repl.leave()
    repl.close()


def test_a_script_is_run_and_not_stored(desk: workbench.Desk, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfor n in range(3):\n    print('line', n, 'script.py' in os.listdir())\n"
    )
    assert mipy("run", NAME, script) == "line 0 False\nline 1 False\nline 2 False\n"
    assert mipy("exec", NAME, "print(6 * 7)") == "42\n"
    said = mipy("exec", NAME, "1 / 0", code=1)
    assert "ZeroDivisionError" in said and "the app of kitchen is stopped meanwhile" in said
    assert "cannot read" in mipy("run", NAME, tmp_path / "none.py", code=1)
    assert desk.runs("one")


def test_reset_is_no_crash(desk: workbench.Desk) -> None:
    before = desk.board.console.count("ota: a ") + desk.board.console.count("ota: b ")
    assert mipy("reset", NAME) == "kitchen starts again\n"
    assert desk.board.wait(
        lambda board: board.console.count("ota: a ") + board.console.count("ota: b ") > before,
        SECONDS,
    )
    stopped(desk)
    assert mipy("exec", NAME, "import machine; print(machine.RTC().memory()[1])") == "0\n"
    mipy("reset", NAME)


def test_logs_go_on_over_a_reset(desk: workbench.Desk) -> None:
    with running("logs", "-f", NAME) as lines:
        comes(lines, "turn")
        desk.board.power_cut()
        comes(lines, "waiting for it")
        comes(lines, "turn")


def test_logs_of_a_closed_board_are_its_reports(tmp_path: Path) -> None:
    with workbench.desk(tmp_path, dev=False, address=loopback.address()) as desk:
        assert desk.board.wait(lambda _: desk.server.board("b1")["address"], SECONDS)
        with running("logs", "-f", NAME) as lines:
            comes(lines, "is closed")
            desk.server.order("b1", "pause")
            comes(lines, "paused")


# --- other people's tools


def test_mpremote_over_the_air(desk: workbench.Desk, tmp_path: Path) -> None:
    bridged.prove(target.find(NAME), tmp_path)


# --- push and watch


def test_push_of_an_app_on_the_runtime(desk: workbench.Desk) -> None:
    """Its heap is too full to verify a release beside it."""
    for value in ("'two'", "'three'"):
        desk.edit(value)
        said = mipy("push", NAME, "--app", desk.app)
        assert "confirmed after" in said and said.endswith("sent: part.mpy\n"), said
        assert desk.runs(value.strip("'"))


def test_watch_pushes_each_save(desk: workbench.Desk) -> None:
    """A save that does not compile is told, and the next one goes."""
    with running("watch", NAME, "--app", desk.app) as lines:
        comes(lines, "Ctrl-C ends it")
        desk.edit("(")
        comes(lines, "error:")
        desk.edit("'four'")
        comes(lines, "confirmed after")
        assert desk.runs("four")


# --- where it is


def test_a_board_that_no_server_knows_is_found_by_its_name(
    desk: workbench.Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an ESP32 answers on the local network."""
    asked = []

    def resolved(name: str, *_: object) -> list[tuple[object, ...]]:
        asked.append(name)
        return [(2, 1, 6, "", (ADDRESS, 0))]

    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr(target.socket, "getaddrinfo", resolved)
    assert target.find(NAME).host == ADDRESS
    assert asked[-1] == "kitchen.local"

    def unknown(*_: object) -> None:
        raise OSError("unknown")

    monkeypatch.setattr(target.socket, "getaddrinfo", unknown)
    with pytest.raises(Failure, match="nobody knows where kitchen is"):
        target.find(NAME)
