"""How many authenticated polls one server process answers, on SQLite: `make bench`.

Every poll carries a valid MAC and the ticket of the last reply; every reply's MAC is checked.
First at a fixed rate, which tells what a board waits, then as fast as it goes.
"""

import argparse
import asyncio
import hmac
import json
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection

from mipy_ota.ota_server import statements
from mipy_ota.ota_server.policy import Board
from mipy_ota.ota_server.sqlite_storage import SqliteStorage

RATE = 1000
BUSY = 64
"""Boards that poll without a pause, where the question is how much goes through."""
SERVER = (
    "import sys; from pathlib import Path; from mipy_ota.tools.fleet.serve import serve\n"
    "serve('127.0.0.1', int(sys.argv[1]), Path(sys.argv[2]), None)"
)


@dataclass
class Load:
    """What was seen: seconds from request to reply, and replies that were not counted."""

    waits: list[float] = field(default_factory=list)
    stale: int = 0


class Device:
    """A board that polls over a connection of its own."""

    def __init__(self, board_id: str, key: bytes) -> None:
        self.id = board_id
        self.key = key
        self.ticket = ""
        self._up = 0

    async def connect(self, port: int) -> None:
        """Open the connection."""
        self._port = port
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    async def reconnect_and_poll(self, load: Load) -> None:
        """One poll over a new connection, as the runtime does it; timed without connecting."""
        self._writer.close()
        await self.connect(self._port)
        await self.poll(load)

    async def report(self, load: Load) -> None:
        """One poll that tells of a rollback, which must be on the disk before it is answered."""
        bad = {"m": secrets.token_hex(16), "why": "exception", "soft": 0, "trace": "line\n" * 20}
        await self.poll(load, bad=bad)

    async def poll(self, load: Load, **more: object) -> None:
        """One poll, timed."""
        nonce, self._up = secrets.token_hex(8), self._up + 1
        said = {
            "id": self.id, "n": nonce, "k": self.ticket, "seq": 3630241, "m": "a1" * 16,
            "state": "ok", "heap": 21480, "up": self._up, **more,
        }  # fmt: skip
        body = json.dumps(said, separators=(",", ":")).encode()
        mac = hmac.digest(self.key, b"poll1\0" + body, "sha256").hex()
        head = f"POST /d/v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        start = time.perf_counter()
        self._writer.write(f"{head}ota-mac: {mac}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        headers = dict(line.split(": ") for line in answer.decode().split("\r\n")[1:-2])
        reply = await self._reader.readexactly(int(headers["content-length"]))
        load.waits.append(time.perf_counter() - start)
        sealed = b"reply1\0" + nonce.encode() + reply
        assert headers["ota-mac"] == hmac.digest(self.key, sealed, "sha256").hex()
        message = json.loads(reply)
        self.ticket = message["k"]
        load.stale += "stale" in message

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


Act = Callable[[Device, Load], Awaitable[None]]


async def at_rate(devices: list[Device], rate: int, seconds: float) -> Load:
    """`rate` polls a second, each due at its time whether or not earlier ones are answered."""
    load, tasks, start = Load(), [], time.perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(devices[number % len(devices)].poll(load)))
    await asyncio.gather(*tasks)
    return load


async def flat_out(devices: list[Device], seconds: float, act: Act = Device.poll) -> Load:
    """Every device acts again as soon as it is answered."""
    load, end = Load(), time.perf_counter() + seconds

    async def again(device: Device) -> None:
        while time.perf_counter() < end:
            await act(device, load)

    await asyncio.gather(*map(again, devices))
    return load


async def measure(port: int, devices: list[Device], seconds: float) -> dict[str, float]:
    """Connect, warm up, measure."""
    for device in devices:
        await device.connect(port)
    warm = Load()
    for device in devices:
        await device.poll(warm)
        await device.poll(warm)
    steady = await at_rate(devices, RATE, seconds)
    fast = await flat_out(devices[:BUSY], seconds)
    fresh = await flat_out(devices[:BUSY], seconds / 2, Device.reconnect_and_poll)
    reports = await flat_out(devices[:BUSY], seconds / 2, Device.report)
    for device in devices:
        device.close()
    assert steady.stale + fast.stale + fresh.stale + reports.stale == 0
    return {
        "boards": len(devices),
        "rate": RATE,
        "p50_ms": milliseconds(steady, 50),
        "p99_ms": milliseconds(steady, 99),
        "max_ms": round(1000 * max(steady.waits), 2),
        "polls_per_second": round(len(fast.waits) / seconds),
        "polls_per_second_p99_ms": milliseconds(fast, 99),
        "new_connections_per_second": round(len(fresh.waits) / seconds * 2),
        "rollback_reports_per_second": round(len(reports.waits) / seconds * 2),
        "rollback_reports_p99_ms": milliseconds(reports, 99),
    }


def milliseconds(load: Load, percent: int) -> float:
    """What so many percent of the polls did not exceed."""
    return round(1000 * statistics.quantiles(load.waits, n=100)[percent - 1], 2)


def run(count: int, seconds: float) -> dict[str, float]:
    """Figures of a server of its own, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        devices = enrolled(data, count)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port), str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"MIPY_HOME": folder, "PATH": ""},
            text=True,
        ) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                return asyncio.run(measure(port, devices, seconds))
            finally:
                server.terminate()


def enrolled(data: Path, count: int) -> list[Device]:
    """`count` boards in the server's database."""
    devices = [Device(f"bench-{n:05}", secrets.token_bytes(32)) for n in range(count)]
    boards = [
        Board(device.id, "", "weather", "esp8266-generic", device.key, False, 0.0)
        for device in devices
    ]
    asyncio.run(_enrol(data, boards))
    return devices


async def _enrol(data: Path, boards: list[Board]) -> None:
    def all_at_once(db: Connection) -> None:
        for board in boards:
            statements.enrol(db, board)

    storage = SqliteStorage(data)
    await storage.write(all_at_once)
    await storage.close()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = run(asked.boards, asked.seconds)
    if asked.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<32}{value:>10}")


if __name__ == "__main__":
    main()
