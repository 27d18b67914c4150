"""The storage on PostgreSQL: for one process, with the memory of `memory`, kept right by a lock.

1. The one connection that writes holds an advisory lock from its first moment to its last. So
   whoever can write is the only one, and the database itself sees to that.
2. When that connection is lost, memory may be behind: the commit under way may have succeeded, and
   another server may have had its turn. So nothing is answered from memory any more. Once a second
   the server tries to come back; with the lock it reads all anew, and every ticket that it gave
   is void.
3. A fleet has a schema, the connection's current one. Content stays in the data folder.
"""

import contextlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import URL, Column, Connection, create_engine, event, make_url, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, DBAPIError

from .base import READERS, Away, StorageError
from .batch import Dialect, Statements, without_nul
from .memory import Image, MemoryStorage, cause_of, read_image
from .migrate import HEAD, Newer, migrate, version

LOCK_SECONDS = 3
"""A server that has just been killed keeps its lock until the database notices."""
LOCK_CLASS = 0x6D697079  # "mipy"
LOCK = "SELECT pg_advisory_lock(%s, hashtext(current_schema()))"
_CONNECT: dict[str, Any] = {
    "application_name": "mipy-ota",
    "connect_timeout": 5,
    "target_session_attrs": "read-write",  # a standby would let anybody have the lock
    # A database that vanished from the network is noticed within so long.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_READ_ONLY = "25006"
_GOING = ("08", "57P")  # SQLSTATEs of a connection that fails, of a server that stops
log = logging.getLogger(__name__)


def _item(n: int, column: Column[Any]) -> str:
    return f"CAST(j.value ->> {n} AS {column.type.compile(postgresql.dialect())})"


_SQL = Statements(Dialect("jsonb_array_elements(CAST(%s AS jsonb)) AS j(value)", _item))


class InUse(RuntimeError):
    """Another server has the lock."""


class PostgresStorage(MemoryStorage):
    """See `Storage`.

    Args:
        folder: for content.
        url: like postgresql://user@host/database; what libpq knows may follow as a query.

    Raises:
        RuntimeError: another server uses the database, or a newer version of this program did.
        SQLAlchemyError: the database cannot be used.
        ValueError: `url` is none of PostgreSQL.
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, url: str) -> None:
        address = address_of(url)
        super().__init__(folder, _SQL)
        self._away = ""
        """Why memory must not be used; "" when it may be."""
        self._connections = 0  # that write, since the start
        self._image_of = 0  # with which of them memory was read
        usual: dict[str, Any] = {"connect_args": _CONNECT, "hide_parameters": True}
        self._engine = create_engine(address, pool_size=1, max_overflow=0, **usual)
        self._reading = create_engine(
            address,
            pool_size=READERS,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
            **usual,
        )
        event.listen(self._engine, "connect", self._connected)
        event.listen(self._reading, "connect", _prepare)
        try:
            migrate(self._engine)
            self._take_image(self._read_anew())
        except BaseException as problem:
            self._release()
            if isinstance(problem, Newer):
                raise RuntimeError("it was written by a newer mipy-ota") from problem
            raise

    def _connected(self, raw: psycopg.Connection[Any], record: Any) -> None:
        """Take the lock with a new connection that writes, or do without the connection."""
        _prepare(raw, record)
        try:
            raw.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_SECONDS}s"])
            raw.execute(LOCK, [LOCK_CLASS])
            raw.commit()
        except psycopg.errors.LockNotAvailable as problem:
            raw.close()
            raise InUse("another server is using it") from problem
        except BaseException:
            raw.close()
            raise
        self._connections += 1

    def _release(self) -> None:
        self._reading.dispose()
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        self._check()
        try:
            with self._engine.begin() as db:
                if self._connections != self._image_of:
                    raise Away("the connection was lost")
                yield db
        except (DBAPIError, InUse, Away) as problem:
            if isinstance(problem, DBAPIError) and not _lost(problem):
                raise
            self._engine.dispose()
            self._tell(problem)
            raise Away(self._away) from problem

    @contextmanager
    def _snapshot(self) -> Generator[Connection]:
        with self._reading.connect() as db:
            yield db

    def _run(self, db: Connection, statement: str, rows: bytes) -> None:
        db.exec_driver_sql(statement, (rows.decode(),))

    # --- away, and back ---

    def _check(self) -> None:
        if self._away:
            raise Away(self._away)

    def _tell(self, problem: Exception) -> None:
        """Use memory no more; once for each cause the log says so."""
        cause = cause_of(problem)
        if cause != self._away:
            self._away = cause
            log.error(
                "the database is away: %s. Boards and people get 503 until it is back; see that"
                " PostgreSQL runs, that this computer reaches it, and that no other server uses it",
                cause,
            )

    async def _tend(self) -> None:
        if self._away:
            await self._come_back()
            return
        await self.settle()
        with contextlib.suppress(StorageError):
            await self._in_writer(self._probe)

    def _probe(self) -> None:
        """Notice a lost connection even if there is nothing to write."""
        with self._transaction() as db:
            db.execute(select(1))

    async def _come_back(self) -> None:
        async with self._turn:
            try:
                image = await self._in_writer(self._read_anew)
            except (StorageError, InUse) as problem:
                self._tell(problem)
                return
            self._take_image(image)
            self._away = ""
        log.warning("the database is back")

    def _read_anew(self) -> Image:
        """What memory is to hold, read with the lock."""
        with self._engine.begin() as db:
            if version(db) != HEAD:
                raise StorageError("a newer mipy-ota has changed it")
            image = read_image(db)
            self._image_of = self._connections
            return image


def address_of(url: str) -> URL:
    """The URL as SQLAlchemy needs it.

    Raises:
        ValueError: it is none of PostgreSQL.
    """
    try:
        address = make_url(url)
    except ArgumentError:
        address = None
    if address is None or address.drivername not in ("postgresql", "postgres"):
        raise ValueError("it is no URL like postgresql://user@host/database")
    return address.set(drivername="postgresql+psycopg")


def shown(url: str) -> str:
    """The URL without the password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "that was named"


def _lost(problem: DBAPIError) -> bool:
    """Whether the connection is of no use any more."""
    state = getattr(problem.orig, "sqlstate", None)
    if problem.connection_invalidated or state == _READ_ONLY:
        return True
    if state is None:  # libpq's own
        return isinstance(problem.orig, psycopg.OperationalError)
    return state.startswith(_GOING)


class _Text(StrDumperUnknown):
    """PostgreSQL has no NUL in a text: what somebody sent must not keep others' rows out."""

    def dump(self, obj: str) -> Any:
        return super().dump(without_nul(obj))


def _prepare(raw: psycopg.Connection[Any], _: Any) -> None:
    raw.adapters.register_dumper(str, _Text)
