"""`mipy adopt`: a board with a MicroPython program of its own becomes a board of the fleet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..board.remote import Facts, Remote
from ..board.target import find
from ..console import Failure
from ..flash import port as ports
from ..flash import wifi as network
from ..fleet import address, enrol
from ..fleet.client import connect
from ..fleet.pick import title
from ..keys import store as keys
from .connection import connected
from .steps import steps, work
from .survey import Wishes, survey
from .undo import give_back


def adopt(
    board: Annotated[
        str | None,
        typer.Argument(
            metavar="[BOARD]", help="Its serial port, if there are several, or WebREPL's address."
        ),
    ] = None,
    name: options.Name = None,
    app: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Build the first release from here, not from the board."),
    ] = None,
    cls: options.Class = None,
    server: options.Servers = None,
    wifi: options.Wifi = None,
    wifi_password_file: options.WifiPasswordFile = None,
    dev: options.Dev = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would become of each file, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back the files as they were before.")
    ] = False,
) -> None:
    """Take a board that runs a MicroPython program of its own into the fleet.

    Everything on it is backed up first. Its program becomes the first release, or gives way to the
    app in --app; files go to /data. Shows what becomes of each file, and asks.
    """
    if not undo:
        keys.trust()
    servers, networks = address.reachable(server), network.networks(wifi, wifi_password_file)
    found = find(board)
    with connected(found.open(), found.name, soft_reset=found.port is not None) as remote:
        facts = remote.facts()
        if undo:
            give_back(remote, facts)
            return
        wishes = Wishes(app, cls, name, servers, dev, networks)
        if dry_run:
            survey(remote, facts, wishes)
            console.say("nothing was written")
            return
        join(remote, facts, wishes, ask=not yes)
    if found.port is None:
        console.say("the board starts its program as a release of the fleet: see `mipy boards`")
        return
    with console.busy("waiting for the board to start its program"):
        ports.follow(found.port, lambda line: None)
    console.say("the board runs its program as a release of the fleet")
    console.note("`mipy adopt --undo` brings the old files back")


def join(remote: Remote, facts: Facts, wishes: Wishes, ask: bool = False) -> None:
    """Adopt the board, or go on where a former run was broken off.

    Args:
        ask: before anything is written; what was begun is finished without a question.

    Raises:
        Failure: it cannot be adopted, the person thinks better of it, or the connection broke.
    """
    found = survey(remote, facts, wishes)
    if ask and not found.begun:
        _ask(wishes, _waiting(found.record))
    address.warn_of_silence(found.record.board.servers)
    if not found.begun:
        found.kept.save()
    console.say(f"backup: {found.kept.path}")
    enrol.tell_server(enrol.keep(found.record))
    work(steps(remote, found.plan, found.kept, found.files))


def _waiting(record: enrol.Record) -> str:
    """What people call the server's release for such boards; "" for none, or no server."""
    try:
        every = connect().releases()
    except Failure:
        return ""  # adopting needs no server; that it is not there is said later
    line = record.board.app, record.board.cls
    meant = (one for one in every if (one["app"], one["class"]) == line and not one["withdrawn"])
    return next((title(one) for one in meant), "")


def _ask(wishes: Wishes, waiting: str) -> None:
    """Ask before the board's own program gives way to a release.

    Args:
        waiting: the server's release for such boards.

    Raises:
        Failure: the person thinks better of it, or nobody is there to ask.
    """
    if waiting:
        console.warn(
            f"the server has the release {waiting} for boards of this class: the board takes it at "
            "its first poll, and its own program is in the backup only"
        )
    if not sys.stdin.isatty():
        raise Failure(
            "nobody is here to be asked whether the board's own program is to be replaced",
            "--yes goes on without a question, --dry-run shows what would become of each file",
        )
    by = f"the app in {wishes.app}" if wishes.app else "a release made of it"
    if not console.confirm(f"Replace the board's own program by {by}? A backup is kept."):
        raise Failure("nothing was written", "`mipy adopt --dry-run` shows what would be")
