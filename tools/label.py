"""`mipy label`: what goes onto a board's case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console, enrol
from .console import Failure
from .files import write

_KINDS = (".svg", ".png")


def label(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="Its name or id.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the code as .svg or .png instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a board's label: who it is, its passwords, and a QR code that joins its portal.

    A phone that reads the code joins the access point which the board opens when it knows no
    network.
    """
    import segno

    facts = of(enrol.find(board))
    if as_json:
        console.data(facts)
        return
    code = segno.make(facts["code"], micro=False)
    if out:
        if out.suffix not in _KINDS:
            raise Failure(f"{out} is neither .svg nor .png", "choose one of them", 2)
        import io

        picture = io.BytesIO()
        code.save(picture, kind=out.suffix[1:], scale=4)
        try:
            write(out, picture.getvalue(), 0o600)  # the portal's password is in there
        except OSError as problem:
            raise Failure(f"cannot write {out}: {problem.strerror}", "name another") from problem
        console.say(f"{out}: the code of {board}")
        return
    console.show({key: value for key, value in facts.items() if key != "code"}, as_json=False)
    code.terminal(compact=True)


def of(record: enrol.Record) -> dict[str, Any]:
    """A label's lines; "code" is what its QR code says."""
    board = record.board
    network = access_point(board.name or board.id)
    return {
        "board": board.name or board.id,
        "id": board.id,
        "app": board.app,
        "class": board.cls,
        "portal": network,
        "portal password": board.portal or "none",
        "WebREPL password": board.webrepl or "none",
        "code": f"WIFI:T:WPA;S:{network};P:{board.portal};;",
    }


def access_point(name: str) -> str:
    """The access point that the portal of a board opens (bootloader/portal.py)."""
    return f"mipy-{name}"[:32]
