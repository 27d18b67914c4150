"""Questions to the database, as SQLAlchemy Core has them: for people, and for a server's start."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, select

from ..condition import ASLEEP_S
from ..policy import CRASHING, UPDATING_STATES, Bad, Board, Known, Order, Release, Target
from ..rollout import AWAY_S, SLEEPER_UP_S, TARGETS_KEPT
from .base import REJECTIONS_KEPT, Catalog
from .model import (
    boards,
    channel_releases,
    events,
    orders,
    rejections,
    releases,
    tags,
    targets,
    trust,
)
from .statements import BOARD

NAMED = 500
"""So many boards are named in one statement at most; databases bound that."""
_BOARD_COLUMNS = [boards.c[name] for name in BOARD]


def catalog(db: Connection) -> Catalog:
    """Releases and trust files."""
    channels: dict[str, set[str]] = defaultdict(set)
    for row in db.execute(select(channel_releases.c.digest, channel_releases.c.channel)):
        channels[row.digest].add(row.channel)
    found: dict[tuple[str, str], list[Release]] = {}
    for row in db.execute(select(releases).order_by(releases.c.seq.desc())).mappings():
        release = Release(**row, channels=frozenset(channels[row["digest"]]))
        found.setdefault((release.app, release.cls), []).append(release)
    files = db.execute(select(trust.c.version, trust.c.reset, trust.c.body)).all()
    return Catalog(
        found, {row.version: row.body for row in files}, {row.version: row.reset for row in files}
    )


def known(db: Connection, ids: Iterable[str] | None = None) -> dict[str, Known]:
    """Boards and what bears on their next answer, without tickets; all of them by default."""
    if ids is None:
        return _known(db, None)
    found: dict[str, Known] = {}
    names = list(ids)
    for start in range(0, len(names), NAMED):
        found |= _known(db, names[start : start + NAMED])
    return found


def _known(db: Connection, names: Sequence[str] | None) -> dict[str, Known]:
    def mine(column: Any) -> Any:
        return True if names is None else column.in_(names)

    found = {
        row.id: Known(board_of(row))
        for row in db.execute(select(*_BOARD_COLUMNS).where(mine(boards.c.id)))
    }
    bads = select(rejections).where(mine(rejections.c.board)).order_by(rejections.c.at)
    for row in db.execute(bads):
        if row.board in found:
            rejected = found[row.board].rejected
            rejected[row.digest] = Bad(row.digest, row.reason, row.soft, row.trace)
            if len(rejected) > REJECTIONS_KEPT:
                del rejected[next(iter(rejected))]
    still = select(orders).where(orders.c.done.is_(None), mine(orders.c.board))
    for row in db.execute(still.order_by(orders.c.n)):
        if row.board in found:
            found[row.board].orders.append(Order(row.n, row.text, row.base, row.tries))
    columns = targets.c.board, targets.c.rollout, targets.c.state, targets.c.offered_at
    parts = select(*columns).where(mine(targets.c.board)).order_by(targets.c.rollout)
    for name, *part in db.execute(parts):
        if name in found:
            kept = found[name].targets
            kept[part[0]] = Target(*part)
            if len(kept) > TARGETS_KEPT:
                del kept[next(iter(kept))]
    return found


def board_of(row: Row[Any]) -> Board:
    """A row of all columns in the order of `BOARD`."""
    return Board(*row)


def last_order(db: Connection) -> int:
    """The highest number that an order has."""
    return db.execute(select(func.coalesce(func.max(orders.c.n), 0))).scalar_one()


def find(db: Connection, name: str) -> str | None:
    """The id of the board of this id or, if only one has it, of this name."""
    if db.execute(select(boards.c.id).where(boards.c.id == name)).first():
        return name
    named = db.execute(select(boards.c.id).where(boards.c.name == name).limit(2)).all()
    return named[0].id if len(named) == 1 else None


def condition(now: float) -> ColumnElement[str]:
    """The rule of `ota_server.condition` in SQL: one of `CONDITIONS` for each row of `boards`.

    A test holds the two to each other for every combination of what they look at.

    Args:
        now: seconds since 1970.
    """
    b = boards.c
    quiet = b.last_seen < now - AWAY_S
    sleeps = and_(b.up < SLEEPER_UP_S, b.state == "ok", b.last_seen > now - ASLEEP_S)
    return case(
        (b.last_seen.is_(None), "never seen"),
        (and_(quiet, sleeps), "waiting"),
        (quiet, "offline"),
        (b.state == "recovery", "recovery"),
        (b.state == CRASHING, "crashing"),
        (b.state.in_(UPDATING_STATES), "updating"),
        (b.paused, "paused"),
        else_="ok",
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which boards: all that fulfil what is not None; `state` is one of `CONDITIONS`."""

    state: str | None = None
    app: str | None = None
    tag: str | None = None
    search: str | None = None
    retired: bool = False


