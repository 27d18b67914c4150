"""The storage of one process, with every board in memory, whatever database is behind it.

The event loop decides on the boards in memory, in order, and never touches the disk. What must be
there before a reply leaves goes to the one thread that writes, and all that waits at that moment
shares a transaction (and so a disk flush). The rest is written once a second.

Where a batch cannot be written, its boards are read again from the disk, their tickets are void,
and so they report again.
"""

import asyncio
import logging
import sqlite3
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from .. import rollout as rules
from ..policy import Known, Move, Target, Tickets, Verdict
from ..rollout import Counts, Live, Rollout
from ..rollout_gate import Line, moved, over
from . import batch as batches
from . import queries, rollouts, statements
from .base import FLUSH_SECONDS, Away, Catalog, Reading, Storage, StorageError, apply, new_ticket
from .batch import Batch, Statements
from .statements import Audit

T = TypeVar("T")
FLUSH_BOARDS = 1000
"""Written in one transaction at most, so that none keeps what is urgent waiting for long."""
_NO_LINE = Line()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """All that memory holds of a database."""

    catalog: Catalog
    boards: dict[str, Known]
    rollouts: list[Live]
    last_order: int


def read_image(db: Connection) -> Image:
    """What memory is to hold."""
    return Image(queries.catalog(db), queries.known(db), rollouts.lives(db), queries.last_order(db))


