"""A rollout among five virtual boards: a release that crashes halts at the canary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import apps, fleet
from tests.support.apps import BAD, BEGIN, HOURS, STEP
from tests.support.boards import Board

NAMES = [f"b{n}" for n in range(1, 6)]


class Five:
    """A server and five boards that run, all on release 1000."""

    def __init__(self, server: Running, boards: dict[str, Board]) -> None:
        self.server = server
        self.owner = client.Client(server.url, server.token)
        self.boards = boards
        self.seq = 1000

    def publish(self, source: str, canary: str) -> dict[str, Any]:
        """Publish the next release; returns its rollout."""
        self.seq += 1
        made = apps.release(source, self.seq)
        return self.owner.publish(made, canary=[canary], silence_s=3600)["rollout"]

    def until(self, board: str, holds: Any) -> None:
        """Let time pass for one board until that holds."""
        came = self.boards[board].wait(lambda _: holds(), HOURS, STEP)
        assert came, self.boards[board].console[-4000:]

    def polled(self, names: list[str]) -> None:
        """Let each of these boards poll twice."""
        for name in names:
            for _ in range(2):
                last = self.owner.board(name)["last_seen"]
                self.until(name, lambda n=name, at=last: self.owner.board(n)["last_seen"] != at)

    def state(self, number: int) -> str:
        """Of a rollout."""
        return self.owner.rollout(number)["state"]

    def untouched(self, number: int, canary: str) -> None:
        """Only the canary was ever told of it; the others poll, and run what they ran."""
        others = [name for name in NAMES if name != canary]
        self.polled(others)
        shown = self.owner.rollout(number)
        assert [one["board"] for one in shown["boards"]] == [canary]
        assert {one["id"] for one in shown["waiting"]} == set(others)
        assert {one["why"] for one in shown["waiting"]} == {"halted"}
        for name in others:
            assert f"begin {self.seq}\n" not in self.boards[name].console
            assert self.owner.board(name)["seq"] == 1000

    def page(self) -> str:
        """What a person sees in the browser."""
        with requests.Session() as session:
            session.post(self.server.url + "/login", data={"token": self.server.token}, timeout=30)
            return session.get(self.server.url + "/", timeout=30).text


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Five]:
    """Five boards that have polled."""
    folder: Path = tmp_path_factory.mktemp("five")
    with ExitStack() as stack:
        server = stack.enter_context(running(folder / "server", interval=5))
        known = fleet.Fleet(server)
        first = apps.release(apps.GOOD, 1000)
        boards: dict[str, Board] = {}
        for name in NAMES:
            board = known.board(folder / name, first, name, blocks=128, **apps.OWN)
            boards[name] = stack.enter_context(board)  # type: ignore[assignment]
        made = Five(server, boards)
        for name, board in boards.items():
            board.start()
            made.until(name, lambda n=name: made.owner.board(n)["seq"] == 1000)
        yield made


def test_release_that_crashes_halts_at_the_canary(five: Five) -> None:
    """By the canary's report, its traceback on the page."""
    bad, canary = BAD["raises"], "b1"
    number = five.publish(BEGIN + bad.source, canary)["id"]
    five.until(canary, lambda: five.state(number) == "halted")
    shown = five.owner.rollout(number)
    [board] = shown["boards"]
    assert (shown["why"], board["reason"]) == ("1 of 1 boards in the canary failed", bad.reason)
    assert bad.text in board["trace"]
    assert "ValueError: " in five.page() and "dust" in five.page()
    five.untouched(number, canary)
