"""`mipy exec`, `run`, `reset` and `logs`: a board's console, without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..console import Failure
from ..files import failed
from . import session, target, webrepl
from .repl import Raised, Repl

_LOOK_SECONDS = 2.0
_GLANCE_SECONDS = 5.0
"""How long to listen to a board without --follow."""


def execute(
    board: options.Board,
    code: Annotated[str, typer.Argument(metavar="CODE", help="A piece of Python.")],
) -> None:
    """Run a piece of Python on a board and show what it prints.

    An app that runs is stopped for it, and started again afterwards.
    """
    _run(board, code.encode())


def run(
    board: options.Board,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A script; it is not stored.")],
) -> None:
    """Run a script of this computer on a board, without storing it there.

    An app that runs is stopped for it, and started again afterwards.
    """
    try:
        code = file.read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {file}", problem, "name a script") from problem
    _run(board, code)


def _run(board: str, code: bytes) -> None:
    with session.opened(target.find(board)) as repl:
        try:
            repl.limit(0)  # it may take as long as it likes
            repl.follow(code, shown())
        except Raised as raised:
            console.passage(raised.trace, error=True)
            raise Failure(raised.text, "the traceback above says where") from None


def shown() -> Callable[[bytes], None]:
    """A function that shows what a board prints, with this computer's line ends."""
    put = console.output()
    return lambda said: put(said.replace(b"\r\n", b"\n"))


def reset(board: options.Board) -> None:
    """Reset a board, in good order: it counts as no crash."""
    found = target.find(board)
    repl = Repl(found.open(), found.name)
    try:
        repl.enter(soft_reset=False)
        repl.reset()
    finally:
        repl.close()
    console.say(f"{found.name} starts again")


def logs(
    board: options.Board,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, also over resets.")
    ] = False,
) -> None:
    """Show what a board prints, or else what it reported to the server.

    The app is not disturbed. A board whose WebREPL is closed shows no lines of its log, but what
    it reported to the server: releases, restarts, failures with their traceback. Its lines go to
    MQTT, syslog or a file where the app has them sent there (docs/runtime.md).
    """
    found = target.find(board)
    try:
        stream = found.open()
    except Failure as failure:
        if found.record is None:
            raise
        console.note(f"{failure.text}; its reports to the server instead")
        _reports(found.record.board.id, follow)
        return
    end = time.monotonic() + _GLANCE_SECONDS
    show = shown()
    while follow or time.monotonic() < end:
        try:
            show(stream.read(1.0))
        except Failure as failure:
            stream.close()
            if not follow or isinstance(failure, webrepl.Taken):
                raise
            console.note(f"{failure.text}; waiting for it")
            stream = found.reopen()
    stream.close()


def _reports(board_id: str, follow: bool) -> None:
    from ..fleet.client import connect

    server, last = connect(), 0
    while True:
        for event in server.events(board_id, last):
            last = event["n"]
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
            words = [at, event["kind"], event["reason"], event["text"]]
            console.say("  ".join(str(word) for word in words if word))
        if not follow:
            return
        time.sleep(_LOOK_SECONDS)
