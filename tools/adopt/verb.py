"""`mipy adopt`: a board with a MicroPython program of its own becomes a board of the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..board.remote import Facts, Remote
from ..board.target import find
from ..flash import port as ports
from ..flash import wifi as network
from ..fleet import address, enrol
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
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back the files as they were before.")
    ] = False,
) -> None:
    """Take a board that runs a MicroPython program of its own into the fleet.

    Everything on it is backed up first. Its program becomes the first release; files go to /data.
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
        join(remote, facts, wishes)
    if found.port is None:
        console.say("the board starts its program as a release of the fleet: see `mipy boards`")
        return
    with console.busy("waiting for the board to start its program"):
        ports.follow(found.port, lambda line: None)
    console.say("the board runs its program as a release of the fleet")
    console.note("`mipy adopt --undo` brings the old files back")


def join(remote: Remote, facts: Facts, wishes: Wishes) -> None:
    """Adopt the board, or go on where a former run was broken off.

    Raises:
        Failure: it cannot be adopted, or the connection broke.
    """
    found = survey(remote, facts, wishes)
    if not found.begun:
        found.kept.save()
    console.say(f"backup: {found.kept.path}")
    enrol.tell_server(enrol.keep(found.record))
    work(steps(remote, found.plan, found.kept, found.files))
