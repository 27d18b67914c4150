"""`mipy open`: open a production board's WebREPL for a while (docs/webrepl.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...signing import opening
from ...signing.reasons import Refused
from .. import console
from ..console import Failure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ..fleet.client import Client

_LOOK_SECONDS = 1.0


def open_board(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="Its name or id.")],
    minutes: Annotated[
        int, typer.Option(min=10, max=70, help="How long; up to whole tens of minutes.")
    ] = 30,
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="Which debug key signs, if there are several.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Minutes to wait for the board.")] = 10,
) -> None:
    """Open a board's WebREPL.

    A debug key signs the order, the server passes it on with the board's next poll, and the board
    starts anew with its WebREPL open. Whoever knows the board's password gets in until the time
    is over; then it closes by itself.
    """
    from ..fleet.client import connect
    from ..keys import store as keys

    debug = keys.find(key, ["debug"])
    until = request(connect(), _id_of(board), keys.private(debug), minutes, timeout)
    left = "" if until is None else f" for {max(1, round((until - time.time()) / 60))} minutes"
    console.say(f"{board} is open{left}; `mipy repl {board}` is its terminal")
    console.note("a reset costs ten minutes of that, and so does a command that stops the app")


def _id_of(board: str) -> str:
    """The id by which an order names a board: the fleet's records know it, or it is given itself.

    Raises:
        Failure: several boards are called so.
    """
    from ..fleet import enrol

    if any(board in (one.board.id, one.board.name) for one in enrol.records()):
        return enrol.find(board).board.id
    return board


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
        return opening.Opening(board, life, minutes).sign(private).decode()
    except Refused as refused:
        raise Failure(f"no order comes of this: {refused}", "see `mipy boards`") from refused


def open_until(facts: dict[str, Any]) -> float | None:
    """Until when a board (as the API gives it) is open, seconds since 1970; None: for ever."""
    return facts["last_seen"] + facts["open"] if facts["open"] else None
