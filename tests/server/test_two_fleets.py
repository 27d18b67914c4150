"""Two fleets on one computer do not mix."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.fleet import client
from mipy_ota.tools.keys import changes
from tests.support import ROOT

SECONDS = 60
TWO = ("first", "second")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two fleets with keys."""
    for name in ("MIPY_SERVER", "MIPY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    for name in TWO:
        monkeypatch.setenv("MIPY_FLEET", name)
        changes.make_fleet()
    monkeypatch.delenv("MIPY_FLEET")
    return tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def mipy(*words: str) -> tuple[int, str]:
    """Exit code and what the command prints."""
    command = [sys.executable, "-m", "mipy_ota.tools.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def serving(fleet: str, *words: str) -> Iterator[str]:
    """A server of a fleet; its address."""
    command = [sys.executable, "-u", "-m", "mipy_ota.tools.cli", "--fleet", fleet, "serve"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().removeprefix("serving ").strip()
            assert f"the fleet is '{fleet}'" in process.stdout.readline()
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)


def test_a_port_is_remembered_for_its_fleet() -> None:
    ports = {fleet: free_port() for fleet in TWO}
    for fleet, port in ports.items():
        with serving(fleet, "--port", str(port)) as url:
            assert url == f"http://127.0.0.1:{port}"
    with serving("first") as one, serving("second") as other:
        assert [one, other] == [f"http://127.0.0.1:{ports[fleet]}" for fleet in TWO]
        for fleet, url in (("first", one), ("second", other)):
            code, said = mipy("--fleet", fleet, "status")
            assert code == 0 and url in said, said


def test_a_free_port_is_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("first", "--port", "0"):
        pass
    monkeypatch.setenv("MIPY_FLEET", "first")
    assert client.served_port() == client.DEFAULT_PORT


def test_what_else_fleet_json_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPY_FLEET", "first")
    path = places.fleet_dir() / "fleet.json"
    path.write_text('{"server": "http://ota.example:80", "later": [1]}')
    client.remember_port(8300)
    found = {"server": "http://ota.example:80", "later": [1], "port": 8300}
    assert json.loads(path.read_text()) == found
    assert client.address() == "http://ota.example:80"


@pytest.mark.parametrize("port", ['"8266"', "0", "65536", "true", "1.5"])
def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("MIPY_FLEET", "first")
    (places.fleet_dir() / "fleet.json").write_text(f'{{"port": {port}}}')
    code, said = mipy("status")
    assert code == 1 and "is no port" in said and "fleet.json" in said


def test_errors_name_fleet_and_address(home: Path) -> None:
    """The first fleet's server runs where the second's is looked for, or none does."""
    port = free_port()
    for fleet in TWO:
        (home / fleet / "fleet.json").write_text(json.dumps({"port": port}))
        (home / fleet / "token").write_text(f"{fleet}-token")
    with serving("first") as url:
        code, said = mipy("--fleet", "second", "status")
        assert code == 1 and f"the server of the fleet 'second' at {url} refuses (token)" in said
        assert "give one of them another --port" in said
        code, said = mipy("--fleet", "second", "serve", "--host", "127.0.0.1")
        assert code == 1 and "give the fleet 'second' another --port" in said
    code, said = mipy("--fleet", "second", "status")
    assert code == 1 and f"cannot reach the server of the fleet 'second' at {url}" in said


@pytest.mark.parametrize(
    "words",
    [
        "status", "keys list", "keys revoke 1234", "boards", "build", "wifi ls kitchen", "serve",
        "new app", "keys new", "keys restore x.keys", "restore x.backup",
    ],
)  # fmt: skip
def test_a_mistyped_fleet_makes_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(home)
    before = sorted(home.iterdir())
    code, said = mipy("--fleet", "frist", *words.split())
    assert sorted(home.iterdir()) == before
    assert code == 1 and "there is no fleet 'frist'" in said and "first, second" in said


def test_a_new_fleet_is_made_by_what_makes_one(home: Path) -> None:
    assert mipy("--fleet", "third", "keys", "new")[0] == 0
    assert (home / "third" / "keys" / "trust.1").is_file()
    # "second" is like this one, so it has to be meant.
    (home / "second2").mkdir()
    assert mipy("--fleet", "second2", "keys", "new")[0] == 0


def test_a_computer_without_fleets_begins_by_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "empty"))
    with serving("second", "--port", "0") as url:
        assert url
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["second"]
    code, said = mipy("--fleet", "garden", "serve", "--port", "0")
    assert code == 1 and "there is no fleet 'garden'" in said and "mkdir -p" in said
