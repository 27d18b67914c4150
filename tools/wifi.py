"""`mipy wifi`: the networks that a board knows, over its USB port.

The work is done by bootloader/known.py on the board; in raw mode nothing that is sent is echoed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from . import console
from .repl import Raised, Repl, Serial

_KNOWN = "import sys\nsys.path.insert(0, '/')\nfrom bootloader import known\n"
Port = Annotated[
    str | None, typer.Option("--port", metavar="PORT", help="The board's; found if not given.")
]


def add(
    ssid: Annotated[str, typer.Argument(help="The network's name.")],
    port: Port = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the network's password from a file.")
    ] = None,
) -> None:
    """Let a board know a network before it comes; the password is asked for and not shown."""
    from .flash import verb

    password = (verb.networks(ssid, password_file) or {})[ssid]
    with board(port) as repl:
        try:
            repl.run(f"known.add({ssid.encode()!r}, {password.encode()!r})")
        except Raised as problem:
            # Its traceback may show what was sent.
            raise console.Failure(
                f"the board does not take {ssid!r}: {problem.kind}",
                "a name has 1 to 32 bytes, a password 8 to 63 characters or none",
            ) from None
    console.say(f"the board knows {ssid!r}")


def ls(port: Port = None) -> None:
    """List the networks a board knows, newest first."""
    with board(port) as repl:
        for ssid in repl.evaluate("[ssid for ssid, _ in known.load()]"):
            console.say(ssid.decode(errors="backslashreplace"))


def rm(ssid: Annotated[str, typer.Argument(help="The network's name.")], port: Port = None) -> None:
    """Let a board forget a network."""
    with board(port) as repl:
        if not repl.evaluate(f"known.remove({ssid.encode()!r})"):
            raise console.Failure(f"the board does not know {ssid!r}", "see `mipy wifi ls`")
    console.say(f"the board has forgotten {ssid!r}")


@contextmanager
def board(port: str | None) -> Iterator[Repl]:
    """The board's REPL with `known` at hand; the board starts again at the end.

    Raises:
        Failure: no board, or none with a boot stage.
    """
    from .flash import port as ports

    name = port or ports.choose(ports.find())
    repl = Repl(Serial(name), name)
    try:
        # The boot stage's timer feeds the watchdog meanwhile, so no soft reset.
        repl.enter(soft_reset=False)
        try:
            repl.run(_KNOWN)
            yield repl
        except Raised as problem:
            if problem.kind != "ImportError":
                raise
            raise console.Failure(
                "this board has no boot stage", "flash it: `mipy flash`"
            ) from problem
        finally:
            repl.reset()
    finally:
        repl.close()
