"""What the server remembers: SQLite (WAL) for facts, a folder for content. No HTTP in here.

Content is stored by the SHA-256 of its plain bytes, deflated as boards take it, and never
overwritten. A release exists from the moment its row is committed, which happens after all of
its content is on the disk: a crash before leaves unused content, never half a release.

Most of a poll is worth keeping but not worth a disk flush. `put` collects such changes in memory,
`flush` writes them in one transaction; reads see both.
"""

import contextlib
import hashlib
import os
import sqlite3
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .policy import Bad, Board, Event, Order, Outcome, Release, title

WINDOW_BITS = 10
"""Deflate window of everything that boards fetch: 1 KB of RAM on the chip (docs/protocol.md)."""
EVENTS_KEPT = 500
REJECTIONS_KEPT = 32
ORDERS_KEPT = 50
"""Kept per board (of orders: ended ones), so that one gone wild fills no disk and slows no poll."""

_SCHEMA = """
CREATE TABLE boards (
  id TEXT PRIMARY KEY, name TEXT, app TEXT, cls TEXT, key BLOB, dev INTEGER, enrolled REAL,
  follow INTEGER, last_seen REAL, seq INTEGER, digest TEXT, state TEXT, confirmed TEXT,
  high INTEGER, heap INTEGER, up INTEGER, held INTEGER, progress TEXT, jobs TEXT, chip TEXT,
  boot INTEGER, fw TEXT, mpy TEXT, trust INTEGER, address TEXT, reason TEXT, trace TEXT,
  life TEXT, open INTEGER, wrong INTEGER
) WITHOUT ROWID;
CREATE TABLE releases (
  digest TEXT PRIMARY KEY, app TEXT, cls TEXT, seq INTEGER, floor INTEGER, note TEXT,
  total INTEGER, published REAL, withdrawn REAL, UNIQUE (app, cls, seq)
) WITHOUT ROWID;
CREATE TABLE rejections (
  board TEXT, digest TEXT, reason TEXT, soft INTEGER, trace TEXT, at REAL,
  PRIMARY KEY (board, digest)
) WITHOUT ROWID;
CREATE TABLE orders (
  n INTEGER PRIMARY KEY, board TEXT, text TEXT, base TEXT, given REAL, tries INTEGER DEFAULT 0,
  done REAL, outcome TEXT
);
CREATE INDEX orders_open ON orders (board) WHERE done IS NULL;
CREATE TABLE events (
  n INTEGER PRIMARY KEY, board TEXT, at REAL, kind TEXT, seq INTEGER, digest TEXT, reason TEXT,
  text TEXT
);
CREATE INDEX events_of ON events (board, n);
CREATE TABLE trust (version INTEGER PRIMARY KEY, at REAL, reset INTEGER, body BLOB);
PRAGMA user_version = 2;
"""
# What a server of an earlier version lacks, by that version.
_STEPS = {
    1: """
ALTER TABLE boards ADD COLUMN life TEXT DEFAULT '';
ALTER TABLE boards ADD COLUMN open INTEGER;
ALTER TABLE boards ADD COLUMN wrong INTEGER DEFAULT 0;
PRAGMA user_version = 2;
""",
}
_BOARD = tuple(f.name for f in fields(Board))
_BOARD_FLAGS = ("dev", "follow", "held")
_RELEASE = tuple(f.name for f in fields(Release))


class Conflict(Exception):
    """What is to be stored is there already, with other content; args[0] says what."""


class Content:
    """Files by the SHA-256 of their plain bytes, each deflated, write-once.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left_over in folder.glob(".new-*"):
            left_over.unlink()

    def add(self, name: str, plain: bytes) -> None:
        """Store `plain` under `name` (64 hex digits), durably, unless it is there."""
        final = self._folder / name
        if final.exists():
            return
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(deflate(plain))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, final)
        finally:
            os.unlink(temporary)
        _sync_folder(self._folder)

    def deflated(self, name: str) -> bytes | None:
        """The stored bytes, as boards fetch them; None when there is no such content."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def plain(self, name: str) -> bytes | None:
        """The content itself."""
        stored = self.deflated(name)
        return None if stored is None else zlib.decompress(stored, -WINDOW_BITS)


