"""A rollout among five virtual boards: a bad release halts at the canary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.ota_server.storage.rollout_clock import Clock
from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import apps, fleet
from tests.support.apps import BAD, BEGIN, HOURS, LOOP, STEP
from tests.support.boards import Board

NAMES = [f"b{n}" for n in range(1, 6)]
NO_WIFI = BEGIN + "import network\nnetwork.WLAN(0).active(False)\nprint('no Wi-Fi')\n" + LOOP
SILENCE_S = 3600


class Five:
    """A server and five boards that run, all on release 1000."""

    def __init__(self, server: Running, boards: dict[str, Board]) -> None:
        self.server = server
        self.owner = client.Client(server.url, server.token)
        self.boards = boards
        self.seq = 1000

    def publish(self, source: str, canary: str) -> dict[str, Any]:
        """Publish the next release; returns its rollout when each board has polled since."""
        self.seq += 1
        made = apps.release(source, self.seq)
        rollout = self.owner.publish(made, canary=[canary], silence_s=SILENCE_S)["rollout"]
        self.poll(NAMES)
        return rollout

    def switch(self, on: list[str]) -> None:
        """Have these boards run, and no others: time is dear that five go through together."""
        for name, board in self.boards.items():
            if board.running and name not in on:
                board.stop()
            elif name in on and not board.running:
                board.start()

    def until(self, board: str, holds: Callable[[], bool]) -> None:
        """Let time pass until that holds."""
        came = self.boards[board].wait(lambda _: holds(), HOURS, STEP)
        assert came, self.boards[board].console[-4000:]

    def poll(self, names: list[str]) -> None:
        """Let each of these boards, and no others, poll twice."""
        self.switch(names)
        for _ in range(2):
            seen = [(name, self.owner.board(name)["last_seen"]) for name in names]
            for name, at in seen:
                self.until(name, lambda n=name, at=at: self.owner.board(n)["last_seen"] != at)

    def state(self, number: int) -> str:
        """Of a rollout."""
        return self.owner.rollout(number)["state"]

    def untouched(self, number: int, canary: str) -> None:
        """Only the canary was ever told of it; the others poll, and run what they ran."""
        others = [name for name in NAMES if name != canary]
        self.poll(others)
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


@pytest.mark.parametrize(("kind", "canary"), [("raises", "b1"), ("hangs", "b2")])
def test_bad_release_halts_at_the_canary(five: Five, kind: str, canary: str) -> None:
    """A crash and a hang: by the canary's report, its traceback on the page."""
    bad = BAD[kind]
    number = five.publish(BEGIN + bad.source, canary)["id"]
    five.switch([canary])
    five.until(canary, lambda: five.state(number) == "halted")
    shown = five.owner.rollout(number)
    [board] = shown["boards"]
    assert (shown["why"], board["reason"]) == ("1 of 1 board in the canary failed", bad.reason)
    assert bad.text in board["trace"]
    if bad.text:
        assert "ValueError: " in five.page() and "dust" in five.page()
    five.untouched(number, canary)


def test_release_that_takes_the_wifi_away_halts_by_silence(five: Five) -> None:
    """The canary says nothing more, and that is what halts it once the time is over."""
    canary = "b3"
    number = five.publish(NO_WIFI, canary)["id"]
    five.switch([canary])
    assert five.boards[canary].wait("no Wi-Fi", HOURS)
    assert five.state(number) == "running"
    five.switch([])
    ticking = Clock(five.server.storage, None, 0.0).tick(time.time() + SILENCE_S + 1)
    asyncio.run_coroutine_threadsafe(ticking, five.server._loop).result(60)
    shown = five.owner.rollout(number)
    assert (shown["state"], shown["counts"]["silent"]) == ("halted", 1)
    five.untouched(number, canary)
