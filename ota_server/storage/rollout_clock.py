"""What time does to rollouts: silence, soak, the next wave, the end. One clock a database."""

import asyncio
import logging
import time
from dataclasses import replace

from .. import policy
from .. import rollout as rules
from ..policy import Move
from ..rollout import Counts, Live, Rollout
from . import rollout_queries
from .base import Storage, StorageError
from .rollout_queries import OpenTarget, Standing

TICK_SECONDS = 1.0
REST = 20
"""The clock rests this many times as long as it worked: with a large fleet it ticks slower."""
log = logging.getLogger(__name__)


class Clock:
    """Drives the rollouts of one storage.

    Args:
        every: seconds between polls, where all boards have the same.
        now: seconds since 1970.
    """

    def __init__(self, storage: Storage, every: float | None, now: float) -> None:
        self._storage = storage
        self._every = every
        # While no server ran, nobody could be heard of.
        self._since = now
        self._failing: set[int] = set()

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            began = time.monotonic()
            try:
                await self.tick(time.time())
            except StorageError as problem:
                log.error("rollouts wait for the database: %s", problem)
            await asyncio.sleep(max(TICK_SECONDS, REST * (time.monotonic() - began)))

    async def tick(self, now: float) -> None:
        """Apply the rules to every rollout that is not over."""
        for live in self._storage.rollouts():
            if live.rollout.state not in ("running", "paused", "halted"):
                continue
            number = live.rollout.id
            try:
                await self._one(live, now)
                self._failing.discard(number)
            except StorageError:
                raise
            except Exception:
                # One rollout's defect must not stop the clock of all: they would never halt by
                # silence. Told once, as it comes back each second.
                if number not in self._failing:
                    self._failing.add(number)
                    log.exception("rollout %d has no clock", number)

    async def _one(self, live: Live, now: float) -> None:
        storage, number = self._storage, live.rollout.id
        release = storage.release(live.rollout.digest)
        if release is None or release.withdrawn is not None:
            await self._end(live, "cancelled", "the release was withdrawn", now)
        elif rules.superseded(live, storage.rollouts_of(*live.line).lives):
            await self._end(live, "superseded", "a newer release took its place", now)
        else:
            releases = storage.releases_of(live.app, live.cls)
            question = rollout_queries.standing
            of = storage.targets_of
            found: Standing = await storage.read(
                question, replace(live), release, releases, now, of
            )
            moves = [move for one in found.open if (move := self._overdue(live, one, now))]

            def make(rollout: Rollout, counts: Counts) -> Rollout:
                return rules.tick(rollout, counts, found.pending, found.waiting, now, found.absent)

            await storage.steer(number, make, now, moves)

    async def _end(self, live: Live, state: rules.State, why: str, now: float) -> None:
        def make(rollout: Rollout, counts: Counts) -> Rollout:
            return rules.steered(rollout, counts, state, why)

        await self._storage.steer(live.rollout.id, make, now)

    def _overdue(self, live: Live, one: OpenTarget, now: float) -> Move | None:
        """How an open target ends by the time, if it does."""
        number, board = live.rollout.id, one.board
        line = (board.app, board.cls, board.channel) if board else None
        if (
            board is None
            or board.retired is not None
            or line != live.line
            or board.enrolled > one.offered_at
        ):
            return Move(one.id, number, "offered", "void", reason="gone")
        if board.held:  # its app has the trial wait
            return None
        interval = self._every or (policy.DEV_INTERVAL if board.dev else policy.INTERVAL)
        since = max(one.offered_at, self._since)
        if rules.overdue(live.rollout, since, interval, now):
            return Move(one.id, number, "offered", "silent", reason="silent")
        return None
