"""How a board is, in one word: the vocabulary of the pages, `mipy boards`, the API and the metrics.

Pure: no SQL. `storage.queries.condition` is the same rule where the database counts and sorts.
"""

from typing import Literal, get_args

from .policy import CRASHING, UPDATING_STATES, Board
from .rollout import AWAY_S, SLEEPER_UP_S

Condition = Literal[
    "recovery", "crashing", "offline", "updating", "waiting", "paused", "never seen", "ok"
]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""The worst first."""
ABSENT: tuple[Condition, ...] = ("offline", "waiting")
"""Boards that were heard of, and do not report now."""
ASLEEP_S = 86400.0
"""A board that sleeps may be silent for so long before it counts as offline."""


def condition(board: Board, now: float) -> Condition:
    """How a board is.

    "waiting" is a board that sleeps, as far as a server can know: its last report came within
    `SLEEPER_UP_S` of its start, and not longer ago than a board sleeps.

    Args:
        now: seconds since 1970.
    """
    if board.last_seen is None:
        return "never seen"
    if board.last_seen < now - AWAY_S:
        sleeps = board.up < SLEEPER_UP_S and board.state == "ok"
        return "waiting" if sleeps and board.last_seen > now - ASLEEP_S else "offline"
    if board.state == "recovery":
        return "recovery"
    if board.state == CRASHING:
        return "crashing"
    if board.state in UPDATING_STATES:
        return "updating"
    return "paused" if board.paused else "ok"
