"""`mipy repl`: a board's own terminal, over the cable or the air.

What is typed goes to the board as it is, so that line editing, history and completion are the
board's, the same as on the cable. Only two things are done here: a paste goes by raw-paste mode,
which has flow control and loses nothing, and a connection that breaks is made again.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..console import Failure
from ..printable import Printable, printable
from . import target
from .repl import Raised, Repl, Stream
from .webrepl import Closed, Taken

if TYPE_CHECKING:
    from .target import Target

_LEAVE = b"\x1d", b"\x18"
"""Ctrl-] and Ctrl-X, as in mpremote."""
_PIECE, _ECHO_SECONDS = 32, 0.3
"""A board's buffer for what is typed has 256 bytes, and what does not fit is lost."""
_BURST_SECONDS = 0.05
"""Bytes that come faster than this, and are lines, were not typed by hand."""
_PASTE_ON, _PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"
_PASTED = re.compile(rb"\x1b\[200~(.*?)(?:\x1b\[201~|\Z)", re.DOTALL)
_MINUTES = 30
"""How long a closed board is opened for; `mipy open --minutes` has others."""
_COUNT_SECONDS = 20.0
_AS_BEFORE = b"\x1b[0m\x1b[?25h"
"""No colour, and the cursor to be seen: a program on the board may have left it otherwise."""
_BEGIN, _END = b"\x1b[200~", b"\x1b[201~"
_PROMPT = b">>> "


def repl(
    board: Annotated[
        str | None,
        typer.Argument(metavar="[BOARD]", help="Name, id, address or serial port; the USB port's."),
    ] = None,
) -> None:
    """Open a board's terminal: Ctrl-C, Ctrl-D and Tab as on the cable, Ctrl-] to leave."""
    if not sys.stdin.isatty():
        raise Failure("this is no terminal", "in scripts, use `mipy exec` or `mipy run`")
    found = target.find(board)
    until = _open_until(found)
    try:
        stream = found.open()
    except Closed as closed:
        until = _opened(found, closed)
        stream = found.reopen()
    console.note(f"{found.name}; Ctrl-] leaves, Ctrl-C stops the app, Ctrl-D starts it again")
    with _raw(sys.stdin.fileno()) as keys:
        Terminal(found, stream, keys, until).run()


def _open_until(found: Target) -> float | None:
    """Until when a board that was opened before stays so, as its server knows; None: for ever."""
    if not found.told or found.told["open"] is None:
        return None
    from . import unlock

    return unlock.open_until(found.told)


def _opened(found: Target, closed: Closed) -> float | None:
    """Open a closed production board, if its people want to and have a debug key.

    Returns until when, as `unlock.request` does.

    Raises:
        Failure: they do not, or it does not open.
    """
    from ..fleet.client import connect
    from ..keys import store as keys
    from . import unlock

    try:
        debug = keys.usable("debug")
    except Failure:
        debug = []
    if not found.board or not debug:
        raise closed
    console.note(closed.text)
    if not console.confirm(
        f"Have {found.name} ({found.board.id}) opened for {_MINUTES} minutes, signed by debug key "
        f"{debug[0].id}?"
    ):
        raise closed
    return unlock.request(connect(), found.board.id, keys.private(debug[0]), _MINUTES)


class Keys:
    """The keyboard, in raw mode; `fd` is the terminal's."""

    def __init__(self, fd: int) -> None:
        import termios
        import tty

        self.fd = fd
        self._before = termios.tcgetattr(fd)
        tty.setraw(fd)

    def signals(self, on: bool) -> None:
        """Whether Ctrl-C is a signal, as it is everywhere else, or a key."""
        import termios

        now = termios.tcgetattr(self.fd)
        now[3] = now[3] | termios.ISIG if on else now[3] & ~termios.ISIG
        termios.tcsetattr(self.fd, termios.TCSADRAIN, now)

    def restore(self) -> None:
        """As it was."""
        import termios

        termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)


@contextmanager
def _raw(fd: int) -> Iterator[Keys]:
    keys = Keys(fd)
    try:
        _show(_PASTE_ON)
        yield keys
    finally:
        keys.restore()
        _show(_PASTE_OFF + _AS_BEFORE + b"\r\n")


def _show(said: bytes) -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()


