"""`mipy board ...`, `mipy pause`, `mipy retry`, `mipy withdraw`: what people change."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import console, options
from ..app import project
from ..console import Failure

BOARD = Annotated[str, typer.Argument(metavar="BOARD", help="Its name or id.")]


def rename(
    board: BOARD, name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")]
) -> None:
    """Give a board another name on the server. Its label and its own record keep the former."""
    from .client import connect

    connect().change(board, name=name)
    console.say(f"{board} is called {name}")


def tag(
    board: BOARD,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[TAG]...", help="None: no tags.")
    ] = None,
) -> None:
    """Give a board these tags and no others."""
    from .client import connect

    connect().change(board, tags=tags or [])
    console.say(f"{board}: {', '.join(tags or []) or 'no tags'}")


def retire(
    board: BOARD,
    back: Annotated[bool, typer.Option("--back", help="Take it into use again.")] = False,
) -> None:
    """Take a board out of use: it is offered nothing and no longer listed; its history stays."""
    from .client import connect

    connect().change(board, retired=not back)
    console.say(f"{board} is {'in use again' if back else 'retired'}")


def remove(
    board: BOARD,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Have the server forget a board, with its key and history. It can be enrolled again."""
    from .client import connect

    server = connect()
    if not yes and not console.confirm(f"forget {board}, its key and its history?"):
        raise typer.Abort
    server.remove(board)
    console.say(f"{board} is forgotten")
    console.note("its file in the fleet's records stays: mipy boards --add FILE enrols it again")


def pause(board: BOARD) -> None:
    """Offer a board nothing until `mipy follow BOARD`; in recovery it still gets a repair."""
    from .client import connect

    connect().change(board, paused=True)
    console.say(f"{board} is paused; mipy follow {board} ends that")


def retry(
    board: BOARD,
    release: Annotated[
        str | None, typer.Argument(metavar="[RELEASE]", help="The start of its digest.")
    ] = None,
) -> None:
    """Have a board forget that it rejected a release, so that it is offered again."""
    from .client import connect

    server = connect()
    found = server.board(board)["rejected"]
    wanted = [bad["digest"] for bad in found if bad["digest"].startswith(release or "")]
    if len(wanted) != 1:
        listed = ", ".join(f"{bad['digest'][:8]} ({bad['reason']})" for bad in found)
        raise Failure(
            f"{board} has rejected {listed or 'nothing'}",
            f"name one: mipy retry {board} DIGEST" if found else "",
        )
    server.order(board, f"retry {wanted[0]}")
    console.say(f"{board} is told to forget that it rejected {wanted[0][:8]}")


def withdraw(
    wanted: Annotated[
        str, typer.Argument(metavar="RELEASE", help="Its seq, note, or the start of its digest.")
    ],
    app: options.AppName = None,
) -> None:
    """Offer a release to no further board. Boards that run it keep it."""
    from .client import connect
    from .pick import chosen

    server = connect()
    for one in chosen(server.releases(), wanted, project.app_named(app)):
        server.withdraw(one["digest"])
        console.say(f"withdrawn: {one['app']} for {one['class']}, seq {one['seq']}")
