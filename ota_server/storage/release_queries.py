"""What people ask of one release: where it runs, what failed on it, its rollouts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from ..policy import Release
from .model import boards, rejections, rollouts, targets
from .queries import condition

FAILURES_READ = 1000
"""Of one release at most, the newest ones: more say nothing new, and each may hold 1 KB."""
_CRASHES = ("exception", "watchdog")
"""What a board's last reason is after a crash of the app that it had confirmed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A board on which a release failed; `at` in seconds since 1970."""

    board: str
    name: str
    reason: str
    trace: str
    at: float


def where_it_runs(db: Connection, short: str, now: float) -> dict[str, int]:
    """How many boards in use run a release, by their condition.

    Args:
        short: the first half of the release's digest.
    """
    state = condition(now).label("condition")
    mine = boards.c.digest == short, boards.c.retired.is_(None)
    counted = select(state, func.count()).where(*mine).group_by("condition")
    return {name: count for name, count in db.execute(counted)}


def failures(db: Connection, release: Release) -> list[Failure]:
    """Boards on which a release failed, each once, the newest first.

    They went back from it, refused it, or crash on it. Who was told by a person to go back is none
    of them.
    """
    of_rollouts = _failed(rollouts.c.digest == release.digest)
    of_boards = (
        select(rejections.c.board, boards.c.name, rejections.c.reason, rejections.c.trace,
               rejections.c.at)
        .outerjoin(boards, boards.c.id == rejections.c.board)
        .where(rejections.c.digest == release.short, rejections.c.reason != "order")
        .order_by(rejections.c.at.desc())
    )  # fmt: skip
    crashing = (
        select(boards.c.id, boards.c.name, boards.c.reason, boards.c.trace,
               boards.c.last_seen.label("at"))
        .where(boards.c.digest == release.short, boards.c.confirmed == release.short,
               boards.c.crashes > 0, boards.c.reason.in_(_CRASHES), boards.c.retired.is_(None))
        .order_by(boards.c.last_seen.desc())
    )  # fmt: skip
    rows = [
        row for asked in (crashing, of_boards, of_rollouts)
        for row in db.execute(asked.limit(FAILURES_READ))
    ]  # fmt: skip
    found = _once_each(Failure(row[0], row[1] or "", row[2], row[3], row[4] or 0.0) for row in rows)
    return sorted(found, key=lambda one: (-one.at, one.board))[:FAILURES_READ]


def failures_of_rollout(db: Connection, number: int) -> list[Failure]:
    """Boards that failed a rollout, the newest first."""
    rows = db.execute(_failed(targets.c.rollout == number).limit(FAILURES_READ))
    return [Failure(row.board, row.name or "", row.reason, row.trace, row.at) for row in rows]


def _failed(which: ColumnElement[bool]) -> Select[Any, Any, Any, Any, Any]:
    columns = targets.c.board, boards.c.name, targets.c.reason, targets.c.trace
    return (
        select(*columns, targets.c.ended_at.label("at"))
        .join(rollouts, rollouts.c.id == targets.c.rollout)
        .outerjoin(boards, boards.c.id == targets.c.board)
        .where(which, targets.c.state == "failed")
        .order_by(targets.c.ended_at.desc())
    )


def _once_each(told: Iterable[Failure]) -> Iterable[Failure]:
    """Of what several tables say of one board, what has a traceback, or else the first."""
    found: dict[str, Failure] = {}
    for one in told:
        known = found.get(one.board)
        if known is None or (one.trace and not known.trace):
            found[one.board] = one
    return found.values()


def rollouts_of(db: Connection, digest: str, most: int) -> tuple[int, list[Any]]:
    """By how many rollouts a release went out, and the newest of their rows."""
    mine = rollouts.c.digest == digest
    total = db.execute(select(func.count()).select_from(rollouts).where(mine)).scalar_one()
    some = select(rollouts).where(mine).order_by(rollouts.c.id.desc()).limit(most)
    return total, list(db.execute(some))


def newest_rollouts(db: Connection, digests: Sequence[str]) -> dict[str, Any]:
    """Of releases by their digests: the row of the newest rollout, where there is one."""
    newest = (
        select(func.max(rollouts.c.id))
        .where(rollouts.c.digest.in_(digests))
        .group_by(rollouts.c.digest)
    )
    rows = select(rollouts).where(rollouts.c.id.in_(newest))
    return {row.digest: row for row in db.execute(rows)}
