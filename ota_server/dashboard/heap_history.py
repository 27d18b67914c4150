"""Free heap of each board over the last day: in memory, sampled beside the polls and not by them.

Every five minutes one query takes what boards told since the last one, so a poll costs what it did.
A restart begins anew.
"""

import asyncio
import logging
import time
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, select

from ..storage.base import Storage, StorageError
from ..storage.model import boards

SAMPLE_SECONDS = 300.0
POINTS = 288
"""Of a board: a day. With their times they take 2.3 KB."""
BOARDS = 10_000
"""Of which samples are kept; further ones have none."""
MOST_BYTES = 2**32 - 1
WIDTH, HEIGHT = 600.0, 100.0
"""Of the curve, in its own units."""
_log = logging.getLogger(__name__)


class Curve(NamedTuple):
    """A board's samples as a picture.

    Attributes:
        path: the `d` of an SVG path in a box of WIDTH x HEIGHT, whose bottom is no free heap.
        start, end: times of the first and the last sample (seconds since 1970).
        least, most: bytes.
    """

    path: str
    start: float
    end: float
    least: int
    most: int


class HeapHistory:
    """The samples."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._samples: dict[str, array[int]] = {}  # board -> time, bytes, time, bytes, ...
        self._since = 0.0

    async def run(self) -> None:
        """Take samples for ever, of what boards tell from now on."""
        self._since = time.time()
        while True:
            try:
                await self.sample()
            except StorageError as problem:
                _log.warning("no sample of boards' heap: %s", problem)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def sample(self) -> None:
        """Take what boards have told since the last sample."""
        self.keep(await self._storage.read(_told, self._since))

    def keep(self, told: Iterable[tuple[str, float, int]]) -> None:
        """Keep what boards told: (board, when, free bytes)."""
        for board, at, heap in told:
            self._since = max(self._since, at)
            mine = self._samples.get(board)
            if mine is None:
                if len(self._samples) >= BOARDS:
                    continue
                mine = self._samples[board] = array("I")
            if len(mine) >= 2 * POINTS:
                del mine[:2]
            mine.extend((int(at), min(heap, MOST_BYTES)))

    def curve(self, board: str) -> Curve | None:
        """A board's samples; None while there are fewer than two."""
        mine = self._samples.get(board, array("I"))[:]  # pages are made in threads
        times, heaps = mine[::2], mine[1::2]
        if len(times) < 2 or times[0] == times[-1]:
            return None
        start, end, most = times[0], times[-1], max(1, *heaps)
        corners = (
            f"{(at - start) * WIDTH / (end - start):.1f} {HEIGHT - heap * HEIGHT / most:.1f}"
            for at, heap in zip(times, heaps, strict=True)
        )
        return Curve("M" + "L".join(corners), start, end, min(heaps), most)


def _told(db: Connection, since: float) -> list[tuple[str, float, int]]:
    b = boards.c
    new = select(b.id, b.last_seen, b.heap).where(b.last_seen > since, b.retired.is_(None))
    return [(board, at, heap) for board, at, heap in db.execute(new)]
