"""`mipy open`: open a production board's WebREPL for a while (docs/webrepl.md)."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .. import console, options
from ..fleet import client, enrol
from ..keys import store as keys
from .unlock import request


def open_board(
    board: options.ListedBoard,
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
    debug = keys.find(key, ["debug"])
    until = request(client.connect(), _id_of(board), keys.private(debug), minutes, timeout)
    left = "" if until is None else f" for {max(1, round((until - time.time()) / 60))} minutes"
    console.say(f"{board} is open{left}; `mipy repl {board}` is its terminal")
    console.note("a reset costs ten minutes of that, and so does a command that stops the app")


def _id_of(board: str) -> str:
    """The id by which an order names a board: the fleet's records know it, or it is given itself.

    Raises:
        Failure: several boards are called so.
    """
    if any(board in (one.board.id, one.board.name) for one in enrol.records()):
        return enrol.find(board).board.id
    return board
