"""MQTT for long, with a broker and a line that fail in every way: `make soak`.

A virtual ESP8266 counts up by QoS 1 and answers commands, while a real Mosquitto is killed,
paused, restarted, slowed, cut in mid-packet and made deaf. After each fault a command must come
back as an answer: no subscription is lost. In the end no number is missing that the board did not
count as dropped, and its heap is as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mipy_ota.tools.app import collect
from mipy_ota.tools.app.compile import modules
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet
from tests.support.broker import Broker, Client, Line, wait

SPEED = 5
BASE = "mipy/b1/"
FAULTS = ("kill", "pause", "restart", "slow", "cut", "deaf")
HEAP_MARGIN = 512  # bytes between the first and the last look at the free heap
BUCKET = 5  # ms
APP = """
import asyncio, gc
from array import array
from time import ticks_diff, ticks_ms
import runtime
from runtime.mqtt import Mqtt

def setup(app):
    mqtt = Mqtt(app)
    late = array("I", [0] * 201)
    n = 0

    def count():
        nonlocal n
        n += 1
        mqtt.publish("~/count", n, qos=1)

    job = app.every(500, count)

    def answer(topic, payload):
        if topic.endswith("/stop"):
            job.cancel()
        mqtt.publish("~/answer", payload, qos=1)

    mqtt.on("~/command/+", answer, 1)

    async def pulse():
        while True:
            begin = ticks_ms()
            await asyncio.sleep_ms(100)
            late[min(max(ticks_diff(ticks_ms(), begin) - 100, 0) // 5, 200)] += 1

    app.once(pulse)

    def tell():
        gc.collect()
        print("told", n, mqtt.dropped, gc.mem_free(), app.tallies["mqtt"])
        print("late", [(i, k) for i, k in enumerate(late) if k])

    app.every(10000, tell)

runtime.run(setup)
"""


def app(port: int, main: str = APP, host: str = "127.0.0.1", more: str = "") -> dict[str, bytes]:
    """The slot of an app that talks to the broker at `port`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "main.py").write_text(main)
        (folder / "config.py").write_text(
            f"NAME = 'kitchen'\nLOG_LEVEL = 1\nSERVER = ''\nPORTAL = 0\n"
            f"MQTT_HOST = '{host}'\nMQTT_PORT = {port}\n{more}"
        )
        sources = collect.collect(folder, True)
        return modules.compiled(sources, "esp8266-generic", True)


@dataclass
class Figures:
    """What a soak came to."""

    faults: Counter[str] = field(default_factory=Counter)
    published: int = 0
    delivered: int = 0
    twice: int = 0
    dropped: int = 0
    connections: int = 0
    heap: tuple[int, int] = (0, 0)
    p99: float = 0
    latest: float = 0
    starved: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.faults.items()))
        return (
            f"{sum(self.faults.values())} faults ({kinds}), {self.connections} connections\n"
            f"{self.published} published, {self.delivered} delivered ({self.twice} of them twice "
            f"or more), {self.dropped} dropped by the full queue\n"
            f"loop latency: p99 {self.p99:.0f} ms, at most {self.latest:.0f} ms "
            f"(board's time, {SPEED} times as fast as real)\n"
            f"free heap: {self.heap[0]} at the start, {self.heap[1]} at the end; "
            f"out of memory {self.starved} times"
        )


class Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self.broker = Broker(folder / "broker")
        self.line = Line(self.broker.port)
        self.watcher = Client(self.broker.port)
        self.seen: list[tuple[str, bytes]] = []
        release = fleet.release(app(self.line.port), 1000)
        self.board: VirtualBoard = fleet.prepared(
            folder / "board", fleet.identity(), release, speed=SPEED, clock="wall"
        )
        self.figures = Figures()
        self._asked = self._lives = 0

    def close(self) -> None:
        self.board.close()
        self.line.close()
        self.watcher.close()
        self.broker.close()

    def run(self, faults: int) -> Figures:
        """Make `faults` faults, each kind in turn, at random moments; raises AssertionError."""
        self.board.start()
        self.ask("first")
        assert self.board.wait("told", 60), self.board.console
        heap = int(self.told()[2])
        self._lives = len(self.board.lives)
        for n in range(faults):
            kind = FAULTS[n % len(FAULTS)]
            time.sleep(self._random.uniform(0, 0.6))
            getattr(self, kind)()
            self.figures.faults[kind] += 1
            self.ask(kind)
            if sys.stdout.isatty():
                print(f"\r{n + 1} {kind}      ", end="", flush=True)
        self.ask("stop", "stop")
        told = len(re.findall(r"^told", self.board.console, re.M))
        assert self.board.wait(lambda b: len(re.findall(r"^told", b.console, re.M)) > told + 1, 60)
        self._sum(heap)
        return self.figures

    def told(self) -> list[str]:
        return re.findall(r"^told (\d+) (\d+) (\d+) \[(\d+)", self.board.console, re.M)[-1]

    def ask(self, why: str, name: str = "x") -> None:
        """A command must come back, now or soon after."""
        self._asked += 1
        wanted = f"{self._asked}".encode()

        def answered() -> bool:
            with contextlib.suppress(OSError):
                self.watcher.publish(f"{BASE}command/{name}", wanted)
            return wait(lambda: wanted in self.watcher.payloads(BASE + "answer"), 0.5)

        assert wait(answered, 90), f"no answer after {why}\n{self.board.console[-2000:]}"

    def _sum(self, heap: int) -> None:
        figures = self.figures
        self._forget()
        numbers = [int(payload) for topic, payload in self.seen if topic == BASE + "count"]
        published, dropped, free, connections = map(int, self.told())
        figures.published, figures.dropped, figures.connections = published, dropped, connections
        figures.delivered = len(set(numbers))
        figures.twice = sum(n > 1 for n in Counter(numbers).values())
        figures.heap = heap, free
        figures.starved = self.board.console.count("MemoryError")
        late = re.findall(r"^late \[(.*)\]", self.board.console, re.M)[-1]
        samples = [(int(a), int(b)) for a, b in re.findall(r"\((\d+), (\d+)\)", late)]
        total, passed = sum(n for _, n in samples), 0
        for bucket, n in samples:
            passed += n
            if passed * 100 >= total * 99 and not figures.p99:
                figures.p99 = (bucket + 1) * BUCKET
        figures.latest = (samples[-1][0] + 1) * BUCKET
        missing = published - figures.delivered
        assert missing <= dropped, f"{missing} missing, {dropped} dropped"
        assert free >= heap - HEAP_MARGIN, f"free heap was {heap} and is {free}"
        assert not self.board.lives[self._lives :], self.board.console
        assert not figures.starved, self.board.console

    # --- the faults

    def _forget(self) -> None:
        """Keep what the watcher saw; its connection is over."""
        self.watcher.close()
        self.seen += [(topic, payload) for topic, payload, _ in self.watcher.messages]

    def _back(self) -> None:
        """The broker starts, and the watcher is there before the board."""
        time.sleep(self._random.uniform(0, 2))
        self._forget()
        self.broker.start()
        self.watcher = Client(self.broker.port)
        self.line.open = True

    def kill(self) -> None:
        self.line.open = False
        self.broker.signal(signal.SIGKILL)
        self._back()

    def restart(self) -> None:
        self.line.open = False
        self.broker.signal(signal.SIGTERM)
        self._back()

    def pause(self) -> None:
        self.broker.signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.2, 4))
        self.broker.signal(signal.SIGCONT)

    def slow(self) -> None:
        self.line.piece, self.line.pause = 7, 0.05
        time.sleep(self._random.uniform(0.5, 3))
        self.line.piece, self.line.pause = 4096, 0.0

    def cut(self) -> None:
        self.line.cut(self._random.randrange(1, 40))
        self.watcher.publish(BASE + "command/x", b"some bytes to cut in the middle of a packet")
        assert wait(lambda: self.line.whole, 30)

    def deaf(self) -> None:
        self.line.mute = True
        time.sleep(self._random.uniform(0.5, 4))
        self.line.cut()
        self.line.mute = False


def soak(folder: Path, faults: int, seed: int) -> Figures:
    """One soak; raises AssertionError when something is lost."""
    made = Soak(folder, seed)
    try:
        return made.run(faults)
    finally:
        made.close()


def main() -> None:
    """Run the whole of it and print the figures."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--faults", type=int, default=200)
    words.add_argument("--seed", type=int, default=1)
    given = words.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), given.faults, given.seed)
    print(f"\nseed {given.seed}: {figures}\n{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
