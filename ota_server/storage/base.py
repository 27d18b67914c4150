"""What the server remembers: the contract that SQLite and PostgreSQL fulfil alike.

1. A reply leaves only after what it acknowledges is on the disk: events, rejections, orders, and
   whom we told of which release.
2. What a report merely refreshes (heap, time, address) may be up to FLUSH_SECONDS late there, and
   be lost: a board without a valid ticket tells everything again.
3. A ticket counts once, whichever process gets it (policy.Tickets).
4. A release exists from the moment its row is committed, which is after all of its content is on
   the disk: a crash before leaves unused content, never half a release.
5. The counts of a rollout change with its targets, and a halt comes in the same transaction as the
   report that causes it: afterwards nobody new is offered the release.
6. Nothing here blocks the event loop: the database has threads of its own.
"""

import asyncio
import hashlib
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from ..policy import Board, Event, Known, Move, Release, Target, Verdict
from ..rollout import Counts, Live, Rollout
from ..rollout_gate import Line, moved
from . import rollouts, statements
from .content import Content
from .rollouts import Start
from .statements import Audit

FLUSH_SECONDS = 1.0
"""How long what need not survive a crash may stay in memory."""
RETRY_SECONDS = 10
"""After so long whoever got 503 may try again; boards wait longer by themselves."""
READERS = 2
"""Threads that answer people; two, so that one slow question does not hold up the next."""

P = ParamSpec("P")
T = TypeVar("T")
Reading = Callable[Concatenate[Connection, P], T]
log = logging.getLogger(__name__)


class StorageError(Exception):
    """The database cannot be used now; nothing of what was to be stored is there."""


class Away(StorageError):
    """There is no connection to the database; the log says so already."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What polls need of releases and trust files, in memory.

    Attributes:
        releases: by app and class, newest first.
        trust: version -> trust file.
        resets: version -> the seq that boards fall back to with it, if it says so.
    """

    releases: dict[tuple[str, str], list[Release]]
    trust: dict[int, bytes]
    resets: dict[int, int | None]

    @property
    def trust_version(self) -> int:
        """Number of the newest trust file, 0 when there is none."""
        return max(self.trust, default=0)

    def reset_between(self, old: int, new: int) -> int | None:
        """The lowest seq that trust files from `old` (excluded) to `new` make a board fall to."""
        found = [seq for n, seq in self.resets.items() if old < n <= new and seq is not None]
        return min(found, default=None)


