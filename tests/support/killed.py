"""A server's storage that is killed in the midst of its work, again and again, a step later each.

    python -m tests.support.killed WORK FOLDER [URL]

Steps are where something may become visible: begin and end of each transaction, and what `os`
does with files. (Within a transaction SQLite keeps the promise: what is killed there is absent.)
Every try has a folder of its own, FOLDER/<step>, with a file `said` of what was acknowledged. With
the URL of a PostgreSQL, `{}` for the schema, it has a schema <work>_<step>, and steps are before
and after each commit.
The last try is the one that came to its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import event

from mipy_ota.ota_server import policy
from mipy_ota.ota_server.policy import Bad, Board, Event, Move, Release, Verdict
from mipy_ota.ota_server.rollout import steered
from mipy_ota.ota_server.storage.memory import MemoryStorage
from mipy_ota.ota_server.storage.postgres import PostgresStorage
from mipy_ota.ota_server.storage.rollouts import Start
from mipy_ota.ota_server.storage.sqlite import SqliteStorage

FILES = [b"one" * 100, b"two" * 100]
MANIFEST = b"manifest"
RELEASE = Release("d" * 64, "app", "esp32", 7, 0, "-", 600, 3.0)
BAD = Bad("b2" * 16, "watchdog", False, "trace")
STEPS = 200
"""At most; no work has so many."""

_left = 0
_url = ""


def _saying(path: Path) -> Callable[[str], None]:
    said = path.open("wb", buffering=0)

    def say(word: str) -> None:
        said.write(f"{word}\n".encode())

    return say


def _step() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _counted(call: Callable[..., Any]) -> Callable[..., Any]:
    def stepping(*args: Any, **options: Any) -> Any:
        _step()
        return call(*args, **options)

    return stepping


@event.listens_for(sqlalchemy.engine.Engine, "connect")
def _trace(raw: Any, _: Any) -> None:
    if isinstance(raw, sqlite3.Connection):
        raw.set_trace_callback(lambda sql: _step() if sql.startswith(("BEGIN", "COMMIT")) else None)


def _commit(self: Any, commit: Callable[[Any], None] = psycopg.Connection.commit) -> None:
    _step()
    commit(self)
    _step()


def schema(work: str, folder: Path) -> str:
    """The one of a try."""
    return f"{work}_{folder.name}"


async def _started(folder: Path) -> MemoryStorage:
    storage = PostgresStorage(folder, _url) if _url else SqliteStorage(folder)
    await storage.start()
    return storage


async def publish(folder: Path, say: Callable[[str], None]) -> None:
    """A release."""
    storage = await _started(folder)
    await storage.publish(RELEASE, MANIFEST, FILES)
    say("published")
    await storage.withdraw(RELEASE.digest, 9.0)
    say("withdrawn")


async def report(folder: Path, say: Callable[[str], None]) -> None:
    """A rollback, then an offer."""
    storage = await _started(folder)
    await storage.enrol(Board("b", "", "app", "esp32", bytes(32), False, 1.0))
    say("enrolled")
    ticket = ""
    for word, verdict in (
        ("rolled back", Verdict({"seq": 5}, [Event("rolled-back")], rejection=BAD)),
        ("offered", Verdict({"offered": RELEASE.digest}, release=RELEASE, offer=True)),
    ):
        known = await storage.known("b")
        assert known
        ticket = ticket or await storage.stale(known)
        ticket = await storage.take(known, ticket, verdict, "", 2.0) or ""
        say(word)


async def order(folder: Path, say: Callable[[str], None]) -> None:
    """An order, which a board is told and ends."""
    storage = await _started(folder)
    await storage.enrol(Board("b", "", "app", "esp32", bytes(32), False, 1.0))
    await storage.amend("b", lambda known: policy.give(known, "rollback"), 2.0)
    say("given")
    known = await storage.known("b")
    assert known
    ticket = await storage.stale(known)
    ticket = await storage.take(known, ticket, Verdict({}, orders=known.orders), "", 3.0) or ""
    say("told")
    ended = Verdict({}, [Event("order-ended")], ended=[(known.orders[0], "done")])
    await storage.take(known, ticket, ended, "", 4.0)
    say("ended")


async def rollout(folder: Path, say: Callable[[str], None]) -> None:
    """A release that goes out by a rollout: an offer, its failure, the halt, a person's resume."""
    storage = await _started(folder)
    for name in ("b", "c"):
        await storage.enrol(Board(name, "", "app", "esp32", bytes(32), False, 1.0))
    start = Start(canary=["b"], strict=True)
    await storage.publish(RELEASE, MANIFEST, FILES, start=start)
    say("published")
    bad = Bad(RELEASE.short, "exception", False, "trace")
    for word, verdict in (
        ("offered", Verdict({}, moves=[Move("b", 1, None, "offered")], offer=True)),
        ("failed", Verdict({}, rejection=bad, moves=[Move("b", 1, "offered", "failed")])),
    ):
        known = await storage.known("b")
        assert known
        verdict.release = RELEASE
        await storage.take(known, await storage.stale(known), verdict, "", 4.0)
        say(word)
    await storage.steer(1, lambda one, counts: steered(one, counts, "running"), 5.0)
    say("resumed")


async def upgrade(folder: Path, say: Callable[[str], None]) -> None:
    """A database of before migrations, which `folder` holds already."""
    await _started(folder)
    say("upgraded")


WORK: dict[str, Callable[[Path, Callable[[str], None]], Coroutine[Any, Any, None]]] = {
    work.__name__: work for work in (publish, report, order, rollout, upgrade)
}


def main() -> None:
    """Do the work until it ends."""
    global _left, _url
    work, folder, url = WORK[sys.argv[1]], Path(sys.argv[2]), (*sys.argv[3:], "")[0]
    if url:
        psycopg.Connection.commit = _commit
    for name in () if url else ("fsync", "link", "unlink", "replace", "open", "fdopen"):
        setattr(os, name, _counted(getattr(os, name)))
    for step in range(1, STEPS):
        place = folder / str(step)
        place.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            if url:
                _url = url.format(schema(sys.argv[1], place))
                with psycopg.connect(_url, autocommit=True) as db:
                    db.execute(f"CREATE SCHEMA {schema(sys.argv[1], place)}")  # type: ignore[call-overload]
            _left = step
            asyncio.run(work(place, _saying(place / "said")))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit(f"not done after {STEPS} steps")


if __name__ == "__main__":
    main()