class Terminal:
    """Between the keyboard and the board behind `stream`."""

    def __init__(
        self, found: Target, stream: Stream, keys: Keys, until: float | None = None
    ) -> None:
        self._until = until
        self._target = found
        self._stream = stream
        self._keys = keys
        self._tail = b""
        self._readable = Printable(cursor=True)

    def run(self) -> None:
        """Until the key to leave is pressed.

        Raises:
            Failure: the connection broke and cannot be made again.
        """
        try:
            # Where a prompt waits, it comes once more.
            self._stream.write(b"\r")
            self._hear(0)
            while self._turn():
                pass
        finally:
            self._stream.close()
        if self._tail.endswith(_PROMPT):
            self._note("its app is stopped; `mipy reset` starts it again")

    def _turn(self) -> bool:
        """Pass on what comes from either side; False to leave."""
        try:
            self._countdown()
            sides = [self._keys.fd, self._stream.fileno()]
            ready = select.select(sides, [], [], _COUNT_SECONDS if self._until else None)[0]
            if self._stream.fileno() in ready:
                self._hear(0)
            return self._keys.fd not in ready or self._pressed()
        except Failure as failure:
            return self._reconnect(failure)

    def _countdown(self) -> None:
        """In the window's title, where it disturbs nothing: how long the board stays open."""
        if self._until:
            left = max(0, round((self._until - time.time()) / 60))
            title = printable(f"{self._target.name}: open for {left} min")
            _show(f"\x1b]0;{title}\x07".encode())

    def _pressed(self) -> bool:
        keys = os.read(self._keys.fd, 4096)
        if not keys or any(keys == leave for leave in _LEAVE):
            return False
        keys = self._whole(keys)
        pasted = _PASTED.search(keys)
        if pasted:
            self._type(keys[: pasted.start()])
            self._pasted(pasted[1])
            self._type(keys[pasted.end() :])
        elif keys.count(b"\r") + keys.count(b"\n") > 1 and len(keys) > _PIECE:
            self._pasted(keys)  # by a terminal that does not mark what is pasted
        else:
            self._type(keys)
        return True

    def _whole(self, keys: bytes) -> bytes:
        """All of a paste, which comes in pieces."""
        while (_BEGIN in keys and _END not in keys) or len(keys) > _PIECE:
            if not select.select([self._keys.fd], [], [], _BURST_SECONDS)[0]:
                break
            more = os.read(self._keys.fd, 65536)
            if not more:
                break
            keys += more
        return keys

    def _hear(self, timeout: float) -> int:
        said = self._stream.read(timeout)
        self._say(said)
        self._tail = (self._tail + said)[-len(_PROMPT) :]
        return len(said)

    def _type(self, keys: bytes) -> None:
        """Send keys in pieces; after each, as many bytes of echo are awaited as went."""
        for at in range(0, len(keys), _PIECE):
            piece = keys[at : at + _PIECE]
            self._stream.write(piece)
            left = len(piece) if at + _PIECE < len(keys) else 0
            while left > 0 and (heard := self._hear(_ECHO_SECONDS)):
                left -= heard

    def _pasted(self, pasted: bytes) -> None:
        text = pasted.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in text.strip(b"\n") or not self._tail.endswith(_PROMPT):
            # A single line may be edited; what a program reads is not ours to understand.
            self._type(text.replace(b"\n", b"\r"))
            return
        code = dedent(text.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        self._note(f"{len(code)} bytes pasted")
        board = Repl(self._stream, self._target.name)
        self._keys.signals(True)
        try:
            board.paste(code, self._say)
        except Raised as raised:
            self._say(raised.trace.replace("\r\n", "\n").replace("\n", "\r\n").encode())
        except KeyboardInterrupt:
            _show(b"\r\nKeyboardInterrupt\r\n")
        finally:
            self._keys.signals(False)
        board.prompt()
        self._tail = _PROMPT
        _show(_PROMPT)

    def _reconnect(self, failure: Failure) -> bool:
        self._stream.close()
        if isinstance(failure, Taken):
            raise failure
        self._note(f"{failure.text}; waiting for it, Ctrl-C gives up")
        self._keys.signals(True)
        try:
            self._stream = self._target.reopen()
        except KeyboardInterrupt:
            return False
        finally:
            self._keys.signals(False)
        self._note("connected again")
        self._tail = b""
        return True

    def _say(self, said: bytes) -> None:
        """Show what the board says."""
        _show(self._readable(said).encode())

    def _note(self, text: str) -> None:
        _show(f"\r\n\x1b[2m{printable(text)}\x1b[0m\r\n".encode())
