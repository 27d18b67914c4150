"""What is asked of the rollouts in the database: by the clock that drives them, and by people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select, true

from .. import rollout as rules
from ..policy import Board, Release, Target
from ..rollout import Live, Wait
from ..rollout_gate import failed_in_a_row, may_get, minute_of_day, turn
from . import queries
from .model import boards, rejections, rollouts, targets

LISTED = 50
"""Boards of one rollout that are listed at most; what one tells of a failure may have 1 KB."""


@dataclass(frozen=True, slots=True)
class NotOffered:
    """A board that has yet to be offered the release.

    Attributes:
        wave: in which it is its turn.
        last_seen: seconds since 1970; None: never.
    """

    id: str
    wave: int
    last_seen: float | None


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A board that was offered the release and has not ended; None: it is known no more."""

    id: str
    offered_at: float
    board: Board | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the boards of a rollout are; see `rollout.tick`."""

    pending: int
    waiting: int
    absent: int
    open: list[OpenTarget]


def not_offered(
    db: Connection,
    live: Live,
    release: Release,
    releases: Sequence[Release],
    now: float,
    paused: bool = True,
) -> list[NotOffered]:
    """Who has yet to be offered the release by this rollout, in the order of its waves.

    The database tells of nearly all boards whether policy would offer it; of the others, what they
    run is above the release or made from it, the whole is read.

    Args:
        releases: all of the same app and class, newest first.
        paused: those that people keep as they are, too.
    """
    newer = [one.short for one in releases if one.seq > release.seq]
    told = select(targets.c.board).where(targets.c.rollout == live.rollout.id)
    refused = select(rejections.c.board).where(
        rejections.c.digest == release.short, rejections.c.soft.is_(False)
    )
    unclear = or_(
        boards.c.high == release.seq, boards.c.seq >= release.seq, boards.c.digest.in_(newer)
    )
    rows = db.execute(
        select(boards.c.id, boards.c.last_seen, unclear).where(
            boards.c.app == live.app,
            boards.c.cls == live.cls,
            boards.c.channel == live.channel,
            boards.c.retired.is_(None),
            true() if paused else boards.c.paused.is_(False),
            boards.c.digest != release.short,
            boards.c.high <= release.seq,
            boards.c.id.not_in(told),
            boards.c.id.not_in(refused),
        )
    ).all()
    looked_at = queries.known(db, [name for name, _, doubt in rows if doubt])
    for known in looked_at.values():
        known.board.paused = False  # which the rows are filtered by
    found: list[tuple[int, str, float | None]] = []
    for name, seen, _ in rows:
        known = looked_at.get(name)
        if known is None or may_get(known, release, releases, now):
            wave = rules.wave_of(live.rollout, name)
            if wave is not None:
                found.append((wave, name, seen))
    return [NotOffered(name, wave, seen) for wave, name, seen in sorted(found)]


def standing(
    db: Connection,
    live: Live,
    release: Release,
    releases: Sequence[Release],
    now: float,
    targets_of: Callable[[str], Mapping[int, Target]],
) -> Standing:
    """Who still waits for the release, and who is at it.

    Args:
        releases: all of the same app and class, newest first.
        targets_of: a board's part in the last rollouts.
    """
    pending = waiting = absent = 0
    number = live.rollout.id
    for one in not_offered(db, live, release, releases, now, paused=False):
        if failed_in_a_row(targets_of(one.id), number) >= rules.QUARANTINE_AFTER:
            continue
        waiting += 1
        if one.wave > live.rollout.wave:
            continue
        if one.last_seen is not None and now - one.last_seen < rules.AWAY_S:
            pending += 1
        else:
            absent += 1
    at_it = select(targets.c.board, targets.c.offered_at).where(
        targets.c.rollout == number, targets.c.state == "offered"
    )
    rows = db.execute(at_it).all()
    there = queries.known(db, [row.board for row in rows])
    listed = [
        OpenTarget(name, at, there[name].board if name in there else None) for name, at in rows
    ]
    return Standing(pending, waiting, absent, listed)


def waiting(
    db: Connection,
    live: Live,
    line: Sequence[Live],
    release: Release,
    releases: Sequence[Release],
    now: float,
) -> tuple[int, list[dict[str, Any]]]:
    """How many boards have not been offered the release; of the first, when they get it and why."""
    every = not_offered(db, live, release, releases, now, paused=False)
    first = every[:LISTED]
    found = queries.known(db, [one.id for one in first])
    listed: list[dict[str, Any]] = []
    for one in first:
        known = found[one.id]
        said = turn(live, line, known.board, known.targets, minute_of_day(now))
        why, text = (
            (said.why, said.text)
            if isinstance(said, Wait)
            else ("poll", "It gets it when it polls next.")
        )
        seen = {"id": one.id, "name": known.board.name, "last_seen": one.last_seen}
        listed.append(seen | {"wave": one.wave, "why": why, "text": text})
    return len(every), listed


def show(db: Connection, number: int) -> dict[str, Any] | None:
    """One rollout's row and its boards: failures first, then who is at it, the newest first."""
    row = db.execute(select(rollouts).where(rollouts.c.id == number)).first()
    if row is None:
        return None
    columns = [column for column in targets.c if column.name != "rollout"]
    mine = (
        select(*columns, boards.c.name)
        .outerjoin(boards, boards.c.id == targets.c.board)
        .where(targets.c.rollout == number)
    )
    found: list[dict[str, Any]] = []
    for state in ("failed", "silent", "offered", "void", "confirmed"):
        some = mine.where(targets.c.state == state).order_by(targets.c.offered_at.desc())
        left = LISTED - len(found)
        found += [dict(one) for one in db.execute(some.limit(left)).mappings()]
    return {"row": row, "boards": found}


def digest_of(db: Connection, number: int) -> str | None:
    """The digest of a rollout's release; None where there is no such rollout."""
    return db.execute(select(rollouts.c.digest).where(rollouts.c.id == number)).scalar()


def listed(db: Connection, states: Sequence[str], most: int, offset: int) -> tuple[int, list[Any]]:
    """How many rollouts are in these states (all if none is named), and some, newest first."""
    which = [rollouts.c.state.in_(states)] if states else []
    total = db.execute(select(func.count()).select_from(rollouts).where(*which)).scalar_one()
    some = select(rollouts).where(*which).order_by(rollouts.c.id.desc())
    return total, list(db.execute(some.limit(most).offset(offset)))


def ended_badly(db: Connection, number: int, board: str | None = None) -> list[tuple[str, Target]]:
    """Boards that failed a rollout or fell silent; only `board` if that is named."""
    mine = select(targets).where(
        targets.c.rollout == number, targets.c.state.in_(("failed", "silent"))
    )
    if board is not None:
        mine = mine.where(targets.c.board == board)
    return [(row.board, Target(row.rollout, row.state, row.offered_at)) for row in db.execute(mine)]
