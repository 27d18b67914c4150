"""The storage of one process: SQLite (WAL), and every board in memory.

The event loop decides on the boards in memory, in order, and never touches the disk. What must be
there before a reply leaves goes to the one thread that writes, and all that waits at that moment
shares a transaction (and so a disk flush). The rest is written once a second.

A batch is a handful of statements whatever its size: SQLite unpacks the rows from JSON. Python's
threads take turns at every statement, and under load a turn costs milliseconds.

Where a batch cannot be written, its boards are read again from the disk, their tickets are void,
and so they report again.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from .. import rollout as rules
from ..policy import Board, Known, Move, Tickets, Verdict
from ..rollout import Counts, Live, Rollout
from ..rollout_gate import moved
from . import queries, rollouts, statements
from .base import (
    FLUSH_SECONDS,
    REJECTIONS_KEPT,
    Reading,
    Storage,
    StorageError,
    apply,
    new_ticket,
)
from .migrate import Newer, migrate
from .statements import EVENTS_KEPT, OFFERS_KEPT, ORDERS_KEPT, Audit

T = TypeVar("T")
FLUSH_BOARDS = 1000
"""Written in one transaction at most, so that none keeps what is urgent waiting for long."""

# What is written of a board; the rest is never changed but by enrolling it again.
_FIXED = ("id", "app", "cls", "key", "dev", "enrolled")
_CHANGING = tuple(f.name for f in fields(Board) if f.name not in _FIXED)


def _from_json(table: str, columns: Sequence[str], verb: str = "INSERT") -> str:
    values = ", ".join(f"json_extract(j.value, '$[{n}]')" for n in range(len(columns)))
    return f"{verb} INTO {table} ({', '.join(columns)}) SELECT {values} FROM json_each(?) AS j"


def _prune(table: str, kept: int, more: str = "") -> str:
    """Delete what boards have too much of; the parameter lists the boards."""
    return (
        f"DELETE FROM {table} WHERE n IN (SELECT e.n FROM json_each(?) AS j JOIN {table} AS e"
        f" ON e.board = j.value WHERE e.n <= (SELECT n FROM {table} WHERE board = j.value{more}"
        f" ORDER BY n DESC LIMIT 1 OFFSET {kept}){more})"
    )


_UPDATE_BOARDS = (
    "UPDATE boards SET "
    + ", ".join(f"{name} = json_extract(j.value, '$[{n}]')" for n, name in enumerate(_CHANGING, 1))
    + " FROM json_each(?) AS j WHERE boards.id = json_extract(j.value, '$[0]')"
)
_INSERT_EVENTS = _from_json("events", ("board", "at", "kind", "seq", "digest", "reason", "text"))
_PRUNE_EVENTS = _prune("events", EVENTS_KEPT)
_INSERT_REJECTIONS = _from_json(
    "rejections", ("board", "digest", "reason", "soft", "trace", "at"), "INSERT OR REPLACE"
)
_PRUNE_REJECTIONS = (
    "DELETE FROM rejections WHERE (board, digest) IN (SELECT r.board, r.digest FROM json_each(?)"
    " AS j JOIN rejections AS r ON r.board = j.value WHERE r.at < (SELECT at FROM rejections"
    f" WHERE board = j.value ORDER BY at DESC LIMIT 1 OFFSET {REJECTIONS_KEPT - 1}))"
)
_FORGET = (
    "DELETE FROM rejections WHERE (board, digest) IN (SELECT json_extract(j.value, '$[0]'),"
    " json_extract(j.value, '$[1]') FROM json_each(?) AS j)"
)
_INSERT_ORDERS = _from_json("orders", ("n", "board", "text", "base", "given", "tries"))
_COUNT_ORDERS = "UPDATE orders SET tries = tries + 1 WHERE n IN (SELECT value FROM json_each(?))"
_END_ORDERS = (
    "UPDATE orders SET done = json_extract(j.value, '$[1]'),"
    " outcome = json_extract(j.value, '$[2]') FROM json_each(?) AS j"
    " WHERE orders.n = json_extract(j.value, '$[0]')"
)
_PRUNE_ORDERS = _prune("orders", ORDERS_KEPT, " AND done IS NOT NULL")
_INSERT_OFFERS = _from_json("offers", ("board", "digest", "at"))
_PRUNE_OFFERS = _prune("offers", OFFERS_KEPT)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Batch:
    """Rows that one transaction writes, by the statement that takes them."""

    boards: dict[str, list[Any]] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    rejections: list[Any] = field(default_factory=list)
    forgotten: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    ended: list[Any] = field(default_factory=list)
    offers: list[Any] = field(default_factory=list)
    audit: list[tuple[Audit, float]] = field(default_factory=list)
    moves: list[tuple[Move, float]] = field(default_factory=list)
    rollouts: dict[int, Live] = field(default_factory=dict)
    frozen: list[Live] = field(default_factory=list)

    def freeze(self) -> None:
        """Keep the rollouts as they are now: while they are written, memory goes on."""
        self.frozen = [replace(live) for live in self.rollouts.values()]

    def add(self, board: Board, verdict: Verdict, now: float) -> None:
        """What a verdict on `board` adds; the board has taken it in already."""
        name = board.id
        self.boards[name] = _row(board)
        for one in verdict.events:
            row = (name, now, one.kind, one.seq, one.digest, one.reason, one.text)
            self.events.append(row)
        bad = verdict.rejection
        if bad is not None:
            self.rejections.append((name, bad.digest, bad.reason, bad.soft, bad.trace, now))
        self.forgotten += [(name, digest) for digest in verdict.forgotten]
        self.given += [(one.n, name, one.text, one.base, now, 0) for one in verdict.given]
        self.sent += [one.n for one in verdict.orders]
        self.ended += [(one.n, now, how) for one, how in verdict.ended]
        if verdict.offer and verdict.release:
            self.offers.append((name, verdict.release.digest, now))

    def statements(self) -> Iterable[tuple[str, Any]]:
        """Those to run, in order, each with its rows."""
        yield _UPDATE_BOARDS, list(self.boards.values())
        yield _INSERT_EVENTS, self.events
        yield _INSERT_REJECTIONS, self.rejections
        yield _FORGET, self.forgotten
        yield _INSERT_ORDERS, self.given
        yield _COUNT_ORDERS, self.sent
        yield _END_ORDERS, self.ended
        yield _INSERT_OFFERS, self.offers
        names = list(self.boards)
        yield _PRUNE_EVENTS, names if self.events else ()
        yield _PRUNE_REJECTIONS, names if self.rejections else ()
        yield _PRUNE_ORDERS, names if self.ended else ()
        yield _PRUNE_OFFERS, names if self.offers else ()


def _row(board: Board) -> list[Any]:
    return [board.id, *(getattr(board, name) for name in _CHANGING)]


class SqliteStorage(Storage):
    """See `Storage`.

    Raises:
        RuntimeError: another server uses the folder, or a newer version of this program did.
        SQLAlchemyError, sqlite3.Error, OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._lives: dict[int, Live] = {}
        self._lines: dict[tuple[str, str, str], list[Live]] = {}
        self._lost_rollouts: set[int] = set()  # to be read again
        self._guard = _locked(folder / "server.lock")
        try:
            path = folder / "server.db"
            _make_private(path)
            self._engine = _engine(path, "BEGIN IMMEDIATE")
            self._reading = _engine(path, "BEGIN")
            migrate(self._engine, path)
            with self._engine.connect() as db:
                self.catalog = queries.catalog(db)
                self._boards = queries.known(db)
                self._take_in(rollouts.lives(db))
                self._last_order = queries.last_order(db)
        except BaseException as problem:
            self._guard.close()
            if isinstance(problem, Newer):
                raise RuntimeError("it was written by a newer mipy-ota") from problem
            raise
        self._lost: set[str] = set()  # boards to be read again
        self._dirty: dict[str, Known] = {}
        self._batch = _Batch()
        self._waiting: list[Known] = []
        self._commit: asyncio.Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "writer")
        self._turn = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._flushing = asyncio.create_task(self._flush_for_ever())

    async def close(self) -> None:
        if self._flushing:
            self._flushing.cancel()
        await self.settle()
        for threads in (self._readers, self._writer):
            threads.shutdown()
        self._reading.dispose()
        self._engine.dispose()
        self._guard.close()

    # --- boards, in memory ---

    async def known(self, board_id: str) -> Known | None:
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

    def rollouts_of(self, app: str, cls: str, channel: str) -> Sequence[Live]:
        return self._lines.get((app, cls, channel), ())

    def rollouts(self) -> list[Live]:
        return list(self._lives.values())

    async def steer(
        self,
        number: int,
        make: Callable[[Rollout, Counts], Rollout],
        now: float,
        moves: Sequence[Move] = (),
        audit: Audit | None = None,
    ) -> Rollout | None:
        if self._lost_rollouts:
            await self._read_rollouts_again()
        live = self._lives.get(number)
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
        if moves or after != live.rollout or audit:
            self._change_rollout(live, after)
            self._move(moves, now)
            if audit:
                self._batch.audit.append((audit, now))
            await self._committed()
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
        lines: dict[tuple[str, str, str], list[Live]] = defaultdict(list)
        for live in self._lives.values():
            lines[live.line].append(live)
        self._lines = dict(lines)
        self.epoch += 1

    async def _read_rollouts_again(self) -> None:
        lost = sorted(self._lost_rollouts)
        found = await self._in_writer(self._read_rollouts, lost)
        if self._lost_rollouts & set(lost):
            self._lost_rollouts -= set(lost)
            self._take_in(found)

    def _read_rollouts(self, numbers: Sequence[int]) -> list[Live]:
        with self._engine.connect() as db:
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
        self._batch, self._waiting, self._commit = _Batch(), [], None
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
            log.error("cannot write to the database: %s", problem)
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
            await self.settle()

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
        batch = _Batch({name: _row(known.board) for name, known in taken.items()})
        try:
            await self._in_writer(self._write_rows, batch)
        except StorageError as problem:
            log.error("cannot write to the database: %s", problem)
            self._dirty = taken | self._dirty
            return False
        return True

    def _write_rows(self, batch: _Batch) -> None:
        with self._engine.begin() as db:
            raw: sqlite3.Connection = db.connection.driver_connection  # type: ignore[assignment]
            for statement, rows in batch.statements():
                if rows:
                    raw.execute(statement, [orjson.dumps(rows).decode()])
            for move, now in batch.moves:
                rollouts.write_moves(db, [move], now)
            for live in batch.frozen:
                rollouts.save(db, live)
            for entry, now in batch.audit:
                statements.record(db, entry, now)

    def _read_known(self, ids: Sequence[str]) -> dict[str, Known]:
        with self._engine.connect() as db:
            return queries.known(db, ids)

    async def _in_writer(self, work: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, work, *args)
        except (SQLAlchemyError, sqlite3.Error, OSError) as problem:
            raise StorageError(str(problem)) from problem

    # --- people ---

    def _read(self, question: Reading[..., T], args: Sequence[Any]) -> T:
        try:
            with self._reading.connect() as db:
                return question(db, *args)
        except SQLAlchemyError as problem:
            raise StorageError(str(problem)) from problem

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
            last = max(self._lives | dict.fromkeys(self._lost_rollouts), default=0)
            result, found, new, started = await self._in_writer(
                self._change, change, args, audit, boards, last if catalog else None
            )
            for name in boards:
                self._boards.pop(name, None)
                self._dirty.pop(name, None)
            self._boards |= found
        for name in boards:
            self.changed(name)
        if new is not None:
            # Rollouts first: a release without one is for everybody.
            self._take_in(started)
            self.catalog = new
            self.epoch += 1
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
        with self._engine.begin() as db:
            result = change(db, *args)
            if audit:
                statements.record(db, audit, time.time())
            found = queries.known(db, boards) if boards else {}
            if after is None:
                return result, found, None, []
            return result, found, queries.catalog(db), rollouts.lives(db, after)


def _locked(path: Path) -> Any:
    """Keep other processes out; the lock goes with this one, however it ends."""
    guard = path.open("a")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        guard.close()
        raise RuntimeError("another server is using it") from problem
    os.chmod(path, 0o600)
    return guard


def _make_private(database: Path) -> None:
    """Let only the owner read the database, which holds the boards' keys, in any folder.

    SQLite gives the files that it makes beside it the same mode.
    """
    os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        path.chmod(0o600)


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _: Any) -> None:
        raw.isolation_level = None  # transactions begin where this program says so
        # Reports are acknowledged, so a commit must be on the disk: FULL, also in WAL mode.
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            raw.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def start(db: Connection) -> None:
        db.exec_driver_sql(begin)

    return engine
