"""The server on PostgreSQL: what happens when the database goes, comes back, or is another's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import requests

from mipy_ota.ota_server.storage.postgres import LOCK, LOCK_CLASS
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client, serve
from mipy_ota.tools.fleet.serve import Running, running
from tests.server.test_server import SEQ, release
from tests.support import ROOT, vectors
from tests.support.broker import wait
from tests.support.fake_board import FakeBoard
from tests.support.postgres import Postgres

BAD = {"m": "b2" * 16, "why": "veto", "soft": 0, "trace": "T"}


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.schema()


@pytest.fixture
def server(tmp_path: Path, url: str) -> Iterator[Running]:
    with running(tmp_path / "data", interval=2, database=url) as served:
        yield served


@pytest.fixture
def owner(server: Running) -> client.Client:
    api = client.Client(server.url, server.token)
    api.add_trust(vectors.first_trust())
    return api


@pytest.fixture
def board(server: Running, owner: client.Client) -> Iterator[FakeBoard]:
    fake = FakeBoard(server.url)
    owner.enrol(fake.file())
    fake.boot()
    yield fake
    fake.close()


def health(server: Running) -> int:
    return requests.get(server.url + "/healthz", timeout=30).status_code


def test_update_and_rollback(owner: client.Client, board: FakeBoard):
    told = owner.publish(release(SEQ)[1])
    assert board.poll()["m"] == told["digest"]
    board.report |= {"seq": SEQ, "m": told["digest"][:32]}
    board.boot()
    assert owner.board(board.id)["seq"] == SEQ
    assert owner.search(search="SIM")[0]["id"] == board.id
    board.poll(bad=BAD)
    assert owner.events(board.id)[-1]["kind"] == "rolled-back"


@pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
def test_number_that_no_row_has_is_not_found(server: Running, number: int):
    """However large it is: the database is not asked for what it cannot have."""
    session = requests.Session()
    session.post(server.url + "/login", data={"token": server.token}, timeout=30)
    bearer = {"authorization": f"Bearer {server.token}"}
    for method, path in (
        ("GET", f"/api/v1/rollouts/{number}"),
        ("POST", f"/api/v1/rollouts/{number}"),
        ("GET", f"/rollouts/{number}"),
        ("GET", f"/rollouts/{number}/pause"),
        ("DELETE", f"/api/tokens/{number}"),
    ):
        said = session.request(
            method, server.url + path, json={"action": "pause"}, headers=bearer, timeout=30
        )
        assert said.status_code in (404, 422), f"{method} {path}: {said.status_code}"


def test_database_is_restarted(
    postgres: Postgres,
    server: Running,
    owner: client.Client,
    board: FakeBoard,
    caplog: pytest.LogCaptureFixture,
):
    board.poll(bad=BAD)
    postgres.stop()
    try:
        # What has to be on the disk is not acknowledged; neither is what would not have to.
        for said in ({"bad": BAD | {"m": "c3" * 16}}, {"heap": 7}):
            answer = board.send(board.message(**said))
            assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert health(server) == 503
        answer = requests.get(server.url + "/api/boards", auth=client.Bearer(server.token))
        assert (answer.status_code, answer.json()["error"]) == (503, "storage")
        assert answer.headers["retry-after"] == "10"
        told = [one.message for one in caplog.records if "the database is away" in one.message]
        assert len(told) <= 5 and "see that PostgreSQL runs" in told[0]
    finally:
        postgres.start()
    assert wait(lambda: health(server) == 200)
    # Its ticket is void, so it tells again what was not taken in.
    assert board.poll(bad=BAD | {"m": "c3" * 16})["stale"] == 1
    board.poll(bad=BAD | {"m": "c3" * 16})
    assert [one["digest"] for one in owner.events(board.id)][-2:] == ["b2" * 16, "c3" * 16]
    assert "the database is back" in caplog.text


LOCKED = "locktype = 'advisory' AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid"


def cut(postgres: Postgres, url: str) -> None:
    """End the connection that has the lock."""
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE granted AND {LOCKED}"
    assert postgres.ask(cut, url) == [(True,)]


def test_server_that_lost_its_lock_leaves_all_to_the_one_that_has_it(
    postgres: Postgres,
    url: str,
    server: Running,
    board: FakeBoard,
    caplog: pytest.LogCaptureFixture,
):
    with psycopg.connect(url, autocommit=True) as other, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.execute, LOCK, [LOCK_CLASS])
        queue = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {LOCKED}"
        assert wait(lambda: postgres.ask(queue, url) == [(1,)])
        cut(postgres, url)
        waiting.result(60)
        assert wait(lambda: "another server is using it" in caplog.text)
        # Nothing is answered from memory, and nothing is written.
        assert board.send(board.message(heap=8)).status == 503
        assert board.send(board.message(bad=BAD)).status == 503
        assert health(server) == 503
        other.execute("UPDATE boards SET heap = 9")
    assert wait(lambda: health(server) == 200)
    known = server.do(server.storage.known(board.id))
    assert known and (known.board.heap, known.rejected) == (9, {})
    assert not known.tickets.admit(board.ticket)


def test_connection_is_lost_while_nothing_is_to_be_written(
    postgres: Postgres, url: str, server: Running, caplog: pytest.LogCaptureFixture
):
    cut(postgres, url)
    assert wait(lambda: "the database is back" in caplog.text)
    assert health(server) == 200


def refused(*words: str) -> str:
    """What `mipy serve` says where it cannot."""
    command = [sys.executable, "-m", "mipy_ota.tools.cli", "serve", "--port", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


def test_second_server_is_kept_out(server: Running, url: str, tmp_path: Path):
    said = refused("--database", url, "--data", str(tmp_path / "other"))
    assert "another server is using it" in said
    assert "stop that server, or name another database" in said


def test_database_that_cannot_be_used_is_named_without_its_password(tmp_path: Path):
    url = f"postgresql://anna:geheim@/db?host={tmp_path}"
    said = refused("--database", url, "--data", str(tmp_path / "data"))
    assert "geheim" not in said and "postgresql://anna:***@" in said
    assert "see that PostgreSQL runs there" in said
    said = refused("--database", "mysql://anna:geheim@host/db", "--data", str(tmp_path / "data"))
    assert "geheim" not in said and "it is no URL like postgresql://" in said


def test_folder_with_a_database_of_its_own_is_refused(tmp_path: Path, url: str):
    with running(tmp_path):
        pass
    with (
        pytest.raises(Failure, match="it holds a database of SQLite"),
        running(tmp_path, database=url),
    ):
        pass


def test_newer_version_is_said(postgres: Postgres, url: str, tmp_path: Path):
    with running(tmp_path, database=url):
        pass
    postgres.ask("UPDATE alembic_version SET version_num = '9999'", url)
    with pytest.raises(Failure, match="newer mipy-ota"), running(tmp_path, database=url):
        pass


def test_package_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    with pytest.raises(Failure) as caught:
        serve.serve(database="postgresql://")
    assert caught.value.hint == "pip install 'mipy-ota[postgres]'"
