"""`mipy wifi`: the networks that a board knows, over its USB port or WebREPL.

bootloader/wifi_networks.py does the work on the board; in raw mode nothing that is sent is echoed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from .. import console, options
from ..flash import wifi as network
from . import session, target
from .repl import Raised, Repl

_KNOWN = "import sys\nsys.path.insert(0, '/')\nfrom bootloader import wifi_networks\n"
Board = Annotated[
    str | None,
    typer.Option(
        "--board",
        "--port",
        metavar="BOARD",
        help="Its name, id, address or serial port; the one on USB if not given.",
    ),
]


def add(
    ssid: Annotated[str, typer.Argument(help="The network's name.")],
    on: Board = None,
    password_file: options.WifiPasswordFile = None,
) -> None:
    """Let a board know a network before it comes; the password is asked for and not shown."""
    password = (network.networks(ssid, password_file) or {})[ssid]
    with board(on) as repl:
        try:
            repl.run(f"wifi_networks.add({ssid.encode()!r}, {password.encode()!r})")
        except Raised as problem:
            # Its traceback may show what was sent.
            raise console.Failure(
                f"the board does not take {ssid!r}: {problem.kind}",
                "a name has 1 to 32 bytes, a password 8 to 63, or 64 hex digits, or none",
            ) from None
    console.say(f"the board knows {ssid!r}")


def ls(on: Board = None) -> None:
    """List the networks a board knows, newest first."""
    with board(on) as repl:
        for ssid in repl.evaluate("[ssid for ssid, _ in wifi_networks.load()]"):
            console.say(ssid.decode(errors="backslashreplace"))


def rm(ssid: Annotated[str, typer.Argument(help="The network's name.")], on: Board = None) -> None:
    """Let a board forget a network."""
    with board(on) as repl:
        if not repl.evaluate(f"wifi_networks.remove({ssid.encode()!r})"):
            raise console.Failure(f"the board does not know {ssid!r}", "see `mipy wifi ls`")
    console.say(f"the board has forgotten {ssid!r}")


@contextmanager
def board(name: str | None) -> Iterator[Repl]:
    """The board's REPL with `wifi_networks` at hand; the board starts again at the end.

    Raises:
        Failure: no board, or none with a boot stage.
    """
    # The boot stage's timer feeds the watchdog meanwhile.
    with session.opened(target.find(name), restart=True) as repl:
        try:
            repl.run(_KNOWN)
        except Raised as problem:
            if problem.kind != "ImportError":
                raise
            raise console.Failure(
                "this board has no boot stage", "flash it: `mipy flash`"
            ) from problem
        yield repl
