"""Changes to the database, as SQLAlchemy Core has them; each runs inside one transaction.

What polls change most often is written by the storages in their own way (`sqlite`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from ..policy import Board, Event, Release
from .model import (
    apps,
    audit,
    boards,
    channel_releases,
    channels,
    events,
    offers,
    orders,
    rejections,
    releases,
    tags,
    trust,
)

EVENTS_KEPT = 500
OFFERS_KEPT = 50
ORDERS_KEPT = 50
"""Kept per board (of orders: ended ones), so that one gone wild fills no disk."""
AUDIT_KEPT = 100_000
"""Entries; some 20 MB."""


class Conflict(Exception):
    """What is to be stored is there already, with other content; args[0] says what."""


BOARD = tuple(f.name for f in fields(Board))


@dataclass(frozen=True, slots=True)
class Audit:
    """Who changed what.

    Attributes:
        operator: by name; "" is the server itself.
        address: where the request came from.
        action: a verb.
        target: a board's id, a release's digest, an operator's name, ...
        before, after: what it was and is, as JSON or a word.
    """

    operator: str
    address: str
    action: str
    target: str = ""
    before: Any = ""
    after: Any = ""


def record(db: Connection, entry: Audit, now: float) -> None:
    """Add to the audit."""
    row = asdict(entry) | {"at": now}
    for name in ("before", "after"):
        if not isinstance(row[name], str):
            row[name] = json.dumps(row[name])
    n = db.execute(insert(audit).returning(audit.c.n), row).scalar_one()
    if n % 100 == 0:
        db.execute(delete(audit).where(audit.c.n <= n - AUDIT_KEPT))


def note(db: Connection, board_id: str, now: float, noted: Iterable[Event]) -> None:
    """Add to a board's history, and forget what is too old."""
    rows = [{"board": board_id, "at": now} | asdict(event) for event in noted]
    if rows:
        db.execute(insert(events), rows)
        _prune(db, events, board_id, EVENTS_KEPT)


def _prune(db: Connection, table: Any, board_id: str, kept: int, *more: Any) -> None:
    mine = and_(table.c.board == board_id, *more)
    oldest = select(table.c.n).where(mine).order_by(table.c.n.desc()).limit(1).offset(kept)
    db.execute(delete(table).where(mine, table.c.n <= oldest.scalar_subquery()))


def enrol(db: Connection, board: Board) -> bool:
    """Add a board, or begin anew; returns whether it was known."""
    row = asdict(board)
    found = db.execute(select(boards.c.channel).where(boards.c.id == board.id)).first()
    if found is not None:
        row["channel"] = found.channel
        db.execute(delete(boards).where(boards.c.id == board.id))
    db.execute(insert(boards), row)
    _add_app(db, board.app, board.enrolled)
    db.execute(delete(rejections).where(rejections.c.board == board.id))
    db.execute(delete(orders).where(orders.c.board == board.id, orders.c.done.is_(None)))
    note(db, board.id, board.enrolled, [Event("enrolled")])
    return found is not None


def remove(db: Connection, board_id: str) -> None:
    """Delete a board and all that is its."""
    db.execute(delete(boards).where(boards.c.id == board_id))
    for table in (tags, offers, rejections, orders, events):
        db.execute(delete(table).where(table.c.board == board_id))


def tag(db: Connection, board_id: str, names: Sequence[str]) -> None:
    """Give a board these tags and no others."""
    db.execute(delete(tags).where(tags.c.board == board_id))
    if names:
        db.execute(insert(tags), [{"board": board_id, "tag": name} for name in names])


def publish(db: Connection, release: Release) -> None:
    """Add a release to its channels.

    Raises:
        Conflict: its seq is taken.
    """
    row = asdict(release)
    names = row.pop("channels")
    taken = select(releases.c.digest).where(
        releases.c.app == release.app,
        releases.c.cls == release.cls,
        releases.c.seq == release.seq,
    )
    if db.execute(taken).first():
        raise Conflict(f"seq {release.seq} is taken")
    db.execute(insert(releases), row)
    _add_app(db, release.app, release.published)
    for name in sorted(names):
        add_to_channel(db, release, name, release.published)


def add_to_channel(db: Connection, release: Release, name: str, now: float) -> None:
    """Offer a release to the boards of one more channel."""
    known = and_(channels.c.app == release.app, channels.c.name == name)
    if db.execute(select(channels.c.name).where(known)).first() is None:
        db.execute(insert(channels), {"app": release.app, "name": name, "created": now})
    row = {"channel": name, "digest": release.digest, "added": now}
    there = and_(channel_releases.c.channel == name, channel_releases.c.digest == release.digest)
    if db.execute(select(channel_releases.c.added).where(there)).first() is None:
        db.execute(insert(channel_releases), row)


def withdraw(db: Connection, digest: str, now: float) -> None:
    """Offer a release to nobody."""
    db.execute(update(releases).where(releases.c.digest == digest).values(withdrawn=now))


def add_trust(db: Connection, version: int, now: float, reset: int | None, body: bytes) -> None:
    """Add a trust file.

    Raises:
        Conflict: there is one of this version.
    """
    if db.execute(select(trust.c.version).where(trust.c.version == version)).first():
        raise Conflict(f"trust version {version} is stored already")
    db.execute(insert(trust), {"version": version, "at": now, "reset": reset, "body": body})


def _add_app(db: Connection, name: str, now: float) -> None:
    if db.execute(select(func.count()).select_from(apps).where(apps.c.name == name)).scalar() == 0:
        db.execute(insert(apps), {"name": name, "created": now})
