"""Databases of earlier versions are taken over, whole, after a copy was made."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert, text

from mipy_ota.ota_server.storage import migrate, model, queries
from mipy_ota.ota_server.storage.postgres import address_of
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from tests.support import vectors
from tests.support.postgres import Postgres

# As the server made them before there were migrations (user_version 1, and 2 with what comes last).
BEFORE = """
CREATE TABLE boards (
  id TEXT PRIMARY KEY, name TEXT, app TEXT, cls TEXT, key BLOB, dev INTEGER, enrolled REAL,
  follow INTEGER, last_seen REAL, seq INTEGER, digest TEXT, state TEXT, confirmed TEXT,
  high INTEGER, heap INTEGER, up INTEGER, held INTEGER, progress TEXT, jobs TEXT, chip TEXT,
  boot INTEGER, fw TEXT, mpy TEXT, trust INTEGER, address TEXT, reason TEXT, trace TEXT
) WITHOUT ROWID;
CREATE TABLE releases (
  digest TEXT PRIMARY KEY, app TEXT, cls TEXT, seq INTEGER, floor INTEGER, note TEXT,
  total INTEGER, published REAL, withdrawn REAL, UNIQUE (app, cls, seq)
) WITHOUT ROWID;
CREATE TABLE rejections (
  board TEXT, digest TEXT, reason TEXT, soft INTEGER, trace TEXT, at REAL,
  PRIMARY KEY (board, digest)
) WITHOUT ROWID;
CREATE TABLE orders (
  n INTEGER PRIMARY KEY, board TEXT, text TEXT, base TEXT, given REAL, tries INTEGER DEFAULT 0,
  done REAL, outcome TEXT
);
CREATE INDEX orders_open ON orders (board) WHERE done IS NULL;
CREATE TABLE events (
  n INTEGER PRIMARY KEY, board TEXT, at REAL, kind TEXT, seq INTEGER, digest TEXT, reason TEXT,
  text TEXT
);
CREATE INDEX events_of ON events (board, n);
CREATE TABLE trust (version INTEGER PRIMARY KEY, at REAL, reset INTEGER, body BLOB);
INSERT INTO boards (id, name, app, cls, key, dev, enrolled, follow, last_seen, seq, digest, state,
  confirmed, high, heap, up, held, progress, jobs, chip, boot, fw, mpy, trust, address, reason,
  trace)
VALUES
 ('b1', 'kitchen', 'weather', 'esp8266-generic', x'0001', 1, 10.5, 0, 99.5, 7, 'd1', 'ok', 'd1', 7,
  21000, 61, 0, '', '{"mqtt":[1,2]}', 'esp8266', 1, '1.26.1', '6.3', 1, '192.0.2.7', 'veto',
  'a trace'),
 ('b2', NULL, 'weather', 'esp32', x'0002', 0, 11.5, 1, NULL, 0, '', '', '', 0, 0, 0, 0, '', '', '',
  0, '', '', 0, '', '', '');
INSERT INTO releases VALUES
 ('r1', 'weather', 'esp8266-generic', 7, 3, '1.8.0', 1200, 50.5, NULL),
 ('r2', 'weather', 'esp8266-generic', 8, 3, '1.8.1', 1300, 60.5, 61.5);
INSERT INTO rejections VALUES ('b1', 'bad', 'exception', 0, 'a trace', 70.5);
INSERT INTO orders VALUES (4, 'b1', 'rollback', 'd1', 80.5, 2, NULL, NULL),
 (3, 'b1', 'rollback', 'd0', 79.5, 5, 80.5, 'done');
INSERT INTO events VALUES (1, 'b1', 10.5, 'enrolled', 0, '', '', ''),
 (2, 'b1', 70.5, 'rolled-back', 0, 'bad', 'exception', 'a trace');