class Store:
    """Everything the server knows. Safe to call from several threads.

    Args:
        folder: the server's data folder, made when missing, for its owner only.

    Raises:
        RuntimeError: another server uses the folder, or a newer version of this program did.
        sqlite3.Error, OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.files = Content(folder / "files")
        self.manifests = Content(folder / "manifests")
        self._lock = threading.RLock()
        self._changes: dict[str, dict[str, Any]] = {}
        self._durable: list[tuple[str, float, Outcome]] = []
        self._releases: dict[tuple[str, str], list[Release]] = {}
        self._resets: dict[int, int | None] = {}
        _make_private(folder / "server.db")
        self._db = sqlite3.connect(
            folder / "server.db", check_same_thread=False, isolation_level=None, timeout=1
        )
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.OperationalError as problem:
            self._db.close()
            if "locked" in str(problem):
                raise RuntimeError("another server is using it") from problem
            raise

    def _prepare(self) -> None:
        # One process: releases are kept in memory too. Reports are acknowledged, so a commit must
        # be on the disk: FULL, also in WAL mode.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {setting}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > 1 + max(_STEPS):
            raise RuntimeError("it was written by a newer mipy-ota")
        if version == 0:
            self._db.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        while version in _STEPS:
            self._db.executescript(f"BEGIN;{_STEPS[version]}COMMIT;")
            version += 1
        for row in self._db.execute("SELECT * FROM releases ORDER BY seq DESC"):
            release = Release(**{name: row[name] for name in _RELEASE})
            self._releases.setdefault((release.app, release.cls), []).append(release)
        self._resets = dict(
            tuple(row) for row in self._db.execute("SELECT version, reset FROM trust")
        )

    def close(self) -> None:
        """Write what is pending and let go of the database."""
        self.flush()
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has SQLite roll back by itself
                    self._db.execute("ROLLBACK")
                raise

    # --- boards ---

    def enrol(self, board: Board) -> None:
        """Add a board, or begin anew with one that was flashed again; its history stays."""
        marks = ",".join("?" * len(_BOARD))
        with self._transaction() as db:
            self._changes.pop(board.id, None)
            db.execute(
                f"INSERT OR REPLACE INTO boards ({','.join(_BOARD)}) VALUES ({marks})",
                [getattr(board, name) for name in _BOARD],
            )
            db.execute("DELETE FROM rejections WHERE board = ?", [board.id])
            db.execute("DELETE FROM orders WHERE board = ? AND done IS NULL", [board.id])
            self._add_event(board.id, board.enrolled, Event("enrolled"))

    def board(self, board_id: str) -> Board | None:
        """One board, or None."""
        with self._lock:
            row = self._db.execute("SELECT * FROM boards WHERE id = ?", [board_id]).fetchone()
            return None if row is None else self._board(row)

    def boards(self) -> list[Board]:
        """All boards, by id."""
        with self._lock:
            return [
                self._board(row) for row in self._db.execute("SELECT * FROM boards ORDER BY id")
            ]

    def _board(self, row: sqlite3.Row) -> Board:
        board = Board(*row)
        flags = {name: bool(getattr(board, name)) for name in _BOARD_FLAGS}
        return replace(board, **flags | self._changes.get(board.id, {}))

    def follow(self, board_id: str, follow: bool, now: float) -> None:
        """Offer releases to this board, or leave it alone."""
        with self._transaction() as db:
            self._changes.get(board_id, {}).pop("follow", None)
            db.execute("UPDATE boards SET follow = ? WHERE id = ?", [follow, board_id])
            self._add_event(board_id, now, Event("follow" if follow else "hold"))

    def note(self, board_id: str, event: Event, now: float) -> None:
        """Add to a board's history what people did."""
        with self._transaction():
            self._add_event(board_id, now, event)

    # --- reports ---

    def put(self, board_id: str, outcome: Outcome, now: float) -> None:
        """Take in what a report changes; it is on the disk after the next `flush`."""
        with self._lock:
            changes = self._changes.setdefault(board_id, {})
            changes |= outcome.changes
            changes["last_seen"] = now
            if outcome.durable:
                self._durable.append((board_id, now, outcome))

    def flush(self, limit: int | None = None) -> bool:
        """Write pending changes in one transaction, events and rejections first.

        Args:
            limit: at most so many boards, so that one transaction does not hold up polls.

        Returns:
            True when more is pending.

        Raises:
            sqlite3.Error: nothing was written and what was pending is dropped. The caller must
                make boards report again.
        """
        with self._lock:
            if not (self._changes or self._durable):
                return False
            ids = [board_id for board_id, _, _ in self._durable]
            ids += list(self._changes)[:limit]
            try:
                with self._transaction() as db:
                    for board_id, now, outcome in self._durable:
                        self._write_outcome(db, board_id, now, outcome)
                    for board_id in dict.fromkeys(ids):
                        self._write_changes(db, board_id)
            except sqlite3.Error:
                self._changes.clear()
                raise
            finally:
                self._durable.clear()
            for board_id in ids:
                self._changes.pop(board_id, None)
            return bool(self._changes)

    def _write_changes(self, db: sqlite3.Connection, board_id: str) -> None:
        changes = self._changes.get(board_id)
        if changes:
            columns = ", ".join(f"{name} = ?" for name in changes)
            db.execute(f"UPDATE boards SET {columns} WHERE id = ?", [*changes.values(), board_id])

    def _write_outcome(
        self, db: sqlite3.Connection, board_id: str, now: float, outcome: Outcome
    ) -> None:
        for event in outcome.events:
            self._add_event(board_id, now, event)
        bad = outcome.rejection
        if bad is not None:
            db.execute(
                "INSERT OR REPLACE INTO rejections VALUES (?, ?, ?, ?, ?, ?)",
                [board_id, bad.digest, bad.reason, bad.soft, bad.trace, now],
            )
            db.execute(
                "DELETE FROM rejections WHERE board = ?1 AND digest NOT IN (SELECT digest FROM"
                " rejections WHERE board = ?1 ORDER BY at DESC LIMIT ?2)",
                [board_id, REJECTIONS_KEPT],
            )

    def _add_event(self, board_id: str, now: float, event: Event) -> None:
        self._db.execute(
            "INSERT INTO events (board, at, kind, seq, digest, reason, text)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [board_id, now, event.kind, event.seq, event.digest, event.reason, event.text],
        )
        self._db.execute(
            "DELETE FROM events WHERE board = ?1 AND n <= (SELECT n FROM events"
            " WHERE board = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)",
            [board_id, EVENTS_KEPT],
        )

    def events(self, board_id: str, after: int = 0) -> list[dict[str, Any]]:
        """A board's history, oldest first, from event number `after` on."""
        return self._rows(
            "SELECT n, at, kind, seq, digest, reason, text FROM events"
            " WHERE board = ? AND n > ? ORDER BY n",
            board_id,
            after,
        )

    def rejections(self, board_id: str) -> dict[str, Bad]:
        """What this board rejected, by (half) digest."""
        with self._lock:
            found = {
                row["digest"]: Bad(row["digest"], row["reason"], bool(row["soft"]), row["trace"])
                for row in self._db.execute(
                    "SELECT * FROM rejections WHERE board = ? ORDER BY at DESC LIMIT ?",
                    [board_id, REJECTIONS_KEPT],
                )
            }
            pending = (o.rejection for i, _, o in self._durable if i == board_id and o.rejection)
            return found | {bad.digest: bad for bad in pending}

    # --- orders ---

    def give(self, board_id: str, text: str, now: float) -> None:
        """Queue an order for a board, in the place of an equal one still open."""
        board = self.board(board_id)
        base = board.digest if board else ""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM orders WHERE board = ? AND text = ? AND done IS NULL", [board_id, text]
            )
            db.execute(
                "INSERT INTO orders (board, text, base, given) VALUES (?, ?, ?, ?)",
                [board_id, text, base, now],
            )
            self._add_event(board_id, now, Event("ordered", text=title(text)))

    def open_orders(self, board_id: str) -> list[Order]:
        """Orders whose effect has not been seen, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT n, text, base, tries FROM orders"
                " WHERE board = ? AND done IS NULL ORDER BY n",
                [board_id],
            )
            return [Order(*row) for row in rows]

    def sent(self, orders: Iterable[Order]) -> None:
        """Count that a reply carries these orders."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE orders SET tries = tries + 1 WHERE n = ?", [(order.n,) for order in orders]
            )

    def end(self, board_id: str, order: Order, result: str, now: float) -> None:
        """Note how an order ended."""
        with self._transaction() as db:
            db.execute(
                "UPDATE orders SET done = ?, outcome = ? WHERE n = ?", [now, result, order.n]
            )
            db.execute(
                "DELETE FROM orders WHERE board = ?1 AND done IS NOT NULL AND n <= (SELECT n FROM"
                " orders WHERE board = ?1 AND done IS NOT NULL ORDER BY n DESC LIMIT 1 OFFSET ?2)",
                [board_id, ORDERS_KEPT],
            )
            self._add_event(board_id, now, Event("order-ended", reason=result, text=order.title))
            if result == "done" and order.text.startswith("retry "):
                digest = order.text.removeprefix("retry ")
                db.execute(
                    "DELETE FROM rejections WHERE board = ? AND digest = ?", [board_id, digest]
                )

    # --- releases ---

    def releases_of(self, app: str, cls: str) -> list[Release]:
        """The releases of one app and class, newest first. Not to be changed."""
        return self._releases.get((app, cls), [])

    def releases(self) -> list[Release]:
        """All releases, newest first."""
        with self._lock:
            every = [release for some in self._releases.values() for release in some]
        return sorted(every, key=lambda release: (-release.seq, release.cls))

    def release(self, digest: str) -> Release | None:
        """One release by its whole digest."""
        return next((found for found in self.releases() if found.digest == digest), None)

    def publish(self, release: Release, manifest: bytes, files: Iterable[bytes]) -> None:
        """Store a release, content first; afterwards it is there as a whole, or not at all.

        Raises:
            Conflict: another release of this app and class has this seq.
        """
        for plain in files:
            self.files.add(hashlib.sha256(plain).hexdigest(), plain)
        self.manifests.add(release.digest, manifest)
        columns, marks = ",".join(_RELEASE), ",".join("?" * len(_RELEASE))
        with self._lock:
            try:
                self._db.execute(
                    f"INSERT INTO releases ({columns}) VALUES ({marks})",
                    [getattr(release, name) for name in _RELEASE],
                )
            except sqlite3.IntegrityError as problem:
                raise Conflict(f"seq {release.seq} is taken") from problem
            self._replace(release)

    def withdraw(self, release: Release, now: float) -> None:
        """Offer a release to no further board."""
        with self._lock:
            self._db.execute(
                "UPDATE releases SET withdrawn = ? WHERE digest = ?", [now, release.digest]
            )
            self._replace(replace(release, withdrawn=now))

    def _replace(self, release: Release) -> None:
        # A new list: readers in other threads keep the one they hold.
        place = (release.app, release.cls)
        others = [r for r in self._releases.get(place, []) if r.digest != release.digest]
        self._releases[place] = sorted([*others, release], key=lambda r: -r.seq)

    # --- trust ---

    @property
    def trust_version(self) -> int:
        """Number of the newest trust file, 0 when there is none."""
        return max(self._resets, default=0)

    def trust(self, version: int | None = None) -> bytes | None:
        """A trust file, the newest one by default."""
        with self._lock:
            row = self._db.execute(
                "SELECT body FROM trust WHERE version = ?", [version or self.trust_version]
            ).fetchone()
            return row and row["body"]

    def add_trust(self, version: int, body: bytes, reset: int | None, now: float) -> None:
        """Store a trust file for ever.

        Args:
            reset: the seq that boards fall back to at this version, if it says so.

        Raises:
            Conflict: there is one of this version.
        """
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO trust VALUES (?, ?, ?, ?)", [version, now, reset, body]
                )
            except sqlite3.IntegrityError as problem:
                raise Conflict(f"trust version {version} is stored already") from problem
            self._resets[version] = reset

    def reset_between(self, old: int, new: int) -> int | None:
        """The lowest seq that trust files from `old` (excluded) to `new` make a board fall to."""
        found = [seq for n, seq in self._resets.items() if old < n <= new and seq is not None]
        return min(found, default=None)

    def _rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(query, values)]


def deflate(plain: bytes) -> bytes:
    """Raw deflate with the window that a board has memory for."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -WINDOW_BITS)
    return packer.compress(plain) + packer.flush()


def _make_private(database: Path) -> None:
    """Let only the owner read the database, which holds the boards' keys, in any folder.

    SQLite gives the files that it makes beside it the same mode.
    """
    os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        path.chmod(0o600)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
