"""SIGKILL at every statement and file operation: whole or absent, nothing acknowledged is lost."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server.rollout import Counts
from mipy_ota.ota_server.storage import queries
from mipy_ota.ota_server.storage.postgres import PostgresStorage
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from tests.server.test_migrate import former
from tests.support import ROOT, killed
from tests.support.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the database is: "" is in the folder; `{}` stands for the schema."""
    if request.param == "sqlite":
        return ""
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.url("{}")


def tries(work: str, folder: Path, least: int, url: str = "") -> Iterator[tuple[Any, list[str]]]:
    """The storage that each kill left behind, and what had been acknowledged."""
    command = [sys.executable, "-m", "tests.support.killed", work, str(folder), *[url] * bool(url)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=250)
    places = [place for place in folder.iterdir() if (place / "said").exists()]
    assert len(places) >= least
    for place in places:
        if url:
            storage = PostgresStorage(place, url.format(killed.schema(work, place)))
        else:
            storage = SqliteStorage(place)
            assert not list(place.glob("*/.new-*"))
        yield storage, (place / "said").read_text().split("\n")[:-1]
        asyncio.run(storage.close())


def test_release_is_whole_or_absent(tmp_path: Path, url: str):
    seen = set()
    for storage, said in tries("publish", tmp_path, 10, url):
        found = storage.release(killed.RELEASE.digest)
        assert found or not said
        assert "withdrawn" not in said or found.withdrawn == 9.0
        if found:
            assert storage.manifests.plain(killed.RELEASE.digest) == killed.MANIFEST
            for content in killed.FILES:
                assert storage.files.plain(hashlib.sha256(content).hexdigest()) == content
        seen.add(tuple(said))
    assert seen == {(), ("published",), ("published", "withdrawn")}


def test_report_and_offer_that_were_answered_are_kept(tmp_path: Path, url: str):
    seen = set()
    for storage, said in tries("report", tmp_path, 10, url):
        known = asyncio.run(storage.known("b"))
        assert known or not said
        if known:
            kinds = [e["kind"] for e in asyncio.run(storage.read(queries.history, "b"))]
            # All of a report or nothing of it.
            whole = (known.rejected == {killed.BAD.digest: killed.BAD}, known.board.seq == 5)
            assert whole in {(True, True), (False, False)}
            assert ("rolled-back" in kinds) == whole[0]
            assert whole[0] or "rolled back" not in said
            assert known.board.offered or "offered" not in said
            assert asyncio.run(storage.read(offers)) == int(known.board.offered != "")
        seen.add(len(said))
    assert seen == {0, 1, 2, 3}


def offers(db: Any) -> int:
    return db.exec_driver_sql("SELECT count(*) FROM offers").scalar_one()


def test_order_that_was_given_is_kept(tmp_path: Path, url: str):
    seen = set()
    for storage, said in tries("order", tmp_path, 10, url):
        known = asyncio.run(storage.known("b"))
        state = [(order.text, order.tries) for order in known.orders] if known else None
        allowed = {
            0: (None, [], [("rollback", 0)]),
            1: ([("rollback", 0)], [("rollback", 1)]),
            2: ([("rollback", 1)], []),
            3: ([],),
        }
        assert state in allowed[len(said)]
        seen.add(len(said))
    assert seen == {0, 1, 2, 3}


def test_halt_comes_with_the_report_that_causes_it(tmp_path: Path, url: str):
    seen = set()
    for storage, said in tries("rollout", tmp_path, 12, url):
        found = storage.rollouts()
        # A release never goes out without its rollout.
        assert bool(found) == bool(storage.release(killed.RELEASE.digest))
        known = asyncio.run(storage.known("b"))
        target = known and known.targets.get(1)
        state = target.state if target else None
        rollout = (found[0].rollout.state, found[0].counts) if found else None
        running, halted = ("running", Counts()), ("halted", Counts(failed=1))
        stages: list[Any] = [
            (None, None),
            (running, None),
            (("running", Counts(offered=1)), "offered"),
            (halted, "failed"),
            (("running", Counts(failed=1)), "failed"),
        ]
        assert (rollout, state) in stages[len(said) : len(said) + 2]
        if state == "failed":
            assert known and known.rejected
        seen.add(len(said))
    assert seen == {0, 1, 2, 3, 4}


def test_upgrade_is_whole_or_absent(tmp_path: Path):
    once = former(tmp_path / "once")
    for step in range(1, killed.STEPS):
        place = tmp_path / "tries" / str(step)
        place.mkdir(parents=True)
        shutil.copy(once, place / "server.db")
    for storage, _ in tries("upgrade", tmp_path / "tries", 8):
        known = asyncio.run(storage.known("b1"))
        assert (known.board.name, known.board.paused, len(known.orders)) == ("kitchen", True, 1)
        assert len(storage.releases()) == 2
        assert len(asyncio.run(storage.read(queries.history, "b1"))) == 2
