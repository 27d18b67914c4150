"""`mipy label`: what goes onto a board's case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..fleet.label import of, save, show
from . import target


def label(
    board: options.Board,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as .svg or .png, to print.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show a board's label: who it is, its passwords, and a QR code that joins its portal.

    A phone that reads the code joins the access point which the board opens when it knows no
    network.
    """
    record = target.meant(board)
    if as_json:
        console.data(of(record))
    elif out:
        save(record, out)
        console.say(f"{out}: the label of {board}")
    else:
        show(record)
