"""Rollouts in the database, as SQLAlchemy Core has them: rows, and changes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from .. import rollout as rules
from ..policy import Move, Release
from ..rollout import Counts, Live, Rollout
from . import statements
from .model import boards, rollouts, tags, targets

ROLLOUTS_WITH_TARGETS = 50
"""Of one app, class and channel: of older ones only the numbers are kept."""

_COUNTS = tuple(f.name for f in fields(Counts))
_JSON = ("canary", "waves", "members", "hours")
_SETS = ("canary", "members")


def row_of(live: Live) -> dict[str, Any]:
    """The row of a rollout, without its number, who started it and when."""
    row = asdict(live.rollout) | asdict(live.counts)
    row |= {"app": live.app, "cls": live.cls, "channel": live.channel}
    del row["id"]
    for name in _JSON:
        value: Any = row[name]
        if value is not None and name in _SETS:
            value = sorted(value)
        row[name] = "" if value is None else json.dumps(value)
    return row


def live_of(row: Row[Any]) -> Live:
    """The rollout of a row."""
    said = dict(zip(rollouts.c.keys(), row, strict=True))
    values: dict[str, Any] = {f.name: said[f.name] for f in fields(Rollout)}
    for name in _JSON:
        values[name] = json.loads(values[name]) if values[name] else None
    values["canary"] = frozenset(values["canary"])
    values["waves"] = tuple(values["waves"])
    values["members"] = None if values["members"] is None else frozenset(values["members"])
    values["hours"] = values["hours"] and tuple(values["hours"])
    counts = Counts(**{name: said[name] for name in _COUNTS})
    return Live(Rollout(**values), counts, row.app, row.cls, row.channel)


def lives(db: Connection, after: int = 0, only: Sequence[int] | None = None) -> list[Live]:
    """Rollouts with numbers above `after`, oldest first."""
    found = select(rollouts).where(rollouts.c.id > after).order_by(rollouts.c.id)
    if only is not None:
        found = found.where(rollouts.c.id.in_(only))
    return [live_of(row) for row in db.execute(found)]


def save(db: Connection, live: Live) -> None:
    """Write a rollout and its counts."""
    db.execute(update(rollouts).where(rollouts.c.id == live.rollout.id).values(row_of(live)))


def write_moves(db: Connection, moves: Iterable[Move], now: float) -> None:
    """Bring targets to where the moves left them."""
    for move in moves:
        mine = and_(targets.c.rollout == move.rollout, targets.c.board == move.board)
        if move.new is None:
            db.execute(delete(targets).where(mine))
        elif move.old is None:
            row = {"rollout": move.rollout, "board": move.board, "state": move.new}
            db.execute(insert(targets), row | {"wave": move.wave, "offered_at": now})
        else:
            ended = {"state": move.new, "ended_at": now}
            change = ended | {"reason": move.reason, "trace": move.trace}
            db.execute(update(targets).where(mine).values(change))


@dataclass(frozen=True, slots=True)
class Start:
    """How a release is to go out; None: as `rollout.plan` has it for so many boards.

    Attributes:
        canary: ids of boards.
        tag: the boards with this tag are the canary.
        members: ids of the only boards that are to get it.
        draft: it waits for a person to start it.
    """

    channel: str = "stable"
    canary: Sequence[str] = ()
    tag: str | None = None
    members: Sequence[str] | None = None
    waves: tuple[int, ...] | None = None
    in_flight: int | None = None
    tolerated: float | None = None
    strict: bool | None = None
    silence_s: int | None = None
    soak_s: int | None = None
    hours: tuple[int, int] | None = None
    approval: bool = False
    draft: bool = False
    operator: str = ""


def publish(db: Connection, release: Release, wanted: Start | None, now: float) -> int | None:
    """Add a release and the rollout by which it goes out; returns its number.

    Raises:
        Conflict: its seq is taken.
    """
    statements.publish(db, release)
    return start(db, release, wanted, now).rollout.id if wanted else None


def promote(db: Connection, release: Release, wanted: Start, now: float) -> int:
    """Add a release to one more channel, by a rollout there; returns its number."""
    statements.add_to_channel(db, release, wanted.channel, now)
    return start(db, release, wanted, now).rollout.id


def start(db: Connection, release: Release, wanted: Start, now: float) -> Live:
    """Add a rollout; its selection is frozen here."""
    live = planned(db, release, wanted, now)
    row = row_of(live) | {"started": now, "operator": wanted.operator}
    number = db.execute(insert(rollouts).returning(rollouts.c.id), row).scalar_one()
    live = planned(db, release, wanted, now, number)
    save(db, live)
    _prune(db, live)
    return live


def next_number(db: Connection) -> int:
    """The number that the next rollout gets, unless another one comes first."""
    return db.execute(select(func.coalesce(func.max(rollouts.c.id), 0))).scalar_one() + 1


def planned(db: Connection, release: Release, wanted: Start, now: float, number: int = 0) -> Live:
    """The rollout as it would start now."""
    fleet = _fleet(db, release, wanted.channel)
    if wanted.members is not None:
        chosen = {*wanted.members, *wanted.canary}
        fleet = {name: seen for name, seen in fleet.items() if name in chosen}
    plan = rules.plan(len(fleet))
    canary = frozenset(wanted.canary) & frozenset(fleet)
    if wanted.tag:
        found = db.execute(select(tags.c.board).where(tags.c.tag == wanted.tag)).scalars()
        canary |= frozenset(found) & frozenset(fleet)
    if not canary and wanted.waves is None:
        there = [name for name, seen in fleet.items() if seen and now - seen < rules.AWAY_S]
        canary = rules.lowest(number, there or list(fleet), plan.canary)
    usual: dict[str, Any] = {
        "waves": plan.waves,
        "in_flight": plan.in_flight,
        "strict": plan.strict,
        "tolerated": rules.TOLERATED,
        "silence_s": plan.silence_s if not canary and wanted.waves is None else rules.SILENCE_S,
        "soak_s": rules.SOAK_S,
    }
    asked = {name: getattr(wanted, name) for name in usual}
    rollout = Rollout(
        number,
        release.digest,
        "draft" if wanted.draft else "running",
        canary=canary,
        members=None if wanted.members is None else frozenset(wanted.members),
        hours=wanted.hours,
        approval=wanted.approval,
        **(usual | {name: value for name, value in asked.items() if value is not None}),
    )
    return Live(rollout, Counts(), release.app, release.cls, wanted.channel)


def _fleet(db: Connection, release: Release, channel: str) -> dict[str, float | None]:
    """When the boards that the release is for were last seen."""
    rows = select(boards.c.id, boards.c.last_seen).where(
        boards.c.app == release.app,
        boards.c.cls == release.cls,
        boards.c.channel == channel,
        boards.c.retired.is_(None),
        boards.c.paused.is_(False),
    )
    return {row.id: row.last_seen for row in db.execute(rows)}


def _prune(db: Connection, live: Live) -> None:
    mine = select(rollouts.c.id).where(
        rollouts.c.app == live.app,
        rollouts.c.cls == live.cls,
        rollouts.c.channel == live.channel,
    )
    newest = mine.order_by(rollouts.c.id.desc()).limit(1).offset(ROLLOUTS_WITH_TARGETS)
    old = db.execute(newest).scalar()
    if old is not None:
        gone = mine.where(rollouts.c.id <= old)
        db.execute(delete(targets).where(targets.c.rollout.in_(gone)))
