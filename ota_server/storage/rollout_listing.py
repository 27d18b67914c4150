"""What the page of a rollout asks of the database: counts by wave, outcomes by time, fifty boards.

A fleet of 10,000 is answered for without reading a board's whole row but for those that are shown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, and_, cast, func, select

from ..policy import Known, Release, TargetState
from ..rollout import Live, Wait
from ..rollout_gate import minute_of_day, turn
from . import queries
from .model import boards, rollouts, targets
from .rollout_queries import NotOffered, not_offered

WAITING = "waiting"
"""Stands for the state of a board that has not been offered the release."""
ORDER = ("failed", "silent", "offered", WAITING, "void", "confirmed")
"""Whom people want to see first."""
PARTS = 480
"""Of a rollout's time: ten for each step of its curve."""


@dataclass(frozen=True, slots=True)
class Line:
    """A board in the list of a rollout.

    Attributes:
        since: when it came to this state (seconds since 1970).
        text: why it waits; "" where it does not.
    """

    id: str
    name: str
    state: str
    wave: int
    since: float | None
    reason: str = ""
    trace: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A rollout as its page shows it.

    Attributes:
        row: of the rollout.
        targets: (wave, state, how many boards).
        waiting: boards that were not offered it, by wave.
        ended: (when, as what, how many boards) of those with an outcome.
        boards: one page of the list, of `total`.
    """

    row: Any
    targets: list[tuple[int, TargetState, int]]
    waiting: dict[int, int]
    ended: list[tuple[float, TargetState, int]]
    boards: list[Line]
    total: int


def row(db: Connection, number: int) -> Any:
    """One rollout's row, or None."""
    return db.execute(select(rollouts).where(rollouts.c.id == number)).first()


def part(
    db: Connection,
    found: Any,
    live: Live,
    line: Sequence[Live],
    release: Release | None,
    releases: Sequence[Release],
    now: float,
    most: int,
    offset: int,
    only: str = "",
) -> Part:
    """What one page of a rollout shows.

    Args:
        found: its row, of which `live` is made.
        line: the rollouts of its app, class and channel.
        releases: of its app and class, newest first.
        only: list only boards in this state; "": all.
    """
    number = live.rollout.id
    count = func.count()
    states = select(targets.c.wave, targets.c.state, count).where(targets.c.rollout == number)
    by_wave = [
        (wave, state, n)
        for wave, state, n in db.execute(states.group_by(targets.c.wave, targets.c.state))
    ]
    waiting = (
        not_offered(db, live, release, releases, now)
        if release and live.rollout.state not in ("cancelled", "superseded")
        else []
    )
    sizes: Counter[str] = Counter({WAITING: len(waiting)})
    for _, state, n in by_wave:
        sizes[state] += n
    listed = [state for state in ORDER if only in ("", state)]
    shown: list[Line] = []
    skip = offset
    for state in listed:
        wanted = most - len(shown)
        if wanted > 0 and skip < sizes[state]:
            if state == WAITING:
                some = waiting[skip : skip + wanted]
                shown += _waiting(db, live, line, now, some)
            else:
                shown += _in_state(db, number, state, wanted, skip)
        skip = max(0, skip - sizes[state])
    return Part(
        found,
        by_wave,
        dict(Counter(one.wave for one in waiting)),
        _outcomes(db, number, found.started),
        shown,
        sum(sizes[state] for state in listed),
    )


def _outcomes(db: Connection, number: int, start: float) -> list[tuple[float, TargetState, int]]:
    """When boards ended and how, in as many parts of the time as the curve can tell apart."""
    mine = and_(targets.c.rollout == number, targets.c.ended_at.is_not(None))
    last = db.execute(select(func.max(targets.c.ended_at)).where(mine)).scalar()
    if last is None:
        return []
    part = cast((targets.c.ended_at - start) * (PARTS / max(last - start, 1.0)), Integer)
    rows = select(func.max(targets.c.ended_at), targets.c.state, func.count()).where(mine)
    return [(at, state, n) for at, state, n in db.execute(rows.group_by(part, targets.c.state))]


def _in_state(db: Connection, number: int, state: str, most: int, offset: int) -> list[Line]:
    since = func.coalesce(targets.c.ended_at, targets.c.offered_at)
    some = (
        select(targets, boards.c.name)
        .outerjoin(boards, boards.c.id == targets.c.board)
        .where(targets.c.rollout == number, targets.c.state == state)
        .order_by(since.desc(), targets.c.board)
    )
    return [
        Line(
            one.board,
            one.name or "",
            one.state,
            one.wave,
            one.offered_at if one.ended_at is None else one.ended_at,
            one.reason,
            one.trace,
        )
        for one in db.execute(some.limit(most).offset(offset))
    ]


def _waiting(
    db: Connection,
    live: Live,
    line: Sequence[Live],
    now: float,
    some: Sequence[NotOffered],
) -> list[Line]:
    found = queries.known(db, [one.id for one in some])
    return [
        Line(
            one.id,
            found[one.id].board.name,
            WAITING,
            one.wave,
            one.last_seen,
            text=_why_not_yet(found[one.id], live, line, now),
        )
        for one in some
    ]


def _why_not_yet(known: Known, live: Live, line: Sequence[Live], now: float) -> str:
    wait = turn(live, line, known.board, known.targets, minute_of_day(now))
    if isinstance(wait, Wait):
        return wait.text
    if known.board.last_seen is None:
        return "It has never called."
    return "It gets it when it polls next."
