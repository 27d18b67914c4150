"""The people's API, version 1, and the verbs that use it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.server.test_people import added, call
from tests.support.fake_board import FakeBoard, connect, talk


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """Three boards: one has polled, one has a name."""
    with running(tmp_path / "data", interval=2) as served:
        owner = client.Client(served.url, served.token)
        for number in range(3):
            board = FakeBoard(served.url, id=f"b{number}")
            owner.enrol(board.file())
            if number == 1:
                board.boot()
            board.close()
        owner.change("b2", name="kitchen")
        yield served


def names(server: Running, **wanted: Any) -> list[str]:
    return [one["id"] for one in client.Client(server.url, server.token).search(**wanted)]


def test_filters_mean_all_of_them(server: Running, monkeypatch: pytest.MonkeyPatch):
    owner = client.Client(server.url, server.token)
    assert names(server) == ["b0", "b1", "b2"]
    assert names(server, state="ok") == ["b1"]
    assert names(server, state="never seen") == ["b0", "b2"]
    assert names(server, search="kit") == ["b2"]
    assert names(server, search="%") == names(server, search="_") == []
    assert names(server, app="weather", search="b0") == ["b0"]
    assert names(server, app="other") == []
    owner.change("b0", tags=["hall", "test"])
    owner.change("kitchen", tags=["test"])
    assert names(server, tag="test") == ["b0", "b2"]
    assert owner.search(tag="hall")[0]["tags"] == ["hall", "test"]
    owner.change("b0", tags=[])
    assert names(server, tag="hall") == []
    owner.change("b1", retired=True)
    assert (names(server), names(server, retired=True)) == (["b0", "b2"], ["b1"])
    monkeypatch.setattr(client, "PAGE", 1)
    assert names(server) == ["b0", "b2"]


def test_pages_and_order(server: Running):
    path = "/api/v1/boards?sort=last_seen&limit=1"
    first = call(server, server.token, "GET", path).json()
    assert (first["total"], first["boards"][0]["id"]) == (3, "b1") and "key" not in str(first)
    rest = call(server, server.token, "GET", "/api/v1/boards?sort=name&limit=2&offset=2").json()
    assert [one["name"] for one in rest["boards"]] == ["kitchen"]


def test_retired_board_is_offered_nothing_and_removed_one_is_a_stranger(server: Running):
    owner = client.Client(server.url, server.token)
    board = FakeBoard(server.url, id="b9")
    owner.enrol(board.file())
    board.boot()
    owner.order("b9", "rollback")
    owner.change("b9", retired=True)
    assert "do" not in board.poll()
    owner.change("b9", retired=False)
    assert board.poll()["do"] == ["rollback"]
    owner.remove("b9")
    assert board.send(board.message()).status == 403
    board.close()
    kinds = [row["action"] for row in owner.audit()]
    assert kinds[:3] == ["remove board", "change board", "change board"]


def test_errors_have_one_form_and_roles_count(server: Running):
    cases = [
        ("GET", "/api/v1/boards?limit=9999", {}, 422, "value"),
        ("GET", "/api/v1/boards?sort=key", {}, 422, "value"),
        ("GET", "/api/v1/nowhere", {}, 404, "path"),
        ("PATCH", "/api/v1/boards/b0", {"tags": ["\x1b"]}, 422, "value"),
        ("PATCH", "/api/v1/boards/b0", {"name": "a\nb"}, 422, "value"),
        ("PATCH", "/api/v1/boards/nobody", {"paused": True}, 404, "board"),
        ("DELETE", "/api/v1/boards/nobody", {}, 404, "board"),
    ]
    for method, path, said, status, code in cases:
        answer = call(server, server.token, method, path, **said)
        assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
        assert set(answer.json()) == {"error", "text", "hint"}
    token = added(server, "anna", "publish")["token"]
    assert call(server, token, "GET", "/api/v1/boards").ok
    for method in ("PATCH", "DELETE"):
        answer = call(server, token, method, "/api/v1/boards/b0", paused=True)
        assert (answer.status_code, answer.json()["error"]) == (403, "role")
    assert requests.get(server.url + "/api/v1/boards", timeout=30).status_code == 401
    schema = requests.get(server.url + "/api/v1/openapi.json", timeout=30).json()
    paths = {"/boards", "/boards/{board}", "/rollouts", "/rollouts/{number}"}
    assert set(schema["paths"]) == paths


@pytest.mark.parametrize("length", [b"content-length: 1073741824", b"transfer-encoding: chunked"])
def test_long_body_is_refused_before_it_is_read(server: Running, length: bytes):
    with connect(server.url) as raw:
        answer = talk(
            raw, b"PATCH /api/v1/boards/b0 HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n"
        )
        assert (answer.status, json.loads(answer.body)["error"]) == (413, "size")
        assert raw.recv(1) == b""


def test_verbs(server: Running, tmp_path: Path):
    def mipy(*words: str) -> str:
        environment = os.environ | {
            "MIPY_HOME": str(tmp_path),
            "MIPY_SERVER": server.url,
            "MIPY_TOKEN_FILE": str(tmp_path / "data" / "token"),
        }
        command = [sys.executable, "-m", "mipy_ota.tools.cli", *words]
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    mipy("board", "rename", "b0", "hall")
    mipy("board", "tag", "hall", "test")
    mipy("pause", "hall")
    (found,) = json.loads(mipy("boards", "--tag", "test", "--json"))
    assert (found["id"], found["name"], found["paused"]) == ("b0", "hall", True)
    mipy("board", "retire", "hall")
    assert "hall" not in mipy("boards")
    mipy("board", "rm", "hall", "--yes")
    assert "no such board" in mipy("boards", "--retired")
