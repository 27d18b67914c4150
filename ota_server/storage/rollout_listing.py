"""What the page of a rollout asks of the database: counts by wave, outcomes by time, fifty boards.

A fleet of 10,000 is answered for without reading a board's whole row but for those that are shown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, select

from .. import rollout as rules
from ..policy import Known, Release, TargetState
from ..rollout import Live, Wait
from ..rollout_gate import may_get, minute_of_day, turn
from . import queries
from .model import boards, rejections, rollouts, targets

WAITING = "waiting"
"""Stands for the state of a board that has not been offered the release."""
ORDER = ("failed", "silent", "offered", WAITING, "void", "confirmed")
"""Whom people want to see first."""


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
        ended: (when, as what) of each board with an outcome.
        boards: one page of the list, of `total`.
    """

    row: Any
    targets: list[tuple[int, TargetState, int]]
    waiting: dict[int, int]
    ended: list[tuple[float, TargetState]]
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
    waiting = _not_offered(db, live, release)
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
                shown += _waiting(db, live, line, release, releases, now, some)
            else:
                shown += _in_state(db, number, state, wanted, skip)
        skip = max(0, skip - sizes[state])
    outcomes = select(targets.c.ended_at, targets.c.state).where(
        targets.c.rollout == number, targets.c.ended_at.is_not(None)
    )
    return Part(
        found,
        by_wave,
        dict(Counter(wave for wave, _ in waiting)),
        [(at, state) for at, state in db.execute(outcomes)],
        shown,
        sum(sizes[state] for state in listed),
    )


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


def _not_offered(db: Connection, live: Live, release: Release | None) -> list[tuple[int, str]]:
    """(wave, id) of the boards that have yet to be offered the release, in the order of waves.

    By what policy looks at first: whom it would refuse for a rarer reason, the list says why.
    """
    if release is None or live.rollout.state in ("cancelled", "superseded"):
        return []
    told = select(targets.c.board).where(targets.c.rollout == live.rollout.id)
    refused = select(rejections.c.board).where(
        rejections.c.digest == release.short, rejections.c.soft.is_(False)
    )
    mine = and_(
        boards.c.app == live.app,
        boards.c.cls == live.cls,
        boards.c.channel == live.channel,
        boards.c.retired.is_(None),
        boards.c.digest != release.short,
        boards.c.high < release.seq,
        boards.c.id.not_in(told),
        boards.c.id.not_in(refused),
    )
    places = (
        (rules.wave_of(live.rollout, name), name)
        for name in db.execute(select(boards.c.id).where(mine)).scalars()
    )
    return sorted((wave, name) for wave, name in places if wave is not None)


def _waiting(
    db: Connection,
    live: Live,
    line: Sequence[Live],
    release: Release | None,
    releases: Sequence[Release],
    now: float,
    some: Sequence[tuple[int, str]],
) -> list[Line]:
    found = queries.known(db, [name for _, name in some])
    return [
        Line(
            name,
            found[name].board.name,
            WAITING,
            wave,
            found[name].board.last_seen,
            text=_why_not_yet(found[name], live, line, release, releases, now),
        )
        for wave, name in some
        if name in found
    ]


def _why_not_yet(
    known: Known,
    live: Live,
    line: Sequence[Live],
    release: Release | None,
    releases: Sequence[Release],
    now: float,
) -> str:
    wait = turn(live, line, known.board, known.targets, minute_of_day(now))
    if isinstance(wait, Wait):
        return wait.text
    if release is None or not may_get(known, release, releases, now):
        return "It has a newer release, or a newer one is meant for it."
    if known.board.last_seen is None:
        return "It has never called."
    return "It gets it when it polls next."
