"""Options and arguments that several verbs share: one spelling, one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BOARD_HELP = "Its name, id, address or serial port."

Board = Annotated[str, typer.Argument(metavar="BOARD", help=BOARD_HELP)]
"""A board that is reached: over serial or WebREPL."""

ListedBoard = Annotated[str, typer.Argument(metavar="BOARD", help="Its name or id.")]
"""A board that the server is asked about; it need not be in reach."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

AppFolder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The app's folder; the current one if not.")
]
AppName = Annotated[
    str | None,
    typer.Option("--app", metavar="APP", help="The app's name or folder, if not this one."),
]
"""Which of the fleet's apps."""
App = Annotated[
    Path | None, typer.Option("--app", metavar="DIR", help="The app's folder, if not this one.")
]

Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="CLASS", help="Class of boards; all of app.toml's."),
]
Floor = Annotated[
    int | None,
    typer.Option(min=0, help="Once this release is confirmed, refuse any with a lower seq."),
]
Note = Annotated[str, typer.Option(help="One line for people, like a version.")]
CompileAll = Annotated[
    bool, typer.Option("--compile-all", help="Compile main.py and config.py too.")
]

Name = Annotated[str | None, typer.Option(metavar="NAME", help="What people call the board.")]
Class = Annotated[
    str | None,
    typer.Option("--class", metavar="CLASS", help="Class of the board, if not its chip's."),
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="URL", help="Where the board finds the server; up to three."),
]
Wifi = Annotated[
    str | None,
    typer.Option(
        metavar="SSID", help="The board's network; asks for the password (MIPY_WIFI_PASSWORD)."
    ),
]
WifiPasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Read the network's password from a file.")
]
Dev = Annotated[
    bool, typer.Option("--dev", help="A development board: it carries the dev key, WebREPL is on.")
]

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from a file."),
]
