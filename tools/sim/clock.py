"""The time of a virtual board: the rules by which it passes, and the host's part in them.

A board either follows the wall's clock (`mipy sim`, for people), `speed` times as fast, or has a
clock of its own (for tests), whose time depends on what the board does and not on how busy the host
is. Of its own clock:

1. **Computing takes time.** CPU time of the device code counts `speed` times. CPU time is what the
   kernel gave the board, so a busy host makes the board slow for people but not in its own time: a
   loop without end meets its watchdog after the same count of turns. What the simulator itself
   does while the device code waits counts nothing.
2. **Waiting takes no real time where nobody outside can act.** Sleeping, polling, waiting for a
   socket or a key, the clock skips to what comes first: the end of the wait, a timer, the
   watchdog. Callbacks run on the way, each at its time.
3. **The host lends the time.** Only a test that says how long it waits (`VirtualBoard.wait`,
   `life`) lets the clock skip, and never further than that. Between two waits the test is about to
   act, and the clock keeps to real time: a board does not run an hour ahead while somebody types.
4. **What the board says is heard before its clock skips.** While the console holds bytes that the
   host has not read and judged, the clock keeps to real time. So a test that waits for a text has
   the board stand where it printed it.
5. **The board does not run ahead of an answer.** After anything went to or came from outside (a
   connection, bytes either way), the clock keeps to real time until the world is *at rest*: for
   ten real milliseconds no thread of the host's process or of its children runs, is ready to run,
   waits for a disk or sleeps for a set time, and none has run in between. The kernel makes a
   thread ready in the very call that brings it its bytes, and when its timer is over. So a peer
   that gets no turn on a busy host is seen to be ready, and waited for however long that takes;
   one that sleeps before it answers (a slow server in a test) is seen to sleep; one that waits for
   bytes itself (a server that never answers) is at rest, so a timeout costs nothing. What cannot
   be seen is the limit of time with which a thread waits for a socket, a lock or a child (event
   loops always have one), nor what Nagle's algorithm holds back: the board's sockets do without,
   and so does a test's proxy. The ten milliseconds are for those that put an answer off for a
   moment, as the OTA server does to write several polls at once.
6. **Boards of one process keep together.** What is lent to one is lent to all, and while one of
   them lags behind, none goes on for more than a quarter of a second.
7. **Rest does not last.** After 50 real milliseconds of skipping the world is looked at again,
   since some peers act by clocks of their own.

What is left of chance: how fast the host computes, and how the bytes of a peer are cut into pieces.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import ClassVar

from .page import Page

_PERIOD = 1 << 30  # of the board's milliseconds, as it counts them
_MOST = 1 << 28  # ms that are lent at once, far below half the period
_EVER = 1 << 40  # ms that nobody waits through
_TOGETHER = 250  # ms by which a board may be ahead of another
_CHILDREN_LAST = 0.1  # real seconds for which the list of processes is good
_NUMBERS_LAST = 1.0  # real seconds in which no process gets the number of one that has ended
_REST = 0.010  # real seconds for which nothing has run
_LOOK = 0.0034  # real seconds between two looks at the world
_LAZY = 0.02
_AHEAD = "RD"  # states of a thread that runs, is ready to, or waits for a disk


class _World:
    """What else on this machine could act on a board: this process and its children."""

    def __init__(self) -> None:
        self.boards: set[int] = set()
        """Processes that are boards: they wait for the host, not the other way round."""
        self.ours: set[int] = set()
        """Threads that look after boards."""
        self._family: list[int] = []
        self._seen = 0.0
        self._parents: dict[int, int] = {}
        self._calm: dict[int, str] = {}
        """Threads that did not sleep for a set time, with how often they had run by then."""

    def look(self) -> dict[int, str] | None:
        """How often each thread has run; None when one is about to act."""
        runs = {}
        for process in self._processes():
            folder = f"/proc/{process}/task/"
            try:
                threads = os.listdir(folder)
            except OSError:
                continue  # it has ended
            for name in threads:
                thread = int(name)
                if thread in self.ours:
                    continue
                try:
                    state = _text(f"{folder}{name}/stat").rpartition(")")[2].split()[0]
                    if state in _AHEAD:
                        return None
                    runs[thread] = _text(f"{folder}{name}/schedstat").split()[2]
                    # What has not run since then waits as it did.
                    if state == "S" and runs[thread] != self._calm.get(thread):
                        if "nanosleep" in _text(f"{folder}{name}/wchan"):
                            return None
                        self._calm[thread] = runs[thread]
                except OSError:
                    return None  # it is just ending
        self._calm = {thread: count for thread, count in self._calm.items() if thread in runs}
        return runs

    def _processes(self) -> list[int]:
        now = time.monotonic()
        if not self._family or now - self._seen > _CHILDREN_LAST:
            if now - self._seen > _NUMBERS_LAST:
                self._parents.clear()
                self._calm.clear()
            self._family = self._descendants()
            self._seen = now
        return self._family

    def _descendants(self) -> list[int]:
        known, self._parents = self._parents, {}
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                process = int(name)
                try:
                    # It has this one for as long as the parent lives.
                    parent = known.get(process) or _parent(process)
                except OSError:
                    continue
                self._parents[process] = parent
                children.setdefault(parent, []).append(process)
        found = [os.getpid()]
        for process in found:
            found += [pid for pid in children.get(process, ()) if pid not in self.boards]
        return found


def _parent(process: int) -> int:
    return int(_text(f"/proc/{process}/stat").rpartition(")")[2].split()[1])


def _text(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1024).decode()
    finally:
        os.close(descriptor)


_world = _World()


class Loan:
    """Board time that somebody waits through.

    Args:
        holds: what is waited for.
        ms: the board's time after which it has not come.
        step: ms after which `holds` is asked again though the board has said nothing.
    """

    def __init__(self, holds: Callable[[], bool], ms: int, step: int = _EVER) -> None:
        self._holds = holds
        self._step = step
        self.left = ms
        self.next = 0
        """ms until `holds` is asked again."""
        self.came = False
        self.failure: BaseException | None = None
        self.over = threading.Event()

    def pass_by(self, ms: int) -> None:
        """So much of it is over."""
        self.left -= ms
        self.next -= ms

    def judge(self) -> None:
        """Ask `holds`; the loan is over when it does, or at its end."""
        self.next = self._step
        try:
            self.came = self._holds()
        except BaseException as failure:  # the waiting thread raises it
            self.failure = failure
        if self.came or self.failure or self.left <= 0:
            self.over.set()

    def result(self) -> bool:
        """Whether it came."""
        if self.failure:
            raise self.failure
        return self.came


class Keeper:
    """Lends a board time, listens, and looks at the world when the board asks.

    The thread that looks after the board calls all but `now`, `lend` and `call_in`.
    """

    _lock = threading.Lock()
    _running: ClassVar[set[Keeper]] = set()

    def __init__(self, page: Page) -> None:
        self._page = page
        self._now = 0
        self._count = page.get("now")  # of the board's own clock in this life, at `_now`
        self._loans: dict[Loan, int] = {}  # with the board time when each began
        self._own: set[Loan] = set()  # those lent to this board; with the others it goes along
        self._looked = 0  # number of the question that is looked into
        self._runs: dict[int, str] | None = None
        self._still = 0.0  # real time since which those have not changed

    @property
    def now(self) -> int:
        """Board time in ms since the board was made. For any thread."""
        with self._lock:
            return self._now + self._passed()

    def lend(self, loan: Loan) -> None:
        """Let time pass until the loan is over, for all boards that run. For any thread."""
        with self._lock:
            for keeper in {*self._running, self}:
                keeper._loans[loan] = keeper._now
            self._own.add(loan)

    def call_in(self, loan: Loan) -> None:
        """The loan is over: by it, no board skips from now on. For any thread."""
        loan.over.set()
        with self._lock:
            self._own.discard(loan)
            for keeper in {*self._running, self}:
                if keeper._loans.pop(loan, None) is not None and not keeper._loans:
                    keeper._page.set("lease", 0)

    def run(self, runs: bool) -> None:
        """The calling thread looks after the board, or ceases to."""
        with self._lock:
            (self._running.add if runs else self._running.discard)(self)
            self._loans = {loan: since for loan, since in self._loans.items() if loan in self._own}
        (_world.ours.add if runs else _world.ours.discard)(threading.get_native_id())

    def begin(self, process: int) -> None:
        """A life begins."""
        _world.boards.add(process)
        self._count = self._looked = 0
        self._runs = None

    def end(self, process: int) -> None:
        """It is over."""
        self._read_clock()
        with self._lock:
            self._page.set("now", 0)
            self._count = 0
        _world.boards.discard(process)

    def sleep(self, ms: int, stopping: threading.Event) -> None:
        """The deep sleep between two lives."""
        while ms > 0 and not stopping.is_set():
            self._judge(False)
            lent = bool(self._loans)
            passed = min(ms, self._ahead()) if lent else 0
            if not passed:
                began = time.monotonic()
                stopping.wait(min(ms / 1000, _LAZY))
                passed = 0 if lent else int((time.monotonic() - began) * 1000)
            ms -= passed
            with self._lock:
                self._now += passed
            self._lent(passed)

    def hold(self) -> None:
        """Bytes from the board are about to be read: it is not to skip before they are judged."""
        self._page.set("held", 1)

    def turn(self, heard: bool) -> float:
        """See what there is to do; the real seconds after which there may be more.

        Args:
            heard: it has printed something.
        """
        self._read_clock()
        self._judge(heard)
        ahead = self._ahead()
        with self._lock:
            lent = bool(self._loans)
            if lent:
                if not self._page.get("lease"):
                    self._page.set("rest", 0)  # who lends has just done something
                    self._looked = 0
                self._page.set("far", (self._count + ahead) % _PERIOD)
                self._page.set("lease", 1)
        self._page.set("held", 0)
        if not lent or (self._answer() and ahead):
            return _LAZY
        return _LOOK

    def _judge(self, heard: bool) -> None:
        for loan in tuple(self._own):
            if not loan.over.is_set() and (heard or min(loan.next, loan.left) <= 0):
                loan.judge()
            if loan.over.is_set():
                self.call_in(loan)

    def _ahead(self) -> int:
        """How many ms the board may skip, where time is lent."""
        ahead = min((min(loan.next, loan.left) for loan in tuple(self._own)), default=_MOST)
        with self._lock:
            for loan, since in self._loans.items():
                passed = [k._now - k._loans[loan] for k in self._running if loan in k._loans]
                if len(passed) > 1:
                    ahead = min(ahead, min(passed) + _TOGETHER - (self._now - since))
        return max(0, min(ahead, _MOST))

    def _read_clock(self) -> None:
        with self._lock:
            passed = self._passed()
            self._now += passed
            self._count += passed
        self._lent(passed)

    def _passed(self) -> int:
        count = self._page.get("now")
        return (count - self._count + _PERIOD // 2) % _PERIOD - _PERIOD // 2

    def _lent(self, ms: int) -> None:
        for loan in tuple(self._own):
            loan.pass_by(ms)

    def _answer(self) -> bool:
        """Whether the board has its answer, if it asks for the world to be at rest."""
        asked = self._page.get("asked")
        if not asked or self._page.get("rest") == asked:
            return True
        before, self._runs = self._runs, _world.look()
        now = time.monotonic()
        if asked != self._looked or before is None or before != self._runs:
            self._looked = asked
            self._still = now
        elif now - self._still >= _REST:
            self._page.set("rest", asked)
            return True
        return False
