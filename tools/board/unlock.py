"""Orders that open a production board's WebREPL for a while (docs/webrepl.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ...signing import unlock
from ...signing.reasons import Refused
from .. import console
from ..console import Failure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ..fleet.client import Client

_LOOK_SECONDS = 1.0


def request(
    server: Client,
    board: str,
    private: RSAPrivateKey,
    minutes: int = 30,
    timeout: float = 10,
) -> float | None:
    """Have a board opened, and wait until it says that it is.

    One order is signed, for this board and the life that it is in. The server could name another
    board, or a new life again and again.

    Args:
        board: its id, as the fleet's own records have it.
        private: a debug key.
        minutes: how long; rounded up to whole tens.
        timeout: minutes to wait.

    Returns:
        Until when (seconds since 1970); None: for ever.

    Raises:
        Failure: the server knows no board of this id, refuses the order, or names another board;
            or the board does not follow.
    """
    minutes = -(-minutes // 10) * 10
    facts = _facts(server, board)
    if facts["open"] is not None:
        return open_until(facts)
    life = facts["life"]
    server.order(board, _order(board, life, minutes, private))
    console.note(f"signed: open {board}, in its life {life}, for {minutes} minutes")
    end = time.monotonic() + timeout * 60
    with console.busy(f"waiting for {board} to ask its server"):
        while True:
            facts = _facts(server, board)
            if facts["open"] is not None:
                return open_until(facts)
            if time.monotonic() > end:
                raise Failure(
                    f"{board} did not open in {timeout:g} minutes",
                    "it has started again meanwhile, which ends the order: run this again"
                    if facts["life"] != life
                    else f"is it in reach of its server? see `mipy boards {board}`",
                )
            time.sleep(_LOOK_SECONDS)


def _facts(server: Client, board: str) -> dict[str, Any]:
    """What the server knows of the board with this id."""
    facts = server.board(board)
    if facts["id"] != board:
        raise Failure(
            f"the server was asked for the board {board} and answers for {facts['id']}",
            f"if {facts['id']} is meant, give that id; see `mipy boards`",
        )
    return facts


def _order(board: str, life: str, minutes: int, private: RSAPrivateKey) -> str:
    if not life:
        raise Failure(
            f"{board} has not yet told its server what an order must name",
            "wait for its next start, or press its reset button",
        )
    try:
        return unlock.Unlock(board, life, minutes).sign(private).decode()
    except Refused as refused:
        raise Failure(f"no order comes of this: {refused}", "see `mipy boards`") from refused


def open_until(facts: dict[str, Any]) -> float | None:
    """Until when a board (as the API gives it) is open, seconds since 1970; None: for ever."""
    return facts["last_seen"] + facts["open"] if facts["open"] else None
