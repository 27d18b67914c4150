"""The storage on SQLite (WAL), in a file of the data folder: for one process, without a set-up."""

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from .batch import Dialect, Statements
from .memory import MemoryStorage, read_image
from .migrate import Newer, migrate

FILE = "server.db"
"""In the data folder."""
_SQL = Statements(Dialect("json_each(?) AS j", lambda n, _: f"json_extract(j.value, '$[{n}]')"))


class SqliteStorage(MemoryStorage):
    """See `Storage`.

    Raises:
        RuntimeError: another server uses the folder, or a newer version of this program did.
        SQLAlchemyError, sqlite3.Error, OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _SQL)
        self._guard = _locked(folder / "server.lock")
        try:
            path = folder / FILE
            _make_private(path)
            self._engine = _engine(path, "BEGIN IMMEDIATE")
            self._reading = _engine(path, "BEGIN")
            migrate(self._engine, path)
            with self._transaction() as db:
                self._take_image(read_image(db))
        except BaseException as problem:
            self._guard.close()
            if isinstance(problem, Newer):
                raise RuntimeError("it was written by a newer mipy-ota") from problem
            raise

    def _release(self) -> None:
        self._reading.dispose()
        self._engine.dispose()
        self._guard.close()

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        with self._engine.begin() as db:
            yield db

    @contextmanager
    def _snapshot(self) -> Generator[Connection]:
        with self._reading.connect() as db:
            yield db

    def _run(self, db: Connection, statement: str, rows: bytes) -> None:
        raw: sqlite3.Connection = db.connection.driver_connection  # type: ignore[assignment]
        raw.execute(statement, [rows.decode()])


def _locked(path: Path) -> Any:
    """Keep other processes out; the lock goes with this one, however it ends."""
    guard = path.open("a")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        guard.close()
        raise RuntimeError("another server is using it") from problem
    os.chmod(path, 0o600)
    return guard


def _make_private(database: Path) -> None:
    """Let only the owner read the database, which holds the boards' keys, in any folder.

    SQLite gives the files that it makes beside it the same mode.
    """
    os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        path.chmod(0o600)


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _: Any) -> None:
        raw.isolation_level = None  # transactions begin where this program says so
        # Reports are acknowledged, so a commit must be on the disk: FULL, also in WAL mode.
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            raw.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def start(db: Connection) -> None:
        db.exec_driver_sql(begin)

    return engine
