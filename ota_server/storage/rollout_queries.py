"""What is asked of the rollouts in the database: by the clock that drives them, and by people."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from .. import rollout as rules
from ..policy import Known, Release, Target
from ..rollout import Counts, Live, Wait
from ..rollout_gate import may_get, minute_of_day, turn
from . import queries
from .model import boards, rollouts, targets

LISTED = 200
"""Boards of one rollout that are listed at most."""


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A board that was offered the release and has not ended; None: it is known no more."""

    board: str
    offered_at: float
    known: Known | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the boards of a rollout are; see `rollout.tick`."""

    pending: int
    waiting: int
    absent: int
    open: list[OpenTarget]


def standing(db: Connection, live: Live, release: Release, releases: Any, now: float) -> Standing:
    """Who still waits for the release, and who is at it.

    Args:
        releases: all of the same app and class, newest first.
    """
    pending = waiting = absent = 0
    for known in _candidates(db, live, release, releases, now):
        wait = turn(_started(live), [], known.board, known.targets, 0)
        if isinstance(wait, Wait) and wait.why not in ("wave", "slots", "hours"):
            continue
        waiting += 1
        wave = rules.wave_of(live.rollout, known.board.id)
        if wave is None or wave > live.rollout.wave:
            continue
        seen = known.board.last_seen
        if seen is not None and now - seen < rules.AWAY_S:
            pending += 1
        else:
            absent += 1
    at_it = select(targets.c.board, targets.c.offered_at).where(
        targets.c.rollout == live.rollout.id, targets.c.state == "offered"
    )
    rows = db.execute(at_it).all()
    there = queries.known(db, [row.board for row in rows])
    listed = [OpenTarget(row.board, row.offered_at, there.get(row.board)) for row in rows]
    return Standing(pending, waiting, absent, listed)


def _candidates(
    db: Connection, live: Live, release: Release, releases: Sequence[Release], now: float
) -> list[Known]:
    """Boards that have not been offered the release and that policy would offer it."""
    rollout = live.rollout
    there = select(boards.c.id).where(
        boards.c.app == live.app, boards.c.cls == live.cls, boards.c.channel == live.channel,
        boards.c.retired.is_(None), boards.c.paused.is_(False),
    )  # fmt: skip
    found = queries.known(db, db.execute(there).scalars())
    return [
        known
        for known in found.values()
        if rollout.id not in known.targets and may_get(known, release, releases, now)
    ]


def _started(live: Live) -> Live:
    """The same rollout, asked about as if it were running with all slots free."""
    return replace(live, rollout=replace(live.rollout, state="running"), counts=Counts())


def waiting(
    db: Connection, live: Live, line: Sequence[Live], release: Release, releases: Any, now: float
) -> list[dict[str, Any]]:
    """Boards that have not been offered the release, when it is their turn, and why not yet."""
    listed: list[dict[str, Any]] = []
    for known in _candidates(db, live, release, releases, now):
        found = turn(live, line, known.board, known.targets, minute_of_day(now))
        if isinstance(found, Wait) and found.why == "selection":
            continue
        why, text = (found.why, found.text) if isinstance(found, Wait) else ("poll", "It polls.")
        if why == "poll":
            text = "It gets it when it polls next."
        board = known.board
        wave = rules.wave_of(live.rollout, board.id)
        seen = {"id": board.id, "name": board.name, "last_seen": board.last_seen}
        listed.append(seen | {"wave": wave, "why": why, "text": text})
    return sorted(listed, key=lambda one: (one["wave"] or 0, one["id"]))


def show(db: Connection, number: int) -> dict[str, Any] | None:
    """One rollout's row and its boards: failures first, then who is at it, the newest first."""
    row = db.execute(select(rollouts).where(rollouts.c.id == number)).first()
    if row is None:
        return None
    order = {"failed": 0, "silent": 1, "offered": 2, "void": 3, "confirmed": 4}
    columns = [column for column in targets.c if column.name != "rollout"]
    mine = (
        select(*columns, boards.c.name)
        .outerjoin(boards, boards.c.id == targets.c.board)
        .where(targets.c.rollout == number)
    )
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for state in order:
        some = mine.where(targets.c.state == state).order_by(targets.c.offered_at.desc())
        found[state] = [dict(one) for one in db.execute(some.limit(LISTED)).mappings()]
    listed = [one for state in order for one in found[state]]
    return {"row": row, "boards": listed[:LISTED]}


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
