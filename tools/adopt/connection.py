"""A board's files, over a REPL that belongs to no boot stage yet."""

from __future__ import annotations

from ..board.remote import Remote
from ..board.repl import Repl, Stream
from ..console import Failure


class connected:
    """The files of the board behind `stream`; it is reset at the end, however that comes.

    A boot stage that runs already feeds the watchdog by a timer, which a soft reset would stop.
    Otherwise the program's memory is freed by one, but over WebREPL, which would end with it.
    """

    def __init__(self, stream: Stream, name: str, soft_reset: bool = True) -> None:
        self._repl = Repl(stream, name)
        self._soft_reset = soft_reset

    def __enter__(self) -> Remote:
        try:
            self._repl.enter(soft_reset=False)
            ours = self._repl.evaluate("'ota' in __import__('sys').modules")
            if self._soft_reset and not ours:
                self._repl.enter()
            return Remote(self._repl)
        except BaseException:
            self._repl.close()
            raise

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        try:
            self._repl.reset()
        except Failure:
            if value is None:
                raise
        finally:
            self._repl.close()
