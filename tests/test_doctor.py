"""`mipy doctor` finds what is wrong and says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from mipy_ota.tools import doctor, enrol, keys, places, serve
from mipy_ota.tools.client import Client, connect
from mipy_ota.tools.doctor import Finding
from mipy_ota.tools.sim.board import VirtualBoard
from mipy_ota.tools.sim.port import Port

NOT_HERE = "127.0.0.2"
"""Loopback as well, but a server on 127.0.0.1 does not listen there."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:1")
    return tmp_path


@pytest.fixture
def server(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[serve.Running]:
    host = getattr(request, "param", "127.0.0.1")
    with serve.running(home / "server", host=host) as running:
        monkeypatch.setenv("MIPY_SERVER", running.url.replace("0.0.0.0", "127.0.0.1"))
        monkeypatch.setenv("MIPY_TOKEN_FILE", str(home / "server" / "token"))
        yield running


def found(what: str, board: str | None = None) -> list[Finding]:
    return [one for one in doctor.examine(board) if one.what == what]


def test_everything_missing_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        doctor.doctor()
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().out
    assert "fail fleet keys" in said and "mipy keys new" in said
    assert "fail server" in said and "mipy serve" in said
    assert "ok   esptool" in said


def test_every_problem_has_a_remedy_and_json_holds_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        doctor.doctor(as_json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {one["level"] for one in findings} <= {"ok", "warn", "fail"}
    assert all(one["hint"] for one in findings if one["level"] != "ok")


def test_all_well_ends_with_zero(server: serve.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrol, "lan_address", lambda: "127.0.0.1")
    keys.make_fleet("demo")
    keys.publish_trust(connect())
    assert [one for one in doctor.examine() if one.level == "fail"] == []
    doctor.doctor()


def test_backup_and_permissions_of_keys(home: Path) -> None:
    keys.make_fleet("demo")
    (before,) = found("key backup")
    assert before.level == "warn" and "root-" in before.text
    phrase = home / "phrase"
    phrase.write_text("a long enough phrase\n")
    phrase.chmod(0o600)
    keys.backup(home / "keys.bak", phrase)
    assert found("key backup")[0].level == "ok"
    keys.add_key("dev")
    assert "dev-" in found("key backup")[0].text
    keys.entries()[0].path.chmod(0o644)
    assert any("chmod 600" in one.hint for one in found("keys"))


@pytest.mark.parametrize(
    ("server", "level"), [("127.0.0.1", "fail"), ("0.0.0.0", "ok")], indirect=["server"]
)
def test_server_that_listens_for_this_computer_only(
    server: serve.Running, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol, "lan_address", lambda: NOT_HERE)
    (one,) = found("server address")
    assert one.level == level
    if level == "fail":
        assert "this computer only" in one.text and "--host 0.0.0.0" in one.hint


def test_clocks_that_differ(server: serve.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    status = connect().status()
    monkeypatch.setattr(Client, "status", lambda _: {**status, "time": status["time"] - 3600})
    assert found("server clock")[0].level == "fail"


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert found("fleet folder")[0].level == "fail"


def test_missing_interpreter_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.delenv("MIPY_MICROPYTHON", raising=False)
    assert found("MicroPython")[0].level == "warn"
    assert not (tmp_path / "cache").exists()


def test_board_by_name(server: serve.Running) -> None:
    keys.make_fleet("demo")
    made = enrol.make("b1", "demo", "esp8266-generic", name="shed", servers=("http://127.0.0.1:1",))
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    said = found("board", "shed")
    assert [one.level for one in said] == ["fail", "fail"]
    assert "never heard" in said[0].text and "127.0.0.1:1" in said[1].text
    assert found("board", "nobody")[0].level == "fail"


def test_board_on_a_port(tmp_path: Path) -> None:
    with VirtualBoard(tmp_path / "board", blocks=64) as board, Port(board) as port:
        board.format({"/main.py": b"import time\nwhile True:\n    time.sleep(1)\n"})
        board.start(port.hear)
        said = found("board", port.path)
        board.stop()
    assert said[0].level == "ok" and "virtual esp8266" in said[0].text
    assert said[1].level == "warn" and "mipy adopt" in said[1].hint


def test_port_that_is_not_there() -> None:
    (one,) = found("board", "/dev/ttyNONE")
    assert one.level == "fail" and one.hint
    assert os.path.basename(one.text)
