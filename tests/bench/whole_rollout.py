"""A whole rollout to 10,000 boards that poll: its time, what polls cost, what a halt bounds.

    python -m tests.bench.whole_rollout [--boards N] [--rounds N]

The server has one core, the boards the other (`tests.bench.server`). First the boards only poll,
at RATE a second. Then a release goes out as the server plans it, without soak; who is told of it
confirms it INSTALL_S later. Then one goes out that fails on every board, and halts. The polls of
the first part and those of the second differ in nothing but the rollout, so their ratio says what
it costs, on a busy machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import requests
import uvloop

from mipy_ota.ota_server.policy import Release
from mipy_ota.ota_server.storage import rollouts
from mipy_ota.ota_server.storage.rollouts import Start
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from tests.bench.server import (
    BOARDS,
    CONNECTIONS,
    RATE,
    SERVER,
    Device,
    Generator,
    Load,
    Process,
    enrolled,
    free_port,
    linked,
    running,
)

INSTALL_S = 1.0
LOOK_S = 0.25
"""Between two looks at the rollout."""
PATIENCE_S = 1800.0
RELEASES = (3_630_242, 3_630_243)
FAILED = {"why": "exception", "soft": 0, "trace": "line\n" * 20}


class Board(Device):
    """A board that takes what it is told of, or fails it."""

    def __init__(self, number: int, key: bytes, course: Course) -> None:
        super().__init__(number)
        self.key = key
        self.says: dict[str, Any] = {}
        self.once: dict[str, Any] = {}
        self.course = course

    def request(self, **more: object) -> tuple[bytes, str]:
        request, nonce = super().request(**self.says, **self.once, **more)
        self.course.asked(nonce)
        return request, nonce

    def accept(self, nonce: str, mac: str, body: bytes) -> bool:
        counted = super().accept(nonce, mac, body)
        if counted:
            self.once = {}
            named = orjson.loads(body).get("m", "")
            if named and named[:32] != self.says.get("m"):
                self.course.told(self, named, nonce)
        return counted


class Course:
    """What becomes of a release that boards are told of."""

    def __init__(self) -> None:
        self.generator: Generator | None = None
        self.seq = 0
        self.bad = False
        self.reached: set[str] = set()
        self.halted = False
        self.named_after_the_halt = 0
        self._late: set[str] = set()

    def begin(self, seq: int, bad: bool) -> None:
        """Another release goes out."""
        self.seq, self.bad, self.reached = seq, bad, set()

    def asked(self, nonce: str) -> None:
        """A poll leaves."""
        if self.halted:
            self._late.add(nonce)

    def told(self, board: Board, digest: str, nonce: str) -> None:
        """The reply to a poll names a release."""
        self.named_after_the_halt += nonce in self._late
        if board.id not in self.reached:
            self.reached.add(board.id)
            asyncio.get_running_loop().call_later(INSTALL_S, self._report, board, digest[:32])

    def _report(self, board: Board, short: str) -> None:
        if self.bad:
            board.once = {"bad": {"m": short, **FAILED}}
        else:
            board.says = {"seq": self.seq, "m": short}
        assert self.generator
        self.generator.ask(board.request, board)


class Fleet:
    """The boards, and the server that they ask."""

    def __init__(self, process: Process, token: str, boards: list[Board], course: Course) -> None:
        self.process, self.boards, self.course = process, boards, course
        self._session = requests.Session()
        self._session.headers["authorization"] = f"Bearer {token}"
        self._url = f"http://127.0.0.1:{process.port}/api/v1/rollouts/"

    def _ask(self, number: int, action: str = "") -> dict[str, Any]:
        url = f"{self._url}{number}"
        said = (
            self._session.post(url, json={"action": action}) if action else self._session.get(url)
        )
        said.raise_for_status()
        return said.json()

    async def poll(self) -> tuple[Load, float]:
        """All of them poll once; returns also the server's CPU time."""
        assert self.course.generator
        polls = [(board.request, board) for board in self.boards]
        before = self.process.cpu()
        load = await self.course.generator.at_rate(polls, RATE, len(polls) / RATE)
        return load, self.process.cpu() - before

    async def until(self, number: int, states: tuple[str, ...]) -> dict[str, Any]:
        """Look at a rollout until it is in one of these states."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                shown = await asyncio.to_thread(self._ask, number)
                if shown["state"] in states:
                    return shown
                await asyncio.sleep(LOOK_S)

    async def roll_out(self, number: int) -> dict[str, object]:
        """Start a rollout, and have the boards poll until it ends."""
        started = time.monotonic()
        await asyncio.to_thread(self._ask, number, "start")
        end = asyncio.create_task(self.until(number, ("done", "halted")))
        loads: list[Load] = []
        cpu = 0.0
        while not end.done():
            load, seconds = await self.poll()
            loads.append(load)
            cpu += seconds
        shown = end.result()
        return _cost(loads, cpu) | {
            "state": shown["state"],
            "seconds": round(time.monotonic() - started, 1),
            "counts": shown["counts"],
        }


def _cost(loads: list[Load], cpu: float) -> dict[str, object]:
    waits = [wait for load in loads for wait in load.waits]
    parts = statistics.quantiles(waits, n=100)
    return {
        "poll_cpu_us": round(1e6 * cpu / len(waits), 1),
        "p50_ms": round(1000 * parts[49], 1),
        "p99_ms": round(1000 * parts[98], 1),
    }


async def _drafts(data: Path) -> None:
    """Two releases, each with its rollout, which a person has yet to start."""
    storage = SqliteStorage(data)
    for seq in RELEASES:
        at = f"{seq:064x}"[::-1], "weather", "esp8266-generic", seq, 0, "-", 9, 0.0
        wanted = Start(soak_s=0, draft=True)
        await storage.write(rollouts.publish, Release(*at), wanted, time.time(), catalog=True)
    await storage.close()


async def measure(folder: Path, count: int, rounds: int) -> dict[str, object]:
    """All figures."""
    data, port, course = folder / "data", free_port(), Course()
    known = await enrolled(data, count)
    boards = [Board(n, device.key, course) for n, device in enumerate(known)]
    await _drafts(data)
    command = [sys.executable, "-c", SERVER, str(port), str(data)]
    with running(["env", f"MIPY_HOME={folder}", *command], port) as process:
        course.generator = Generator(await linked(port, CONNECTIONS))
        token = next(folder.glob("*/token")).read_text().strip()
        fleet = Fleet(process, token, boards, course)
        for _ in range(2):  # tickets
            await fleet.poll()
        quiet = [await fleet.poll() for _ in range(rounds)]
        found: dict[str, object] = {"boards": count, "polls_per_second": RATE}
        found["quiet"] = _cost([load for load, _ in quiet], sum(cpu for _, cpu in quiet))

        course.begin(RELEASES[0], bad=False)
        found["whole_rollout"] = await fleet.roll_out(1)

        course.begin(RELEASES[1], bad=True)
        halting = asyncio.create_task(fleet.until(2, ("halted",)))

        def halted(_: object) -> None:
            course.halted = True

        halting.add_done_callback(halted)
        found["halted_rollout"] = await fleet.roll_out(2)
        at_halt = sum((await halting)["counts"].values())
        await fleet.poll()  # everybody asks once more
        shown = await fleet.until(2, ("halted",))
        assert course.named_after_the_halt == 0, course.named_after_the_halt
        found["told_at_halt_and_in_all"] = [at_halt, len(course.reached)]
        found["in_flight_limit"] = shown["in_flight"]
        assert len(course.reached) == sum(shown["counts"].values())
        assert len(course.reached) <= at_halt + shown["in_flight"]
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=BOARDS)
    parser.add_argument("--rounds", type=int, default=2, help="of polls before the rollouts")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        work = measure(Path(folder), asked.boards, asked.rounds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(work)
    for name, value in figures.items():
        print(f"{name:<26}{json.dumps(value)}")


if __name__ == "__main__":
    main()
