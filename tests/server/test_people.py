"""Who may do what: roles, tokens, sessions, and the audit of every change."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import update
from starlette.routing import Route

from mipy_ota.ota_server.app import make_app
from mipy_ota.ota_server.people import access
from mipy_ota.ota_server.storage import model
from mipy_ota.ota_server.storage.base import StorageError
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import vectors
from tests.support.fake_board import FakeBoard

# What each call needs. A call that is missing here fails the test below.
NEEDS = {
    ("GET", "/api/status"): "read",
    ("GET", "/api/boards"): "read",
    ("POST", "/api/boards"): "operate",
    ("GET", "/api/boards/{id}"): "read",
    ("GET", "/api/boards/{id}/events"): "read",
    ("POST", "/api/boards/{id}/orders"): "operate",
    ("GET", "/api/releases"): "read",
    ("POST", "/api/releases"): "publish",
    ("GET", "/api/releases/{digest}/bundle"): "read",
    ("POST", "/api/releases/{digest}/withdraw"): "publish",
    ("GET", "/api/trust"): "read",
    ("POST", "/api/trust"): "publish",
    ("GET", "/api/operators"): "admin",
    ("POST", "/api/operators"): "admin",
    ("DELETE", "/api/operators/{name}"): "admin",
    ("GET", "/api/tokens"): "admin",
    ("POST", "/api/tokens"): "admin",
    ("DELETE", "/api/tokens/{n}"): "admin",
    ("GET", "/api/audit"): "admin",
    ("GET", "/metrics"): "read",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data", interval=2) as served:
        yield served


def call(server: Running, token: str, method: str, path: str, **said: Any) -> requests.Response:
    headers = {"authorization": f"Bearer {token}"}
    return requests.request(
        method, server.url + path, headers=headers, json=said or None, timeout=30
    )


def added(server: Running, name: str, rank: str, **more: Any) -> dict[str, Any]:
    """An operator and a token of his."""
    owner = server.token
    assert call(server, owner, "POST", "/api/operators", name=name, role=rank).ok
    answer = call(server, owner, "POST", "/api/tokens", operator=name, **more)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_every_call_is_in_the_table(tmp_path: Path):
    found = {
        (method, route.path)
        for route in make_app(tmp_path, token="x").people.routes
        if isinstance(route, Route) and route.path.startswith(("/api/", "/metrics"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert found == set(NEEDS)


@pytest.mark.parametrize("role", access.ROLES)
def test_role_by_call(server: Running, role: str):
    token = added(server, "anna", role)["token"]
    for (method, path), needed in NEEDS.items():
        path = path.replace("{id}", "b-1").replace("{digest}", "0" * 64).replace("{name}", "bob")
        answer = call(server, token, method, path.replace("{n}", "999"))
        allowed = access.ROLES.index(role) >= access.ROLES.index(needed)
        assert (answer.status_code != 403) == allowed, (method, path, answer.text)
        assert answer.status_code not in (401, 500)
        if not allowed:
            assert answer.json()["error"] == "role"


def test_tokens_expire_are_revoked_and_follow_their_operator(server: Running):
    first = added(server, "anna", "operate", label="laptop", days=30)
    assert 29 * 86400 < first["expires"] - time.time() < 31 * 86400
    low = added(server, "anna", "operate", role="read")
    assert low["role"] == "read"
    enrol = {"fleet": "default", "id": "b-1", "app": "weather", "class": "c", "key": "00" * 32}
    assert call(server, low["token"], "POST", "/api/boards", **enrol).status_code == 403
    assert call(server, first["token"], "POST", "/api/boards", **enrol).status_code == 201
    # A role that falls takes the tokens along; one above the operator's is not given.
    call(server, server.token, "POST", "/api/operators", name="anna", role="publish")
    assert call(server, first["token"], "POST", "/api/boards", **enrol).status_code == 403
    high = added(server, "anna", "publish", role="admin")
    assert high["role"] == "publish"

    listed = call(server, server.token, "GET", "/api/tokens").json()
    assert [one["label"] for one in listed] == ["laptop", "", ""]
    assert listed[0]["used"] and not any("sha256" in one for one in listed)
    assert call(server, server.token, "DELETE", f"/api/tokens/{first['n']}").ok
    assert call(server, first["token"], "GET", "/api/status").status_code == 401
    assert call(server, server.token, "DELETE", f"/api/tokens/{first['n']}").status_code == 404

    def expire(db: Any) -> None:
        db.execute(update(model.tokens).values(expires=time.time() - 1))

    server.do(server.storage.write(expire))
    assert call(server, high["token"], "GET", "/api/status").status_code == 401
    again = added(server, "anna", "read")["token"]
    assert call(server, server.token, "DELETE", "/api/operators/anna").ok
    assert call(server, again, "GET", "/api/status").status_code == 401


def test_nothing_in_the_database_lets_anybody_in(server: Running, tmp_path: Path):
    token = added(server, "anna", "read")["token"]
    session = logged_in(server, token)
    server.do(server.storage.settle())
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("server.db*"))
    for secret in (token, session.cookies[access.COOKIE], server.token):
        assert secret and secret.encode() not in kept


def logged_in(server: Running, token: str) -> requests.Session:
    session = requests.Session()
    assert session.post(server.url + "/login", data={"token": token}).url == server.url + "/"
    return session


def inside(server: Running, session: requests.Session) -> bool:
    return not session.get(server.url + "/").url.endswith("/login")


def test_session_survives_a_restart_and_ends(tmp_path: Path):
    with running(tmp_path) as server:
        port = int(server.url.rsplit(":", 1)[1])
        owner = logged_in(server, server.token)
        token = added(server, "anna", "read")
        anna, bob = logged_in(server, token["token"]), logged_in(server, token["token"])
    with running(tmp_path, port) as server:
        assert all(inside(server, each) for each in (owner, anna, bob))
        cookie = bob.cookies[access.COOKIE]
        bob.post(server.url + "/logout")
        bob.cookies.set(access.COOKIE, cookie)
        assert not inside(server, bob)
        call(server, server.token, "DELETE", f"/api/tokens/{token['n']}")
        assert (inside(server, anna), inside(server, owner)) == (False, True)
        stranger = requests.Session()
        stranger.cookies.set(access.COOKIE, "x" * 43)
        assert not inside(server, stranger)
    (tmp_path / "token").write_text("another-token\n")
    with running(tmp_path, port) as server:
        assert not inside(server, owner)


def test_only_who_operates_gets_a_terminal(server: Running):
    owner = client.Client(server.url, server.token)
    owner.enrol(FakeBoard(server.url).file())
    for role, path in (("publish", "/login"), ("operate", "/boards/sim-01/terminal")):
        session = logged_in(server, added(server, "anna", role)["token"])
        assert session.get(server.url + "/boards/sim-01/terminal").url == server.url + path


def test_each_change_is_in_the_audit(server: Running):
    token = added(server, "anna", "operate")["token"]
    as_anna = client.Client(server.url, token)
    as_anna.add_trust(vectors.first_trust())
    fake = FakeBoard(server.url)
    as_anna.enrol(fake.file())
    as_anna.order("sim-01", "hold")
    logged_in(server, token)
    call(server, server.token, "DELETE", "/api/operators/anna")
    assert call(server, server.token, "DELETE", "/api/operators/anna").status_code == 404
    rows = call(server, server.token, "GET", "/api/audit").json()
    assert [(r["operator"], r["action"], r["target"], r["after"]) for r in reversed(rows)] == [
        ("owner", "operator", "anna", "operate"),
        ("owner", "token", "anna", '{"role": "operate", "days": 365}'),
        ("anna", "trust", "1", ""),
        ("anna", "enrol", "sim-01", ""),
        ("anna", "order", "sim-01", "hold"),
        ("anna", "login", "", ""),
        ("owner", "remove operator", "anna", ""),
    ]
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    older = call(server, server.token, "GET", f"/api/audit?before={rows[4]['n']}").json()
    assert older == rows[5:]


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

    mipy("operator", "add", "anna", "--role", "operate")
    made = json.loads(mipy("token", "new", "anna", "--role", "read", "--label", "CI", "--json"))
    assert call(server, made["token"], "GET", "/api/status").ok
    assert "CI" in mipy("token", "ls") and "operate" in mipy("operator", "ls")
    mipy("token", "rm", str(made["n"]))
    assert call(server, made["token"], "GET", "/api/status").status_code == 401
    mipy("operator", "rm", "anna")
    assert json.loads(mipy("operator", "ls", "--json")) == []
    assert [one["action"] for one in json.loads(mipy("audit", "--json"))] == [
        "remove operator",
        "revoke token",
        "token",
        "operator",
    ]


def test_monitors(server: Running, monkeypatch: pytest.MonkeyPatch):
    owner = client.Client(server.url, server.token)
    fake = FakeBoard(server.url)
    owner.enrol(fake.file())
    fake.boot()
    fake.send(fake.message(), bytes(32))
    said = call(server, server.token, "GET", "/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=")
    lines = said.text.split("\n")
    for line in (
        'mipy_device_answers_total{status="200"} 2.0',
        'mipy_device_answers_total{status="403"} 1.0',
        "mipy_stale_polls_total 1.0",
        'mipy_boards{state="ok"} 1.0',
    ):
        assert line in lines
    assert requests.get(server.url + "/healthz", timeout=30).text == "ok\n"

    def away(*_: Any) -> None:
        raise StorageError("unable to open database file")

    monkeypatch.setattr(SqliteStorage, "_read", away)
    assert requests.get(server.url + "/healthz", timeout=30).status_code == 503


@pytest.mark.parametrize(
    ("path", "said", "code"),
    [
        ("/api/operators", {"name": "owner", "role": "read"}, "name"),
        ("/api/operators", {"name": "A b", "role": "read"}, "name"),
        ("/api/operators", {"name": 7, "role": "read"}, "name"),
        ("/api/operators", {"name": "anna", "role": "king"}, "role"),
        ("/api/tokens", {"operator": "nobody"}, "operator"),
        ("/api/tokens", {"operator": ["anna"]}, "operator"),
        ("/api/tokens", {"operator": "anna", "role": "king"}, "role"),
        ("/api/tokens", {"operator": "anna", "days": 0}, "days"),
        ("/api/tokens", {"operator": "anna", "days": "1"}, "days"),
        ("/api/tokens", {"operator": "anna", "label": "\x1b"}, "label"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(server: Running, path: str, said: Any, code: str):
    added(server, "anna", "read")
    answer = call(server, server.token, "POST", path, **said)
    assert (answer.status_code // 100, answer.json()["error"]) == (4, code)
