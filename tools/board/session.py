"""A board's REPL for a while: its app is stopped first, and started again at the end.

with session.opened(target.find("kitchen")) as repl:
    repl.run("print(1)")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import console
from ..console import Failure
from .repl import Repl
from .target import Target

# The app's modules take most of an ESP8266's heap. Emptied, not just dropped: what is left on an
# old stack frame would keep them. The boot stage and WebREPL stay.
DROP = """\
import sys,gc,os
def _d():
 try:
  r='/app_slots/'+sys.modules['ota'].slot
  n=[]
  for d in (r,r+'/lib'):
   try:
    n+=[x.split('.')[0] for x in os.listdir(d)]
   except OSError:
    pass
  for k in list(sys.modules):
   if k.split('.')[0] in n or k.startswith('asyncio'):
    sys.modules.pop(k).__dict__.clear()
 except (KeyError,TypeError,AttributeError):
  pass
_d()
del _d
gc.collect()
"""


GONE_SECONDS = 300
"""A board whose app was stopped starts it again when nothing was heard from here for so long."""


@contextmanager
def opened(board: Target, drop: bool = True, restart: bool = False) -> Iterator[Repl]:
    """The raw REPL of `board`.

    A program that runs is stopped, people are told, and the board is reset at the end so that it
    starts again. One that somebody has stopped before stays stopped, with all it has in memory.

    Args:
        drop: free the memory of the app that was stopped.
        restart: reset it at the end in any case, which saves the time to find out.

    Raises:
        Failure: the board is not reached, or does not answer.
    """
    repl = Repl(board.open(), board.name)
    try:
        running = restart or not repl.waiting()
        repl.enter(soft_reset=False)
        if running:
            console.note(f"the app of {board.name} is stopped meanwhile")
            if drop:
                repl.run(DROP)
            repl.limit(GONE_SECONDS)
        try:
            yield repl
        except BaseException:
            _end(repl, running, quiet=True)
            raise
        _end(repl, running, quiet=False)
    finally:
        repl.close()


def _end(repl: Repl, running: bool, quiet: bool) -> None:
    """Start the app again, or leave the prompt as it was; a board that has gone cannot."""
    if repl.gone:
        return
    try:
        if running:
            repl.reset()
        else:
            repl.leave()
    except Failure:
        if not quiet:
            raise
