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
from dataclasses import dataclass, field
from pathlib import Path

from mipy_ota.ota_server.policy import Board
from mipy_ota.ota_server.store import Store

RATE = 1000
SERVER = (
    "import sys; from pathlib import Path; from mipy_ota.tools.serve import serve\n"
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
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    async def poll(self, load: Load) -> None:
        """One poll, timed."""
        nonce, self._up = secrets.token_hex(8), self._up + 1
        said = {
            "id": self.id, "n": nonce, "k": self.ticket, "seq": 3630241, "m": "a1" * 16,
            "state": "ok", "heap": 21480, "up": self._up,
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


async def at_rate(devices: list[Device], rate: int, seconds: float) -> Load:
    """`rate` polls a second, each due at its time whether or not earlier ones are answered."""
    load, tasks, start = Load(), [], time.perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(devices[number % len(devices)].poll(load)))
    await asyncio.gather(*tasks)
    return load


async def flat_out(devices: list[Device], seconds: float) -> Load:
    """Every device polls again as soon as it is answered."""
    load, end = Load(), time.perf_counter() + seconds

    async def again(device: Device) -> None:
        while time.perf_counter() < end:
            await device.poll(load)

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
    fast = await flat_out(devices[:64], seconds)
    for device in devices:
        device.close()
    assert steady.stale + fast.stale == 0
    return {
        "boards": len(devices),
        "rate": RATE,
        "p50_ms": round(1000 * statistics.median(steady.waits), 2),
        "p99_ms": round(1000 * statistics.quantiles(steady.waits, n=100)[98], 2),
        "max_ms": round(1000 * max(steady.waits), 2),
        "flat_out_polls_per_second": round(len(fast.waits) / seconds),
        "flat_out_p99_ms": round(1000 * statistics.quantiles(fast.waits, n=100)[98], 2),
    }


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
    store = Store(data)
    devices = [Device(f"bench-{n:05}", secrets.token_bytes(32)) for n in range(count)]
    for device in devices:
        store.enrol(Board(device.id, "", "weather", "esp8266-generic", device.key, False, 0.0))
    store.close()
    return devices


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
        print(f"{name:<26}{value:>10}")


if __name__ == "__main__":
    main()
