"""Why a board does not run the newest release yet, in one sentence, by the rules that decide it.

`policy` and `rollout` say what is offered; here is only what people read of it. Pure: no SQL, HTTP
or clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..signing.reasons import SENTENCES
from .condition import Condition
from .policy import Known, Release
from .rollout import Wait
from .rollout_gate import Line, latest, may_get, minute_of_day, turn

Kind = Literal["current", "coming", "own", "blocked"]


@dataclass(frozen=True, slots=True)
class Why:
    """How a board stands to the newest release of its channel.

    Attributes:
        kind: "current" (it runs it), "coming" (it needs nothing but the board's next poll), "own"
            (the board's own: paused, or rejected; people can take that away), or "blocked" (by
            something else: the rollout, a trial that is open, ...).
        text: one sentence.
        newest: that release; None: there is none.
    """

    kind: Kind
    text: str
    newest: Release | None = None


def newest_for(known: Known, releases: Sequence[Release]) -> Release | None:
    """The newest release that is meant for a board.

    Args:
        releases: those of its app and class, newest first.
    """
    board = known.board
    meant = (one for one in releases if one.withdrawn is None and board.channel in one.channels)
    return next(meant, None)


def why(
    known: Known, releases: Sequence[Release], line: Line, condition: Condition, now: float
) -> Why:
    """How a board stands to the newest release of its channel.

    Args:
        releases: those of its app and class, newest first.
        line: the rollouts of its app, class and channel.
        condition: the board's, see `condition`.
        now: seconds since 1970.
    """
    board, newest = known.board, newest_for(known, releases)
    if board.retired is not None:
        return Why("blocked", "It is retired: nothing is offered to it.", newest)
    if newest is None:
        text = f"Nothing is published for {board.app} on {board.cls} in channel {board.channel}."
        return Why("blocked", text)
    if board.last_seen is None:
        return Why("coming", "It has never reported: has it power and Wi-Fi?", newest)
    if newest.short == board.digest:
        return _running(known, newest)
    return (
        _own(known, newest, now)
        or _rollout(known, newest, line, minute_of_day(now))
        or Why("coming", _next_poll(known, newest, condition), newest)
    )


def _running(known: Known, newest: Release) -> Why:
    board = known.board
    if board.confirmed == board.digest:
        return Why("current", "It runs the newest release.", newest)
    held = ": the app asked to wait" if board.held else ""
    return Why("current", f"It runs the newest release, which is on trial{held}.", newest)


def _own(known: Known, newest: Release, now: float) -> Why | None:
    """What of the board's own stands against the release."""
    board, bad = known.board, known.rejected.get(newest.short)
    if board.state == "installing":
        return Why("coming", f"It is installing a release: {board.progress or 'at it'}.", newest)
    if board.state == "trial":
        text = "Another release is on trial on it; nothing is offered until that ends."
        return Why("blocked", text, newest)
    if any(order.text == "rollback" for order in known.orders) and board.state != "recovery":
        text = "It was told to roll back; nothing is offered until it has."
        return Why("blocked", text, newest)
    if bad is not None and not bad.soft:
        text = f"It rejected the newest release: {SENTENCES.get(bad.reason, bad.reason)}."
        return Why("own", text, newest)
    if board.paused:
        return Why("own", "It is paused: it keeps what it runs.", newest)
    if not may_get(known, newest, [newest], now):
        text = "It has confirmed a later release than the newest one of its channel."
        return Why("blocked", text, newest)
    return None


def _rollout(known: Known, newest: Release, line: Line, minute: int) -> Why | None:
    """What the release's rollout says."""
    live = latest(line, newest.digest)
    found = turn(live, line.lives, known.board, known.targets, minute) if live else None
    if not isinstance(found, Wait):
        return None
    kind: Kind = "own" if found.why in ("failed", "silent") else "blocked"
    return Why(kind, found.text, newest)


def _next_poll(known: Known, newest: Release, condition: Condition) -> str:
    told = known.board.offered == newest.digest
    bad = known.rejected.get(newest.short)
    if bad is not None:
        reason = SENTENCES.get(bad.reason, bad.reason)
        return f"It tries the newest release again by itself; last time {reason}."
    if condition == "offline":
        return "It is offline; it gets the newest release when it is back."
    if condition == "waiting":
        return "It sleeps; it gets the newest release when it wakes."
    if told:
        return "It was told of the newest release and has not begun yet."
    return "It gets the newest release when it reports next."
