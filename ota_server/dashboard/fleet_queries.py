"""What the pages ask of the fleet: boards by condition, counts, failures, one page of rows.

All of it is aggregates and pages of rows in SQL: what comes back does not grow with the fleet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    func,
    literal,
    or_,
    select,
)

from ..condition import CONDITIONS
from ..policy import CRASHING
from ..storage.model import boards, events, rejections, tags
from ..storage.queries import condition

RECENT_S = 7 * 86400.0
"""Failures that are older are history."""
PLACES_LISTED = 12
FAILURES_LISTED = 6


@dataclass(frozen=True, slots=True)
class Filter:
    """Which boards a page is about: those that fulfil all that is not ""."""

    state: str = ""
    app: str = ""
    channel: str = ""
    release: str = ""
    search: str = ""
    retired: bool = False

    def clauses(self, now: float) -> list[ColumnElement[bool]]:
        """As SQL has it."""
        b = boards.c
        found: list[ColumnElement[bool]] = [
            b.retired.is_not(None) if self.retired else b.retired.is_(None)
        ]
        if self.state:
            found.append(condition(now) == self.state)
        found += [
            column == value
            for column, value in ((b.app, self.app), (b.channel, self.channel))
            if value
        ]
        if self.release:
            found.append(b.digest == self.release)
        if self.search:
            part = self.search
            tagged = select(tags.c.board).where(tags.c.tag == part)
            like = [one.icontains(part, autoescape=True) for one in (b.id, b.name)]
            found.append(or_(*like, b.id.in_(tagged)))
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """What some boards run: `bad` of them crash or are in recovery."""

    app: str
    cls: str
    channel: str
    digest: str
    boards: int
    bad: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Boards that failed in the same way; the traceback is that of the one that told it last.

    Attributes:
        kind: "crashing", "recovery", "job", or "left" for a release that they went back from or
            would not install.
        digest: the first half of the release's.
        at: when it was last told; None where that is not known.
    """

    kind: str
    digest: str
    reason: str
    boards: int
    board: str
    name: str
    trace: str
    at: float | None


@dataclass(slots=True)
class Overview:
    """The fleet at a glance.

    Attributes:
        states: boards by condition, the worst first; conditions that no board has are missing.
        places: what runs where, the most boards first.
        more: kinds of places that are not listed.
    """

    total: int = 0
    retired: int = 0
    states: dict[str, int] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    more: int = 0
    failures: list[Failure] = field(default_factory=list)


def overview(db: Connection, seqs: Mapping[str, int], now: float) -> Overview:
    """The fleet at a glance.

    Args:
        seqs: the seq of each release by the first half of its digest.
        now: seconds since 1970.
    """
    b, found = boards.c, Overview()
    used = b.retired.is_(None)
    state = condition(now).label("condition")
    grouped = select(state, func.count()).where(used).group_by("condition")
    counted = {name: count for name, count in db.execute(grouped)}
    found.states = {name: counted[name] for name in CONDITIONS if name in counted}
    found.total = sum(counted.values())
    found.retired = db.execute(
        select(func.count()).select_from(boards).where(b.retired.is_not(None))
    ).scalar_one()
    bad = func.sum(case((b.state.in_(("recovery", CRASHING)), 1), else_=0))
    kinds = b.app, b.cls, b.channel, b.digest
    placed = select(*kinds, func.count(), bad).where(used).group_by(*kinds)
    rows = db.execute(placed.order_by(func.count().desc(), *kinds)).all()
    found.places = [Place(*row) for row in rows[:PLACES_LISTED]]
    found.more = max(0, len(rows) - PLACES_LISTED)
    found.failures = failures(db, seqs, now)
    return found


