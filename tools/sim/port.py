"""A virtual board's serial port: a pseudo-terminal that any serial tool can open.

with Port(board) as port:
    board.start(port.hear)
    ... pyserial, mpremote or a terminal on port.path ...
"""

from __future__ import annotations

import os
import re
import select
import threading
import time
import tty
from types import TracebackType

from .board import VirtualBoard

_CTRL_C = b"\x03"
_APART = 0.05  # seconds; an interpreter that is interrupted twice at once takes it for its end
_SLOW = 1.0  # seconds in which who listens makes room; after that nobody does


class Port:
    """The port of `board`, there until it is closed; `path` is what to open."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.path = os.ttyname(self._theirs)
        os.set_blocking(self._ours, False)
        self._plugged = True
        self._lost = False
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def hear(self, text: str) -> None:
        """Take what the board prints; for `VirtualBoard.start`."""
        data = text.encode()
        while data:
            if not select.select([], [self._ours], [], 0 if self._lost else _SLOW)[1]:
                self._lost = True  # as on a wire without a listener
                return
            self._lost = False
            data = data[os.write(self._ours, data) :]

    def close(self) -> None:
        """Unplug it."""
        self._plugged = False
        os.write(self._theirs, b"\0")  # wakes the thread, which does not pass it on
        self._thread.join()
        os.close(self._theirs)
        os.close(self._ours)

    def _pass_on(self) -> None:
        while True:
            select.select([self._ours], [], [])
            data = os.read(self._ours, 4096)
            if not self._plugged:
                return
            for part in re.split(b"(\x03)", data):
                if part == _CTRL_C:
                    self._board.ctrl_c()
                    time.sleep(_APART)
                elif part:
                    self._board.type(part.decode(errors="replace"))

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
