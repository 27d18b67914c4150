"""A server, and the people's side of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import vectors


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
