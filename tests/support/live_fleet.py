"""A server and its boards, which poll as a test tells them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from mipy_ota.ota_server.storage.rollout_clock import Clock
from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running
from tests.server.test_server import SEQ, release
from tests.support import vectors
from tests.support.fake_board import FakeBoard

TRACE = 'File "main.py", line 7\nValueError: 3'


class Fleet:
    """A server and its boards, which poll as told."""

    def __init__(self, server: Running, boards: int) -> None:
        self.server = server
        self.owner = client.Client(server.url, server.token)
        self.owner.add_trust(vectors.first_trust())
        self.boards = {f"b{n}": FakeBoard(server.url, id=f"b{n}") for n in range(boards)}
        for board in self.boards.values():
            self.owner.enrol(board.file())
            board.boot()

    def publish(self, seq: int = SEQ, **rollout: Any) -> dict[str, Any]:
        found = self.owner.publish(release(seq)[1], **rollout)
        assert found["rollout"]["digest"] == found["digest"]
        return found["rollout"]

    def offered(self) -> dict[str, str]:
        """What every board is offered when it polls."""
        replies = {name: board.poll() for name, board in self.boards.items()}
        return {name: reply["m"] for name, reply in replies.items() if "m" in reply}

    def confirm(self, name: str, digest: str, seq: int = SEQ) -> None:
        board = self.boards[name]
        board.report |= {"seq": seq, "m": digest[:32]}
        board.boot()

    def fail(self, name: str, digest: str, soft: int = 0, why: str = "exception") -> dict[str, Any]:
        bad = {"m": digest[:32], "why": why, "soft": soft, "trace": TRACE}
        return self.boards[name].poll(bad=bad)

    def state(self, number: int) -> str:
        return self.owner.rollout(number)["state"]

    def tick(self, later: float = 0.0) -> None:
        """Let the clock tick, `later` seconds from now, in the server's loop."""
        clock = Clock(self.server.storage, None, 0.0)
        ticked = asyncio.run_coroutine_threadsafe(
            clock.tick(time.time() + later), self.server._loop
        )
        ticked.result(30)
