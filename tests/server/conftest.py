"""A server, and the people's side of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mipy_ota.ota_server.storage.memory import MemoryStorage
from mipy_ota.ota_server.storage.postgres import PostgresStorage
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import vectors
from tests.support.live_fleet import Fleet
from tests.support.postgres import Postgres

Make = Callable[[], MemoryStorage]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """An empty server."""
    with running(tmp_path / "data", interval=2) as served:
        yield served


@pytest.fixture
def people(server: Running) -> client.Client:
    """The people's side, with the fleet registered."""
    api = client.Client(server.url, server.token)
    api.add_trust(vectors.first_trust())
    return api


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], MemoryStorage]:
    """Opens a storage; again, with what it held. Every test is of both databases."""
    if request.param == "sqlite":
        return lambda: SqliteStorage(tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    url = postgres.schema()
    return lambda: PostgresStorage(tmp_path, url)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def five(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Five boards; the clock ticks only when a test has it tick."""
    monkeypatch.setattr("mipy_ota.ota_server.storage.rollout_clock.TICK_SECONDS", 3600.0)
    with running(data, interval=2) as server:
        fleet = Fleet(server, 5)
        yield fleet
        for board in fleet.boards.values():
            board.close()
