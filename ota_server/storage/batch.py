"""What polls and people change of boards, in one transaction: for SQLite and PostgreSQL alike.

A batch is a handful of statements whatever its size: the database unpacks the rows from JSON.
Python's threads take turns at every statement, and under load a turn costs milliseconds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import orjson
from sqlalchemy import Column

from ..policy import Board, Move, Verdict
from ..rollout import Live
from .base import REJECTIONS_KEPT
from .model import metadata
from .statements import EVENTS_KEPT, OFFERS_KEPT, ORDERS_KEPT, Audit

# What is written of a board; the rest is never changed but by enrolling it again.
_FIXED = ("id", "app", "cls", "key", "dev", "enrolled")
_CHANGING = tuple(f.name for f in fields(Board) if f.name not in _FIXED)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database unpacks JSON, an array of rows that are arrays of values.

    Attributes:
        rows: the parameter as a table `j` with a column `value`.
        item: the value for a column, by its place in the row.
    """

    rows: str
    item: Callable[[int, Column[Any]], str]


class Statements:
    """SQL of one dialect; each statement takes its rows as JSON."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.update_boards = self._set("boards", "id", _CHANGING)
        self.insert_events = self._insert(
            "events", ("board", "at", "kind", "seq", "digest", "reason", "text")
        )
        self.insert_rejections = self._insert(
            "rejections", ("board", "digest", "reason", "soft", "trace", "at")
        ) + (
            " WHERE true ON CONFLICT (board, digest) DO UPDATE SET reason = excluded.reason,"
            " soft = excluded.soft, trace = excluded.trace, at = excluded.at"
        )
        self.forget = (
            "DELETE FROM rejections WHERE (board, digest) IN (SELECT"
            f" {self._items('rejections', ('board', 'digest'))} FROM {dialect.rows})"
        )
        self.insert_orders = self._insert(
            "orders", ("n", "board", "text", "base", "given", "tries")
        )
        number = self._items("orders", ("n",))
        self.count_orders = (
            f"UPDATE orders SET tries = tries + 1 WHERE n IN (SELECT {number} FROM {dialect.rows})"
        )
        self.end_orders = self._set("orders", "n", ("done", "outcome"))
        self.insert_offers = self._insert("offers", ("board", "digest", "at"))
        self.prune_events = self._prune("events", EVENTS_KEPT)
        self.prune_orders = self._prune("orders", ORDERS_KEPT, " AND done IS NOT NULL")
        self.prune_offers = self._prune("offers", OFFERS_KEPT)
        board = self._items("rejections", ("board",))
        self.prune_rejections = (
            "DELETE FROM rejections WHERE (board, digest) IN (SELECT r.board, r.digest FROM"
            f" {dialect.rows} JOIN rejections AS r ON r.board = {board} WHERE r.at < (SELECT at"
            f" FROM rejections WHERE board = {board} ORDER BY at DESC"
            f" LIMIT 1 OFFSET {REJECTIONS_KEPT - 1}))"
        )

    def _items(self, table: str, columns: Sequence[str]) -> str:
        there = metadata.tables[table].c
        return ", ".join(self._dialect.item(n, there[name]) for n, name in enumerate(columns))

    def _insert(self, table: str, columns: Sequence[str]) -> str:
        values = self._items(table, columns)
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {self._dialect.rows}"
        )

    def _set(self, table: str, key: str, columns: Sequence[str]) -> str:
        """The row begins with the key."""
        there, item = metadata.tables[table].c, self._dialect.item
        values = ", ".join(f"{name} = {item(n, there[name])}" for n, name in enumerate(columns, 1))
        mine = f"{table}.{key} = {item(0, there[key])}"
        return f"UPDATE {table} SET {values} FROM {self._dialect.rows} WHERE {mine}"

    def _prune(self, table: str, kept: int, more: str = "") -> str:
        """Delete what boards have too much of; the rows list the boards."""
        board = self._items(table, ("board",))
        return (
            f"DELETE FROM {table} WHERE n IN (SELECT e.n FROM {self._dialect.rows} JOIN {table}"
            f" AS e ON e.board = {board} WHERE e.n <= (SELECT n FROM {table} WHERE board ="
            f" {board}{more} ORDER BY n DESC LIMIT 1 OFFSET {kept}){more})"
        )


@dataclass(slots=True)
class Batch:
    """Rows that one transaction writes, by the statement that takes them."""

    boards: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    events: list[Any] = field(default_factory=list[Any])
    rejections: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    forgotten: dict[tuple[str, str], None] = field(default_factory=dict[tuple[str, str], None])
    given: list[Any] = field(default_factory=list[Any])
    sent: list[int] = field(default_factory=list[int])
    ended: list[Any] = field(default_factory=list[Any])
    offers: list[Any] = field(default_factory=list[Any])
    audit: list[tuple[Audit, float]] = field(default_factory=list[tuple[Audit, float]])
    moves: list[tuple[Move, float]] = field(default_factory=list[tuple[Move, float]])
    rollouts: dict[int, Live] = field(default_factory=dict[int, Live])
    frozen: list[Live] = field(default_factory=list[Live])

    def freeze(self) -> None:
        """Keep the rollouts as they are now: while they are written, memory goes on."""
        self.frozen = [replace(live) for live in self.rollouts.values()]

    def add(self, board: Board, verdict: Verdict, now: float) -> None:
        """What a verdict on `board` adds; the board has taken it in already."""
        name = board.id
        self.boards[name] = row(board)
        for one in verdict.events:
            self.events.append((name, now, one.kind, one.seq, one.digest, one.reason, one.text))
        bad = verdict.rejection
        if bad is not None:
            said = (name, bad.digest, bad.reason, bad.soft, bad.trace, now)
            self.rejections[name, bad.digest] = said
            self.forgotten.pop((name, bad.digest), None)
        for digest in verdict.forgotten:
            self.rejections.pop((name, digest), None)
            self.forgotten[name, digest] = None
        self.given += [(one.n, name, one.text, one.base, now, 0) for one in verdict.given]
        self.sent += [one.n for one in verdict.orders]
        self.ended += [(one.n, now, how) for one, how in verdict.ended]
        if verdict.offer and verdict.release:
            self.offers.append((name, verdict.release.digest, now))

    def statements(self, sql: Statements) -> Iterable[tuple[str, list[Any]]]:
        """Those to run, in order, each with its rows."""
        names = [[name] for name in self.boards]
        every = (
            (sql.update_boards, list(self.boards.values())),
            (sql.insert_events, self.events),
            (sql.insert_rejections, list(self.rejections.values())),
            (sql.forget, list(self.forgotten)),
            (sql.insert_orders, self.given),
            (sql.count_orders, [[n] for n in self.sent]),
            (sql.end_orders, self.ended),
            (sql.insert_offers, self.offers),
            (sql.prune_events, names if self.events else []),
            (sql.prune_rejections, names if self.rejections else []),
            (sql.prune_orders, names if self.ended else []),
            (sql.prune_offers, names if self.offers else []),
        )
        return ((statement, rows) for statement, rows in every if rows)


def row(board: Board) -> list[Any]:
    """A board for `Statements.update_boards`."""
    return [board.id, *(getattr(board, name) for name in _CHANGING)]


def encoded(rows: list[Any]) -> bytes:
    """Rows as JSON. No database takes a NUL out of that."""
    made = orjson.dumps(rows)
    if b"\\u0000" in made:
        made = orjson.dumps([[without_nul(item) for item in row] for row in rows])
    return made


def without_nul(item: Any) -> Any:
    """The same, where it is no text with a NUL in it."""
    return item.replace("\0", "\ufffd") if isinstance(item, str) else item