def page(
    db: Connection, wanted: Wanted, sort: str, most: int, offset: int, now: float
) -> tuple[int, list[tuple[Known, list[str]]]]:
    """How many boards are wanted, and some of them with their tags."""
    retired = boards.c.retired
    which: list[ColumnElement[bool]] = [
        retired.is_not(None) if wanted.retired else retired.is_(None)
    ]
    if wanted.state is not None:
        which.append(condition(now) == wanted.state)
    if wanted.app is not None:
        which.append(boards.c.app == wanted.app)
    if wanted.tag is not None:
        which.append(boards.c.id.in_(select(tags.c.board).where(tags.c.tag == wanted.tag)))
    if wanted.search:
        part = wanted.search
        match = boards.c.id.icontains(part, autoescape=True)
        which.append(match | boards.c.name.icontains(part, autoescape=True))
    total = db.execute(select(func.count()).select_from(boards).where(*which)).scalar_one()
    order = boards.c[sort].desc().nulls_last() if sort == "last_seen" else boards.c[sort]
    some = select(boards.c.id).where(*which).order_by(order, boards.c.id)
    names = list(db.execute(some.limit(most).offset(offset)).scalars())
    found = known(db, names)
    labels: dict[str, list[str]] = defaultdict(list)
    for row in db.execute(select(tags).where(tags.c.board.in_(names)).order_by(tags.c.tag)):
        labels[row.board].append(row.tag)
    return total, [(found[name], labels[name]) for name in names]


def alive(db: Connection) -> None:
    """Ask for as little as can be."""
    db.execute(select(trust.c.version).limit(1))


def ids(db: Connection, after: str, most: int) -> list[str]:
    """Ids of boards behind `after`, in order."""
    found = select(boards.c.id).where(boards.c.id > after).order_by(boards.c.id).limit(most)
    return list(db.execute(found).scalars())


def newest_trust(db: Connection) -> tuple[str, int]:
    """The board in use with the newest trust file, and its version; ("", 0) without boards."""
    found = select(boards.c.id, boards.c.trust).where(boards.c.retired.is_(None))
    row = db.execute(found.order_by(boards.c.trust.desc(), boards.c.id).limit(1)).first()
    return (row.id, row.trust) if row else ("", 0)


def states(db: Connection, now: float) -> dict[str, int]:
    """How many boards in use are in each condition that some have."""
    state = condition(now).label("condition")
    counted = select(state, func.count()).where(boards.c.retired.is_(None))
    return {name: count for name, count in db.execute(counted.group_by("condition"))}


def running(db: Connection) -> dict[str, int]:
    """How many boards run what, by the first half of the digest."""
    rows = select(boards.c.digest, func.count()).where(boards.c.retired.is_(None))
    return {digest: count for digest, count in db.execute(rows.group_by(boards.c.digest))}


def history(db: Connection, board_id: str, after: int = 0) -> list[dict[str, Any]]:
    """A board's events, oldest first, from event number `after` on."""
    columns = [column for column in events.c if column.name != "board"]
    rows = select(*columns).where(events.c.board == board_id, events.c.n > after)
    return [dict(row) for row in db.execute(rows.order_by(events.c.n)).mappings()]