def failures(db: Connection, seqs: Mapping[str, int], now: float) -> list[Failure]:
    """What fails: boards in trouble now first, then releases that boards left of late."""
    b = boards.c
    failing = case(
        (b.state == "recovery", "recovery"), (b.state == CRASHING, CRASHING), else_="job"
    ).label("failing")
    jobs = b.jobs.not_in(("", "{}"))
    trouble = and_(
        b.retired.is_(None), or_(b.state.in_(("recovery", CRASHING)), jobs), b.last_seen > 0
    )
    counted = select(failing, b.digest, b.reason, func.count()).where(trouble)
    grouped = counted.group_by("failing", b.digest, b.reason)
    rows = db.execute(grouped.order_by(func.count().desc(), b.digest, b.reason).limit(50)).all()
    rank = {"recovery": 0, CRASHING: 1, "job": 2}
    rows = sorted(rows, key=lambda row: rank[row[0]])[:FAILURES_LISTED]
    found: list[Failure] = []
    for kind, digest, reason, count in rows:
        mine = and_(trouble, failing.element == kind, b.digest == digest, b.reason == reason)
        one = select(b.id, b.name, b.trace, b.last_seen).where(mine)
        row = db.execute(one.order_by(b.last_seen.desc()).limit(1)).one()
        found.append(Failure(kind, digest, reason, count, *row))
    return found + _left(db, seqs, now)[: FAILURES_LISTED - len(found)]


def _left(db: Connection, seqs: Mapping[str, int], now: float) -> list[Failure]:
    """Releases that boards went back from or refused of late, and have not passed since."""
    r, b = rejections.c, boards.c
    of_late = and_(b.retired.is_(None), r.at > now - RECENT_S, r.reason != "order")
    both = select(r.digest, r.reason, b.high, func.count()).join(boards, b.id == r.board)
    grouped = both.where(of_late).group_by(r.digest, r.reason, b.high)
    counted: dict[tuple[str, str], int] = {}
    lines: dict[tuple[str, str], list[int]] = {}
    for digest, reason, high, count in db.execute(grouped):
        if digest in seqs and high >= seqs[digest]:
            continue
        counted[digest, reason] = counted.get((digest, reason), 0) + count
        lines.setdefault((digest, reason), []).append(high)
    found: list[Failure] = []
    for key in sorted(counted, key=lambda key: (-counted[key], key))[:FAILURES_LISTED]:
        digest, reason = key
        one = select(b.id, b.name, r.trace, r.at).join(boards, b.id == r.board)
        mine = and_(of_late, r.digest == digest, r.reason == reason, b.high.in_(lines[key]))
        row = db.execute(one.where(mine).order_by(r.at.desc()).limit(1)).one()
        found.append(Failure("left", digest, reason, counted[key], *row))
    return found


_SHOWN: list[ColumnElement[Any]] = [
    boards.c[name]
    for name in (
        "id", "name", "app", "cls", "channel", "digest", "last_seen", "progress", "reason",
        "crashes", "paused", "held", "dev", "up",
    )
]  # fmt: skip
SORTS = ("state", "name", "seen", "release")


def rows(
    db: Connection, wanted: Filter, sort: str, most: int, offset: int, now: float
) -> tuple[int, list[Row[Any]]]:
    """How many boards are wanted, and some of them, each with its `condition`.

    Args:
        sort: one of `SORTS`.
    """
    b, which, state = boards.c, wanted.clauses(now), condition(now)
    total = db.execute(select(func.count()).select_from(boards).where(*which)).scalar_one()
    called = func.coalesce(func.nullif(b.name, ""), b.id)
    rank = case({name: literal(n) for n, name in enumerate(CONDITIONS)}, value=state)
    order = {
        "state": (rank, called),
        "name": (called,),
        "seen": (b.last_seen.desc(),),
        "release": (b.app, b.seq.desc(), called),
    }[sort]
    some = select(*_SHOWN, state.label("condition")).where(*which).order_by(*order, b.id)
    found: list[Any] = [*db.execute(some.limit(most).offset(offset)).all()]
    return total, found


def choices(db: Connection) -> tuple[list[str], list[str]]:
    """Apps and channels that boards have, for filters; at most 50 of each."""
    b = boards.c
    found = [
        list(db.execute(select(column).distinct().order_by(column).limit(50)).scalars())
        for column in (b.app, b.channel)
    ]
    return found[0], found[1]


def board_events(
    db: Connection, board_id: str, most: int, offset: int
) -> tuple[int, list[Row[Any]]]:
    """How many events a board's history has, and some, the newest first."""
    mine = events.c.board == board_id
    total = db.execute(select(func.count()).select_from(events).where(mine)).scalar_one()
    some = select(events).where(mine).order_by(events.c.n.desc()).limit(most).offset(offset)
    return total, list(db.execute(some))


def board_tags(db: Connection, board_id: str) -> list[str]:
    """A board's tags."""
    mine = select(tags.c.tag).where(tags.c.board == board_id).order_by(tags.c.tag)
    return list(db.execute(mine).scalars())
