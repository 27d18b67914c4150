"""Brings a database to the tables of this version (`model`, `migrations/`).

A file of SQLite is copied first; the steps themselves are one transaction. So a server that is
stopped in the midst of it, whenever, finds either version whole.
"""

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, inspect, text

from . import model

HEAD = "0004"
"""The newest of `migrations/versions/`."""
EARLIEST, LATEST = 1, 2
"""PRAGMA user_version of the files that came before migrations."""

_VERSIONS = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
# What the files of before are brought to, old column by new one; the rest has its default.
_COMMON = (
    "id name app cls key dev enrolled last_seen seq digest state confirmed high heap up held"
    " progress jobs chip boot fw mpy trust address reason trace"
)
_TAKEN = {
    "releases": "digest app cls seq floor note total published withdrawn",
    "rejections": "board digest reason soft trace at",
    "orders": "n board text base given tries done outcome",
    "events": "n board at kind seq digest reason text",
    "trust": "version at reset body",
}
log = logging.getLogger(__name__)


class Newer(Exception):
    """The database was written by a newer version of this program."""


def migrate(engine: Engine, path: Path | None = None) -> None:
    """Make the tables, or bring them up to date.

    Args:
        path: the file, where it is one of SQLite: it is copied before anything is changed.

    Raises:
        Newer: the database is of a version to come.
        sqlalchemy.exc.SQLAlchemyError, OSError: it is as it was.
    """
    with engine.begin() as db:
        found = version(db)
    if found == HEAD:
        return
    if path and found:
        former = path.with_name(f"{path.stem}-before-{HEAD}{path.suffix}")
        copy(path, former)
        log.warning("the database is brought up to date; a copy of the former is %s", former)
    with engine.begin() as db:
        if found is None:
            model.metadata.create_all(db)
            _stamp(db)
        elif found.startswith("file "):
            _take_over(db)
        else:
            _upgrade(db)


def copy(source: Path, target: Path) -> None:
    """A whole copy of a file of SQLite, whatever is written to it meanwhile."""
    new = target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    before, after = sqlite3.connect(source), sqlite3.connect(new)
    try:
        before.backup(after)
    finally:
        before.close()
        after.close()
    os.replace(new, target)


def version(db: Connection) -> str | None:
    """The database's revision, "file N" for a file of before, None for an empty database."""
    if inspect(db).has_table("alembic_version"):
        found = db.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        if found > HEAD:
            raise Newer
        return found
    if db.dialect.name != "sqlite":
        return None
    number = db.execute(text("PRAGMA user_version")).scalar_one()
    if number > LATEST:
        raise Newer
    return f"file {number}" if number >= EARLIEST else None


def _stamp(db: Connection) -> None:
    db.execute(text(_VERSIONS))
    db.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _upgrade(db: Connection, revision: str = "head") -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = db
    command.upgrade(config, revision)


def _take_over(db: Connection) -> None:
    """Bring a file of before migrations to revision 0001, and from there to the newest."""
    old = inspect(db).get_table_names()
    has_life = any(column["name"] == "life" for column in inspect(db).get_columns("boards"))
    for table in old:
        db.execute(text(f'ALTER TABLE "{table}" RENAME TO "former_{table}"'))
    for index in ("orders_open", "events_of"):
        db.execute(text(f"DROP INDEX IF EXISTS {index}"))
    db.execute(text(_VERSIONS))
    _upgrade(db)
    same = _COMMON + (" life open wrong" if has_life else "")
    columns = ", ".join(same.split())
    filled = ", ".join(_filled(model.boards.c[name]) for name in same.split())
    db.execute(
        text(
            f"INSERT INTO boards ({columns}, paused) SELECT {filled}, NOT follow FROM former_boards"
        )
    )
    for table, names in _TAKEN.items():
        listed = ", ".join(names.split())
        table_columns = model.metadata.tables[table].columns
        filled = ", ".join(_filled(table_columns[name]) for name in names.split())
        db.execute(text(f"INSERT INTO {table} ({listed}) SELECT {filled} FROM former_{table}"))
    db.execute(
        text(
            "INSERT INTO channel_releases SELECT :channel, digest, published FROM former_releases"
        ),
        {"channel": model.DEFAULT_CHANNEL},
    )
    for source in ("boards", "releases"):
        when = "enrolled" if source == "boards" else "published"
        db.execute(
            text(
                f"INSERT INTO apps SELECT app, min({when}) FROM former_{source}"
                " WHERE app NOT IN (SELECT name FROM apps) GROUP BY app"
            )
        )
    db.execute(
        text(
            "INSERT INTO channels SELECT app, :channel, min(published) FROM releases GROUP BY app"
        ),
        {"channel": model.DEFAULT_CHANNEL},
    )
    for table in old:
        db.execute(text(f'DROP TABLE "former_{table}"'))
    db.execute(text("PRAGMA user_version = 0"))


def _filled(column: Column[Any]) -> str:
    """A former column might be empty where none may be now."""
    if column.nullable or column.server_default is None:
        return column.name
    default = "''" if column.type.python_type is str else "0"
    return f"coalesce({column.name}, {default})"
