"""`mipy sim` as somebody at a terminal has it: on a pseudo-terminal, against a real server."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import enrol, serve
from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.trust_upload import publish_trust
from mipy_ota.tools.keys import changes, sign
from mipy_ota.tools.sim import command
from tests.support import ROOT

SECONDS = 60
MAIN = """
import ota, time
print("hello from the app")
while True:
    ota.check()
    time.sleep(1)
"""


class Terminal:
    """`mipy` with these words on a pseudo-terminal."""

    def __init__(self, *words: str) -> None:
        self.text = ""
        pid, self._fd = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "mipy_ota.tools.cli", *words])
        self._pid = pid

    def wait(self, text: str, seconds: float = SECONDS) -> None:
        """Until this text has come after what was waited for last."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"{text!r} did not come: {self.text}"
            self._read()
        self.text = self.text.partition(text)[2]

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self, seconds: float = SECONDS) -> int:
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read()
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it has not ended: {self.text}")

    def interrupt(self) -> None:
        """Press Ctrl-C, seldom enough not to end it, until the board is at its prompt."""
        for _ in range(SECONDS):
            self.press(b"\x03")
            try:
                return self.wait(">>> ", 2)
            except AssertionError:
                continue

    def leave(self) -> int:
        """Press Ctrl-C until it has ended; the exit code."""
        for _ in range(SECONDS):
            self.press(b"\x03")
            try:
                return self.end(0.5)
            except AssertionError:
                continue
        return self.end()

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)

    def _read(self) -> None:
        if select.select([self._fd], [], [], 0.05)[0]:
            try:
                self.text += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # Linux says so when the other side is closed
                time.sleep(0.05)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A fleet with keys, and its server."""
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MIPY_FLEET", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    changes.make_fleet()
    with serve.running(tmp_path / "server", interval=5) as server:
        monkeypatch.setenv("MIPY_SERVER", server.url)
        monkeypatch.setenv("MIPY_TOKEN_FILE", str(tmp_path / "server" / "token"))
        client = Client(server.url, server.token)
        publish_trust(client)
        yield client


@pytest.fixture
def run() -> Iterator[type[Terminal]]:
    started: list[Terminal] = []

    class Tracked(Terminal):
        def __init__(self, *words: str) -> None:
            super().__init__(*words)
            started.append(self)

    yield Tracked
    for terminal in started:
        terminal.close()


def publish(client: Client, folder: Path, cls: str = "esp8266-generic") -> str:
    """A release of a plain app; returns its digest."""
    folder.mkdir(exist_ok=True)
    (folder / "app.toml").write_text('name = "plain"\nruntime = false\n')
    (folder / "main.py").write_text(MAIN)
    return client.publish(sign.sign_for_fleet(build.make(folder, cls, build.minutes())))["digest"]


def test_a_new_board_starts_with_the_newest_release(
    fleet: Client, run: type[Terminal], tmp_path: Path
) -> None:
    digest = publish(fleet, tmp_path / "app")
    board = run("sim", "kitchen", "--speed", "10")
    board.wait("kitchen, a virtual esp8266 at 127.")
    board.wait("'virtual', password 'virtual-air'")
    portal = f"http://{command.address_of('kitchen')}:8080/, its radio's password '"
    board.wait(portal + str(enrol.find("kitchen").board.portal))
    board.wait("hello from the app")
    end = time.monotonic() + SECONDS
    while fleet.board("kitchen")["confirmed"] != digest[:32]:
        assert time.monotonic() < end
        time.sleep(0.1)

    board.interrupt()
    board.press(b"6 * 7\n")
    board.wait("42")

    board.press(b"\x1d")
    board.wait("kitchen is off")
    assert board.end() == 0


def test_it_is_the_same_board_the_next_time(
    fleet: Client, run: type[Terminal], tmp_path: Path
) -> None:
    publish(fleet, tmp_path / "app")
    for _ in range(2):
        board = run("sim", "kitchen", "--speed", "10")
        board.wait("hello from the app")
        board.interrupt()
        assert board.leave() == 0
    assert len(fleet.boards()) == 1


def test_one_flash_is_run_once(fleet: Client, run: type[Terminal], tmp_path: Path) -> None:
    """A second one would write into it under the first one's feet."""
    publish(fleet, tmp_path / "app")
    first = run("sim", "kitchen", "--speed", "10")
    first.wait("hello from the app")
    second = run("sim", "kitchen", "--speed", "10")
    second.wait("kitchen runs already")
    assert second.end() == 1
    first.press(b"\x1d")
    assert first.end() == 0
    again = run("sim", "kitchen", "--speed", "10")
    again.wait("hello from the app")
    again.press(b"\x1d")
    assert again.end() == 0