class MemoryStorage(Storage):
    """See `Storage`; what is left to do is to open the database, and to close it.

    Args:
        sql: of the database.
    """

    def __init__(self, folder: Path, sql: Statements) -> None:
        super().__init__(folder)
        self._sql = sql
        self._boards: dict[str, Known] = {}
        self._lives: dict[int, Live] = {}
        self._last_rollout = 0
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._last_order = 0
        self._lost: set[str] = set()  # boards to be read again
        self._lost_rollouts: set[int] = set()
        self._dirty: dict[str, Known] = {}
        self._batch = Batch()
        self._waiting: list[Known] = []
        self._commit: asyncio.Future[None] | None = None
        self._committing: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(1, "writer")
        self._turn = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None

    # --- what differs between the databases ---

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Connection]:
        """A transaction of the only connection that writes; called in the thread that writes."""

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[Connection]:
        """A transaction that reads, and sees all its questions at one moment."""

    @abstractmethod
    def _run(self, db: Connection, statement: str, rows: bytes) -> None:
        """Run a statement of `sql` on its rows."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the database."""

    def _check(self) -> None:
        """Raise StorageError where memory must not be used."""

    async def _tend(self) -> None:
        """What is to be done once a second."""
        await self.settle()

    # --- the image ---

    def _take_image(self, image: Image) -> None:
        """Begin anew with what the database has: every ticket that was given is void."""
        self.catalog = image.catalog
        self._boards = image.boards
        self._last_order = image.last_order
        self._lives = {}
        self._lost, self._lost_rollouts, self._dirty = set(), set(), {}
        self._lines, self._last_rollout = {}, 0
        self._take_in(image.rollouts)
        self._let_go()

    async def start(self) -> None:
        self._flushing = asyncio.create_task(self._flush_for_ever())

    async def close(self) -> None:
        if self._flushing:
            self._flushing.cancel()
        await self.settle()
        for threads in (self._readers, self._writer):
            threads.shutdown()
        self._release()

    # --- boards, in memory ---

    async def known(self, board_id: str) -> Known | None:
        self._check()
        # While the one is read the other may be lost.
        while self._lost_rollouts or board_id in self._lost:
            if self._lost_rollouts:
                await self._read_rollouts_again()
            else:
                await self._read_again([board_id])
        return self._boards.get(board_id)

    async def take(
        self, known: Known, ticket: str, verdict: Verdict, peer: str, now: float
    ) -> str | None:
        if not self._use_up(known, ticket):
            return None
        board = known.board
        apply(known, verdict, now)
        self._move(verdict.moves, now)
        board.last_seen, board.peer = now, peer
        self._dirty[board.id] = known
        if verdict.durable:
            await self._durably(known, verdict, now)
        tickets = known.tickets
        tickets.counted = new_ticket()
        tickets.carried = tuple(order.n for order in verdict.orders)
        self.changed(board.id)
        return tickets.counted

    def routine(self, known: Known, ticket: str, heap: int, up: int, peer: str, now: float) -> str:
        if not self._use_up(known, ticket):
            return ""
        board = known.board
        board.heap, board.up, board.peer, board.last_seen = heap, up, peer, now
        self._dirty[board.id] = known
        known.tickets.counted = new_ticket()
        return known.tickets.counted

    def _use_up(self, known: Known, ticket: str) -> bool:
        # A copy of this poll that arrives meanwhile is stale.
        if not known.tickets.admit(ticket) or self._boards.get(known.board.id) is not known:
            return False
        known.tickets = Tickets()
        return True

    async def stale(self, known: Known) -> str:
        tickets = known.tickets
        tickets.stale = tickets.stale or new_ticket()
        return tickets.stale

    async def amend(
        self,
        board_id: str,
        make: Callable[[Known], Verdict],
        now: float,
        audit: Audit | None = None,
    ) -> Verdict | None:
        known = await self.known(board_id)
        if known is None:
            return None
        verdict = make(known)
        apply(known, verdict, now, self._next_order)
        known.epoch = -1
        if audit:
            self._batch.audit.append((audit, now))
        await self._durably(known, verdict, now)
        self.changed(board_id)
        return verdict

    # --- rollouts, in memory ---

    def rollouts_of(self, app: str, cls: str, channel: str) -> Line:
        return self._lines.get((app, cls, channel), _NO_LINE)

    def rollouts(self) -> list[Live]:
        return list(self._lives.values())

    def targets_of(self, board_id: str) -> Mapping[int, Target]:
        known = self._boards.get(board_id)
        return known.targets if known else {}

    async def steer(
        self,
        number: int,
        make: Callable[[Rollout, Counts], Rollout],
        now: float,
        moves: Sequence[Move] = (),
        audit: Audit | None = None,
    ) -> Rollout | None:
        self._check()
        if self._lost_rollouts:
            await self._read_rollouts_again()
        live = self._lives.get(number) or await self._fetched(number)
        if live is None:
            return None
        moves = [move for move in moves if self._holds(move)]
        counts = live.counts
        for move in moves:
            counts = counts.moved(move.old, move.new)
        after = make(live.rollout, counts)
        for move in moves:
            known = self._boards.get(move.board)
            if known:
                known.targets = moved(known.targets, [move], now)
                known.epoch = -1
        if moves or after != live.rollout or audit:
            self._change_rollout(live, after)
            self._move(moves, now)
            if audit:
                self._batch.audit.append((audit, now))
            await self._committed()
            for move in moves:
                self.changed(move.board)
        return live.rollout

    def _holds(self, move: Move) -> bool:
        """Whether the target is in the state from which it is to be moved."""
        known = self._boards.get(move.board)
        if known is None:  # it was removed, and nobody but the clock moves its targets
            return move.board not in self._lost
        target = known.targets.get(move.rollout)
        return target is not None and target.state == move.old

    def _move(self, moves: Sequence[Move], now: float) -> None:
        """Count moves, and halt what that halts: for the transaction that takes them in."""
        for move in moves:
            live = self._lives[move.rollout]
            live.counts = live.counts.moved(move.old, move.new)
            self._batch.moves.append((move, now))
            self._change_rollout(live, rules.halted(live.rollout, live.counts))

    def _change_rollout(self, live: Live, after: Rollout) -> None:
        self._batch.rollouts[after.id] = live
        if after != live.rollout:
            if after.state != live.rollout.state:
                why = f": {after.why}" if after.why else ""
                level = logging.WARNING if after.state == "halted" else logging.INFO
                log.log(level, "rollout %d is %s%s", after.id, after.state, why)
            live.rollout = after
            self.epoch += 1

    def _take_in(self, found: Iterable[Live]) -> None:
        """Have rollouts in memory, in order of their numbers."""
        every = self._lives | {live.rollout.id: live for live in found}
        self._lives = dict(sorted(every.items()))
        self._last_rollout = max(self._last_rollout, *self._lives, 0)
        lines: dict[tuple[str, str, str], list[Live]] = defaultdict(list)
        for live in self._lives.values():
            lines[live.line].append(live)
        every_line = {**self._lines, **lines}
        self._lines = {
            name: Line(lines.get(name, ()), self.rollouts_of(*name).over) for name in every_line
        }
        self.epoch += 1

    def _let_go(self) -> None:
        """Keep of rollouts that are over what their releases' boards need, and no more.

        Only with the turn: of what is being written nothing may go.
        """
        for name, line in self._lines.items():
            kept = {live.rollout.id for live in rules.needed(line.lives)}
            kept |= self._batch.rollouts.keys()
            gone = [live for live in line.lives if live.rollout.id not in kept]
            lives = [live for live in line.lives if live.rollout.id in kept]
            newest = {live.rollout.digest: over(live) for live in gone}  # the oldest came first
            for digest, live in line.over.items():
                if digest in newest and newest[digest].rollout.id < live.rollout.id:
                    newest[digest] = live
            self._lines[name] = Line(lives, {**line.over, **newest})
            for live in gone:
                del self._lives[live.rollout.id]

    async def _fetched(self, number: int) -> Live | None:
        """A rollout that is over, from the database; for as long as somebody changes it."""
        found = await self._in_writer(self._read_rollouts, [number])
        if number not in self._lives:  # others may have had their turn
            self._take_in(found)
        return self._lives.get(number)

    async def _read_rollouts_again(self) -> None:
        lost = sorted(self._lost_rollouts)
        found = await self._in_writer(self._read_rollouts, lost)
        if self._lost_rollouts & set(lost):
            self._lost_rollouts -= set(lost)
            self._take_in(found)

    def _read_rollouts(self, numbers: Sequence[int]) -> list[Live]:
        with self._transaction() as db:
            return rollouts.lives(db, only=numbers)

    def _next_order(self) -> int:
        self._last_order += 1
        return self._last_order

    # --- to the disk ---

    async def _durably(self, known: Known, verdict: Verdict, now: float) -> None:
        """Return when the verdict is on the disk, with all else that waits for it by then."""
        self._batch.add(known.board, verdict, now)
        self._dirty.pop(known.board.id, None)
        self._waiting.append(known)
        await self._committed()

    async def _committed(self) -> None:
        """Return when the batch is on the disk."""
        if self._commit is None:
            self._commit = asyncio.get_running_loop().create_future()
            self._committing = asyncio.create_task(self._commit_waiting())
        await asyncio.shield(self._commit)

    async def _commit_waiting(self) -> None:
        async with self._turn:
            await self._write_batch()

    async def _write_batch(self) -> None:
        """Write what waits, and tell those who wait for it; only with the turn."""
        batch, waiting, done = self._batch, self._waiting, self._commit
        self._batch, self._waiting, self._commit = Batch(), [], None
        if done is None:
            return
        try:
            # What was enrolled anew or removed meanwhile must not be written over.
            if any(self._boards.get(one.board.id) is not one for one in waiting):
                raise StorageError("a board was enrolled anew meanwhile")
            if any(self._lives.get(n) is not live for n, live in batch.rollouts.items()):
                raise StorageError("a rollout was read again meanwhile")
            batch.freeze()
            await self._in_writer(self._write_rows, batch)
        except StorageError as problem:
            self._lose({one.board.id for one in waiting} | {move.board for move, _ in batch.moves})
            self._lose_rollouts(batch.rollouts)
            _log(problem)
            done.set_exception(problem)
            done.exception()  # whoever waited may have gone
        else:
            done.set_result(None)

    def _lose(self, ids: Iterable[str]) -> None:
        """Have boards read from the disk again: memory is ahead of it."""
        for name in ids:
            if self._boards.pop(name, None):
                self._lost.add(name)
            self._dirty.pop(name, None)

    def _lose_rollouts(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._lives.pop(number, None):
                self._lost_rollouts.add(number)
        self.epoch += 1

    async def _read_again(self, ids: Sequence[str]) -> None:
        found = await self._in_writer(self._read_known, ids)
        for name in ids:
            if name in self._lost:
                self._lost.discard(name)
                if name in found:
                    self._boards[name] = found[name]

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._tend()

    async def settle(self) -> None:
        names = list(self._dirty)
        for start in range(0, len(names), FLUSH_BOARDS):
            async with self._turn:
                if not await self._write_dirty(names[start : start + FLUSH_BOARDS]):
                    break
        if self._commit:
            await self._commit_waiting()

    async def _write_dirty(self, names: Sequence[str]) -> bool:
        """Write what is not urgent; what cannot be written stays for another time."""
        taken = {name: self._dirty.pop(name) for name in names if name in self._dirty}
        if not taken:
            return True
        batch = Batch({name: batches.row(known.board) for name, known in taken.items()})
        try:
            await self._in_writer(self._write_rows, batch)
        except StorageError as problem:
            _log(problem)
            self._dirty = taken | self._dirty
            return False
        return True

    def _write_rows(self, batch: Batch) -> None:
        with self._transaction() as db:
            for statement, rows in batch.statements(self._sql):
                self._run(db, statement, batches.encoded(rows))
            for move, now in batch.moves:
                rollouts.write_moves(db, [move], now)
            for live in batch.frozen:
                rollouts.save(db, live)
            for entry, now in batch.audit:
                statements.record(db, entry, now)

    def _read_known(self, ids: Sequence[str]) -> dict[str, Known]:
        with self._transaction() as db:
            return queries.known(db, ids)

    async def _in_writer(self, work: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, work, *args)
        except (SQLAlchemyError, sqlite3.Error, OSError) as problem:
            raise StorageError(cause_of(problem)) from problem

    # --- people ---

    def _read(self, question: Reading[..., T], args: Sequence[Any]) -> T:
        self._check()
        try:
            with self._snapshot() as db:
                return question(db, *args)
        except SQLAlchemyError as problem:
            raise StorageError(cause_of(problem)) from problem

    async def write(
        self,
        change: Reading[..., T],
        *args: Any,
        audit: Audit | None = None,
        boards: Sequence[str] = (),
        catalog: bool = False,
    ) -> T:
        async with self._turn:
            await self._write_batch()
            last = self._last_rollout if catalog else None
            result, found, new, started = await self._in_writer(
                self._change, change, args, audit, boards, last
            )
            for name in boards:
                self._boards.pop(name, None)
                self._dirty.pop(name, None)
            self._boards |= found
            if new is not None:
                # Rollouts first: a release without one is for everybody.
                self._take_in(started)
                self._let_go()
                self.catalog = new
                self.epoch += 1
        for name in boards:
            self.changed(name)
        return result

    def _change(
        self,
        change: Reading[..., T],
        args: Sequence[Any],
        audit: Audit | None,
        boards: Sequence[str],
        after: int | None,
    ) -> tuple[T, dict[str, Known], Any, list[Live]]:
        """Change, and read what memory needs of it: with `after`, the catalog and new rollouts."""
        with self._transaction() as db:
            result = change(db, *args)
            if audit:
                statements.record(db, audit, time.time())
            found = queries.known(db, boards) if boards else {}
            if after is None:
                return result, found, None, []
            return result, found, queries.catalog(db), rollouts.lives(db, after)


def cause_of(problem: BaseException) -> str:
    """What went wrong, in one line: without the statement, and what it was to store."""
    text = str(getattr(problem, "orig", None) or problem)
    return "; ".join(line.strip() for line in text.strip().splitlines()) or type(problem).__name__


def _log(problem: StorageError) -> None:
    if not isinstance(problem, Away):
        log.error("cannot write to the database: %s", problem)
