"""`mipy bridge`: a pseudo-terminal with a board's console behind it, for tools that want a port.

Bytes pass as they are, with two exceptions:

1. A tool that begins with a soft reset (mpremote does) would end WebREPL, which lives in what is
   reset: the bridge answers in the board's place, and frees the memory of the app that was stopped.
2. `mpremote mount` makes the console a file server, which no terminal over the air can be: it is
   refused. What it asks the board first gives it away; the board runs something else in that place,
   of the same length because mpremote counts bytes, and the tool reads why.
"""

from __future__ import annotations

import os
import re
import select
import sys
from typing import TYPE_CHECKING

from .. import console, options
from ..console import Failure
from . import session, target
from .repl import Repl
from .webrepl import Taken

if TYPE_CHECKING:
    from .repl import Stream
    from .target import Target

_GREETING = b"raw REPL; CTRL-B to exit\r\n>"
_SOFT_RESET = b"\x04"
_MOUNT = b'"RemoteFS" in globals()'
_NO_MOUNT = b"1/0".ljust(len(_MOUNT))
_RAISED = re.compile(rb"ZeroDivisionError[^\r\n]*")
_REFUSED = b"OSError: `mipy bridge` cannot mount; `mipy watch` runs a folder's app at each save"
_END_OF_ANSWER = b"\x04>"
_DONE = b"OK\r\nMPY: soft reboot\r\n" + _GREETING


def bridge(
    board: options.Board,
) -> None:
    """Give a board a serial port on this computer, for mpremote and other tools, until Ctrl-C.

    The tools stop the app; it is started again at the end.
    """
    if sys.platform == "win32":
        raise Failure("Windows has no pseudo-terminals", "use `mipy exec`, `run` and `fs`")
    found = target.find(board)
    with Bridge(found) as made:
        console.say(made.path)
        console.note(f"for example: mpremote connect {made.path} fs ls; Ctrl-C ends it")
        while True:
            made.turn(1.0)


class Bridge:
    """A port at `path`; bytes move in `turn`."""

    def __init__(self, found: Target) -> None:
        import tty

        self._target = found
        self._stream: Stream = found.open()
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.path = os.ttyname(self._theirs)
        self._tail = b""
        self._used = False
        self._held: bytes | None = None  # the answer to what was put in a mount's place, so far

    def turn(self, seconds: float) -> None:
        """Wait for bytes from either side, and pass them on.

        Raises:
            Failure: the connection broke and cannot be made again.
        """
        sides = [self._ours, self._stream.fileno()]
        ready = select.select(sides, [], [], seconds)[0]
        try:
            if self._ours in ready:
                self._from_tool(os.read(self._ours, 4096))
            if self._stream.fileno() in ready:
                self._from_board(self._stream.read(0))
        except Failure as failure:
            if isinstance(failure, Taken):
                raise
            console.note(f"{failure.text}; waiting for it")
            self._stream.close()
            self._stream = self._target.reopen()
            self._used, self._held = False, None
            console.note("connected again")

    def _from_tool(self, data: bytes) -> None:
        self._used = True
        if data == _SOFT_RESET and self._tail == _GREETING:
            Repl(self._stream, self._target.name).run(session.DROP)
            self._from_board(_DONE)
            return
        if _MOUNT in data:
            data, self._held = data.replace(_MOUNT, _NO_MOUNT), b""
        self._stream.write(data)

    def _from_board(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            if not self._held.endswith(_END_OF_ANSWER):
                return
            data, self._held = _RAISED.sub(_REFUSED, self._held), None
        self._tail = (self._tail + data)[-len(_GREETING) :]
        while data:
            data = data[os.write(self._ours, data) :]

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self._used:
                repl = Repl(self._stream, self._target.name)
                repl.enter(soft_reset=False)
                repl.reset()
        except Failure as failure:
            console.warn(f"{failure.text}; its app may still be stopped")
        finally:
            self._stream.close()
            os.close(self._theirs)
            os.close(self._ours)