def test_without_a_release_it_waits_in_recovery_and_takes_the_first(
    fleet: Client, run: type[Terminal], tmp_path: Path
) -> None:
    board = run("sim", "kitchen", "--speed", "10", "--app", "plain")
    board.wait("no release for it yet")
    board.wait("recovery")
    publish(fleet, tmp_path / "app")
    board.wait("hello from the app")


def test_several_at_once(fleet: Client, run: type[Terminal], tmp_path: Path) -> None:
    publish(fleet, tmp_path / "app")
    boards = [run("sim", name, "--speed", "10") for name in ("one", "two", "three")]
    for board in boards:
        board.wait("hello from the app")
    assert {board["id"] for board in fleet.boards()} == {"one", "two", "three"}
    assert len({command.address_of(name) for name in ("one", "two", "three")}) == 3


def mipy(folder: Path, *words: str) -> str:
    """What `mipy` prints, called in this folder."""
    done = subprocess.run(
        [sys.executable, "-m", "mipy_ota.tools.cli", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_apps_in_one_fleet(
    fleet: Client, run: type[Terminal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder each, one set of keys, one server: a board gets what is its own app's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    boards: dict[str, Terminal] = {}
    for app in ("weather", "relay"):
        mipy(tmp_path, "new", app)
        monkeypatch.chdir(tmp_path / app)
        Path("app.toml").write_text(
            f'name = "{app}"\nclasses = ["esp8266-generic"]\nruntime = false\n'
        )
        Path("main.py").write_text(MAIN.replace("hello", f"hello {app} 1"))
        mipy(Path.cwd(), "release", "--note", "1.0")
        boards[app] = run("sim", f"{app}-board", "--speed", "10")
    for app, board in boards.items():
        board.wait(f"hello {app} 1 from the app")
    Path("main.py").write_text(MAIN.replace("hello", "hello relay 2"))
    mipy(Path.cwd(), "release", "--note", "1.1", "--follow")
    boards["relay"].wait("hello relay 2 from the app")
    seen = {one["id"]: one for one in fleet.boards()}
    newest = {one["app"]: one["digest"][:32] for one in reversed(fleet.releases())}
    assert {name: one["digest"] for name, one in seen.items()} == {
        f"{app}-board": digest for app, digest in newest.items()
    }
    assert seen["weather-board"]["rejected"] == []
    listed = mipy(tmp_path, "boards", "--app", "weather")
    assert "weather-board" in listed and "relay" not in listed

    # Back to 1.0: of this folder's app alone.
    mipy(Path.cwd(), "rollback", "--all", "--yes", "--follow")
    boards["relay"].wait("hello relay 1 from the app")
    assert fleet.board("weather-board")["digest"] == newest["weather"]


def test_without_a_server_it_says_so_and_runs(
    fleet: Client, run: type[Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9")
    board = run("sim", "kitchen", "--speed", "10")
    board.wait("not enrolled")
    board.wait("recovery")


def test_without_keys_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    with pytest.raises(Failure) as failed:
        command.identity("kitchen", "esp8266")
    assert "mipy keys new" in failed.value.hint


def test_a_name_belongs_to_one_kind_of_board(fleet: Client) -> None:
    command.identity("kitchen", "esp8266")
    with pytest.raises(Failure, match="is of class esp8266-generic"):
        command.identity("kitchen", "esp32")


def test_a_board_for_development_is_one_from_the_start(fleet: Client) -> None:
    assert command.identity("bench", "esp8266", dev=True).dev
    command.identity("kitchen", "esp8266")
    with pytest.raises(Failure, match="is a production board already"):
        command.identity("kitchen", "esp8266", dev=True)


def test_its_file_is_the_owners_alone(fleet: Client) -> None:
    who = command.identity("kitchen", "esp8266")
    paths = list(places.data_dir().glob("boards/*"))
    assert paths and all(path.stat().st_mode & 0o077 == 0 for path in paths)
    assert enrol.find("kitchen").board == who


@pytest.mark.parametrize("words", [["../x"], ["--chip", "esp9"]])
def test_nonsense_is_refused_in_one_line(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mipy_ota.tools.cli", "sim", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "what to do: " in done.stderr