INSERT INTO trust VALUES (1, 5.5, NULL, x'6162'), (2, 6.5, 40, x'6364');
PRAGMA user_version = 1;
"""
VERSION_2 = """
ALTER TABLE boards ADD COLUMN life TEXT DEFAULT '';
ALTER TABLE boards ADD COLUMN open INTEGER;
ALTER TABLE boards ADD COLUMN wrong INTEGER DEFAULT 0;
UPDATE boards SET life = '0123456789abcdef', open = 60, wrong = 2 WHERE id = 'b1';
PRAGMA user_version = 2;
"""


def former(folder: Path, version: int = 2) -> Path:
    """A data folder of an earlier version."""
    folder.mkdir(exist_ok=True)
    path = folder / "server.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode = WAL;" + BEFORE)
        if version == 2:
            db.executescript(VERSION_2)
    return path


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


@pytest.mark.parametrize("version", [1, 2])
def test_former_database_is_taken_over(tmp_path: Path, version: int):
    path = former(tmp_path, version)
    before = dump(path)

    async def work() -> None:
        storage = SqliteStorage(tmp_path)
        first, second = await storage.known("b1"), await storage.known("b2")
        assert first and second
        board = first.board
        assert (board.name, board.key, board.dev, board.paused) == ("kitchen", b"\0\1", True, True)
        assert (board.last_seen, board.high, board.trace) == (99.5, 7, "a trace")
        assert (board.channel, board.retired, board.jobs) == ("stable", None, '{"mqtt":[1,2]}')
        told = ("0123456789abcdef", 60, 2) if version == 2 else ("", None, 0)
        assert (board.life, board.open, board.wrong) == told
        assert (second.board.name, second.board.paused, second.board.last_seen) == ("", False, None)
        assert first.rejected["bad"].reason == "exception"
        assert [(order.n, order.tries) for order in first.orders] == [(4, 2)]
        history = await storage.read(queries.history, "b1")
        assert [event["kind"] for event in history] == ["enrolled", "rolled-back"]
        found = storage.releases_of("weather", "esp8266-generic")
        assert [(r.digest, r.withdrawn, set(r.channels)) for r in found] == [
            ("r2", 61.5, {"stable"}),
            ("r1", None, {"stable"}),
        ]
        assert (storage.trust(1), storage.trust()) == (b"ab", b"cd")
        assert storage.catalog.reset_between(0, 2) == 40
        await storage.close()

    asyncio.run(work())
    assert dump(tmp_path / f"server-before-{migrate.HEAD}.db") == before
    tables = {line.split('"')[1] if '"' in line else "" for line in dump(path)}
    assert not [name for name in tables if name.startswith("former")]


def columns(path: Path) -> dict[str, list[Any]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        shapes = {name: list(db.execute(f"PRAGMA table_info({name})")) for name in names}
    return {name: sorted(map(repr, (row[1:] for row in rows))) for name, rows in shapes.items()}


def test_tables_made_and_migrated_are_those_of_the_model(tmp_path: Path):
    shapes = []
    for name in ("made", "taken"):
        path = tmp_path / name / "server.db"
        path.parent.mkdir()
        if name == "taken":
            former(path.parent)
        engine = create_engine(f"sqlite:///{path}")
        migrate.migrate(engine, path)
        with engine.connect() as db:
            context = MigrationContext.configure(db)
            assert compare_metadata(context, model.metadata) == []
            assert context.get_current_revision() == migrate.HEAD
        shapes.append(columns(path))
    assert shapes[0] == shapes[1]


def test_tables_on_postgres_are_those_of_the_model(postgres: Postgres):
    """Made at once, and step by step from the first revision; both take rows with numbers."""
    for first in ("", "0001"):
        engine = create_engine(address_of(postgres.schema()))
        if first:
            with engine.begin() as db:
                migrate._upgrade(db, first)
        migrate.migrate(engine)
        with engine.begin() as db:
            context = MigrationContext.configure(db, opts={"compare_type": True})
            assert compare_metadata(context, model.metadata) == []
            assert context.get_current_revision() == migrate.HEAD
            event = {"board": "b", "at": 1.5}
            numbered = insert(model.events).returning(model.events.c.n)
            assert [db.execute(numbered, event).scalar_one() for _ in range(2)] == [1, 2]
        engine.dispose()


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


@pytest.mark.parametrize(
    "change",
    ["PRAGMA user_version = 3", "UPDATE alembic_version SET version_num = '9999'"],
)
def test_database_of_a_version_to_come_is_left_alone(tmp_path: Path, change: str):
    if "alembic" in change:
        asyncio.run(SqliteStorage(tmp_path).close())
    else:
        former(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "server.db")) as db:
        db.execute(change)
        db.commit()
    before = dump(tmp_path / "server.db")
    with pytest.raises(RuntimeError, match="newer"):
        SqliteStorage(tmp_path)
    assert dump(tmp_path / "server.db") == before


def test_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = former(tmp_path)
    before = dump(path)
    monkeypatch.setitem(migrate._TAKEN, "events", "n board tries")
    with pytest.raises(KeyError, match="tries"):
        SqliteStorage(tmp_path)
    assert dump(path) == before
    monkeypatch.undo()
    asyncio.run(SqliteStorage(tmp_path).close())


TRUST_OF_AN_APP = b"ota-trust 1\napp weather\nversion 1\nthreshold root 1\n"


def test_trust_files_of_one_app_go_and_the_rest_stays(tmp_path: Path):
    """A database of revision 0003: the fleet is registered anew, boards and releases are kept."""
    path = former(tmp_path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        migrate._take_over(db)
        db.execute(text("DELETE FROM trust"))
        row = {"version": 1, "at": 5.5, "reset": None, "body": TRUST_OF_AN_APP}
        db.execute(insert(model.trust), row)
        db.execute(text("UPDATE boards SET trust = 1"))
        db.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    engine.dispose()
    storage = SqliteStorage(tmp_path)

    async def work() -> None:
        assert storage.trust() is None
        known = await storage.known("b1")
        assert known and (known.board.name, known.board.trust) == ("kitchen", 0)
        found = storage.releases_of("weather", "esp8266-generic")
        assert [release.digest for release in found] == ["r2", "r1"]
        await storage.add_trust(1, vectors.first_trust(), None, 7.5)
        assert storage.trust() == vectors.first_trust()
        await storage.close()

    asyncio.run(work())