class Storage(ABC):
    """Everything the server knows.

    Every method raises StorageError where the database cannot be used.

    Args:
        folder: for content; made when missing, for its owner only.

    Attributes:
        catalog: releases and trust files; replaced as a whole when something is published.
        epoch: grows whenever `catalog` is replaced or a rollout changes.
        watchers: are told the id of each board of which more has changed than heap and time.
        nudgers: are told the id of each board that a person wants to poll soon.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.files = Content(folder / "files")
        self.manifests = Content(folder / "manifests")
        self.catalog = Catalog({}, {}, {})
        self.epoch = 0
        self.watchers: list[Callable[[str], None]] = []
        self.nudgers: list[Callable[[str], None]] = []
        self._readers = ThreadPoolExecutor(READERS, "reader")

    # --- what differs between the databases ---

    @abstractmethod
    async def start(self) -> None:
        """Begin to serve; call it in the event loop."""

    @abstractmethod
    async def close(self) -> None:
        """Write what is pending and let go of the database."""

    @abstractmethod
    async def known(self, board_id: str) -> Known | None:
        """A board and what bears on the answer to its next poll. Not to be changed."""

    @abstractmethod
    async def take(
        self, known: Known, ticket: str, verdict: Verdict, peer: str, now: float
    ) -> str | None:
        """Use up the ticket and take in the verdict, both or neither.

        What it moves of a rollout may halt it; that comes with it.

        Args:
            known: as `known` returned it, and as the verdict was made from it.
            peer: the address that the poll came from.

        Returns:
            The next ticket; None when `ticket` has been used up meanwhile.
        """

    @abstractmethod
    async def stale(self, known: Known) -> str:
        """The ticket for the reply to a stale poll."""

    @abstractmethod
    async def amend(
        self,
        board_id: str,
        make: Callable[[Known], Verdict],
        now: float,
        audit: Audit | None = None,
    ) -> Verdict | None:
        """Change a board as people want it; None when there is no such board."""

    @abstractmethod
    def rollouts_of(self, app: str, cls: str, channel: str) -> Line:
        """The rollouts of one app, class and channel. Not to be changed."""

    @abstractmethod
    def rollouts(self) -> list[Live]:
        """Rollouts that are not over, and the last ones that are, oldest first.

        Not to be changed. The database has them all.
        """

    @abstractmethod
    def targets_of(self, board_id: str) -> Mapping[int, Target]:
        """A board's part in the last rollouts, by their numbers; for any thread."""

    @abstractmethod
    async def steer(
        self,
        number: int,
        make: Callable[[Rollout, Counts], Rollout],
        now: float,
        moves: Sequence[Move] = (),
        audit: Audit | None = None,
    ) -> Rollout | None:
        """Change a rollout, and what of the moves still holds; None when there is no such rollout.

        Args:
            make: given the rollout and its counts after the moves; what it raises is passed on,
                and nothing has changed.
            moves: of targets of this rollout. One whose target is in another state by now is left
                out.
        """

    @abstractmethod
    async def write(
        self,
        change: Reading[..., T],
        *args: Any,
        audit: Audit | None = None,
        boards: Sequence[str] = (),
        catalog: bool = False,
    ) -> T:
        """Run `change(connection, *args)` in one transaction, and return what it returns.

        Args:
            boards: that it adds, replaces or removes.
            catalog: it changes releases or trust files, or adds rollouts.
        """

    @abstractmethod
    def _read(self, question: Reading[..., T], args: Sequence[Any]) -> T:
        """Run `question(connection, *args)`; called in a thread."""

    @abstractmethod
    async def settle(self) -> None:
        """Return when everything that was taken in can be read by `read`."""

    def routine(self, known: Known, ticket: str, heap: int, up: int, peer: str, now: float) -> str:
        """Take in a report that changes nothing else, without a decision.

        Returns:
            The next ticket; "" where that cannot be done: use `take`.
        """
        return ""

    # --- what does not ---

    async def read(self, question: Reading[..., T], *args: Any) -> T:
        """What `question(connection, *args)` returns, asked in a thread."""
        await self.settle()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, question, args)

    async def board(self, board_id: str) -> Board | None:
        """One board, or None."""
        known = await self.known(board_id)
        return known and known.board

    def changed(self, board_id: str) -> None:
        """Tell the watchers; call it in the event loop."""
        for watcher in self.watchers:
            watcher(board_id)

    def nudge(self, board_id: str) -> None:
        """Have a board poll soon, where there is a way to it; call it in the event loop."""
        for nudger in self.nudgers:
            nudger(board_id)

    async def enrol(self, board: Board, audit: Audit | None = None) -> bool:
        """Add a board, or begin anew with one that was flashed again; its history stays.

        Returns:
            Whether it was known before.
        """
        return await self.write(statements.enrol, board, boards=[board.id], audit=audit)

    async def remove(self, board_id: str, audit: Audit | None = None) -> None:
        """Forget a board and its key. Its polls are those of a stranger from now on."""
        await self.write(statements.remove, board_id, boards=[board_id], audit=audit)

    async def note(self, board_id: str, event: Event, now: float) -> None:
        """Add to a board's history what people did."""
        await self.amend(board_id, lambda _: Verdict({}, [event]), now)

    def releases(self) -> list[Release]:
        """All releases, newest first."""
        every = [release for some in self.catalog.releases.values() for release in some]
        return sorted(every, key=lambda release: (-release.seq, release.app, release.cls))

    def releases_of(self, app: str, cls: str) -> list[Release]:
        """The releases of one app and class, newest first. Not to be changed."""
        return self.catalog.releases.get((app, cls), [])

    def release(self, digest: str) -> Release | None:
        """One release by its whole digest."""
        return next((found for found in self.releases() if found.digest == digest), None)

    def keep(self, digest: str, manifest: bytes, files: Iterable[bytes]) -> None:
        """Store a release's content durably; blocks. What is damaged is mended."""
        for plain in files:
            self.files.add(hashlib.sha256(plain).hexdigest(), plain)
        self.manifests.add(digest, manifest)

    async def publish(
        self,
        release: Release,
        manifest: bytes,
        files: Sequence[bytes],
        audit: Audit | None = None,
        start: Start | None = None,
    ) -> int | None:
        """Store a release, content first; afterwards it is there as a whole, or not at all.

        Args:
            start: how it goes out; None: to every board of its channels at once.

        Returns:
            The number of its rollout.

        Raises:
            Conflict: another release of this app and class has this seq.
        """
        await asyncio.to_thread(self.keep, release.digest, manifest, files)
        change = rollouts.publish
        args = release, start, release.published
        return await self.write(change, *args, catalog=True, audit=audit)

    async def withdraw(self, digest: str, now: float, audit: Audit | None = None) -> None:
        """Offer a release to no further board."""
        await self.write(statements.withdraw, digest, now, catalog=True, audit=audit)

    def trust(self, version: int | None = None) -> bytes | None:
        """A trust file, the newest one by default."""
        return self.catalog.trust.get(version or self.catalog.trust_version)

    async def add_trust(
        self,
        version: int,
        body: bytes,
        reset: int | None,
        now: float,
        audit: Audit | None = None,
    ) -> None:
        """Store a trust file for ever.

        Args:
            reset: the seq that boards fall back to at this version, if it says so.

        Raises:
            Conflict: there is one of this version.
        """
        change = statements.add_trust
        await self.write(change, version, now, reset, body, catalog=True, audit=audit)


REJECTIONS_KEPT = 32
"""Kept of one board, so that one gone wild fills no disk and slows no poll."""


def apply(
    known: Known, verdict: Verdict, now: float, number: Callable[[], int] | None = None
) -> None:
    """Bring what is known of a board up to date with a verdict.

    Args:
        now: seconds since 1970.
        number: gives the orders that the verdict adds their numbers.
    """
    board = known.board
    for name, value in verdict.changes.items():
        setattr(board, name, value)
    bad = verdict.rejection
    if bad is not None:
        known.rejected.pop(bad.digest, None)
        known.rejected[bad.digest] = bad
        while len(known.rejected) > REJECTIONS_KEPT:
            del known.rejected[next(iter(known.rejected))]
    for digest in verdict.forgotten:
        known.rejected.pop(digest, None)
    gone = {order.n for order, _ in verdict.ended}
    sent = {order.n for order in verdict.orders}
    known.orders = [
        replace(order, tries=order.tries + 1) if order.n in sent else order
        for order in known.orders
        if order.n not in gone
    ]
    known.targets = moved(known.targets, verdict.moves, now)
    if number is not None:
        verdict.given = [replace(order, n=number()) for order in verdict.given]
        known.orders += verdict.given


def new_ticket() -> str:
    """16 hex digits that nobody guesses."""
    return secrets.token_hex(8)
