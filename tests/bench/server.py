"""What the server costs, measured against nginx in the same run: `make bench`.

The server has one core, the load generator the other. 10,000 boards poll; every poll carries a
valid MAC and the ticket of the last reply, and every reply's MAC is checked. nginx, one worker on
the server's core, gives out a file of a reply's size to the same generator.

Costs are of a request at RATE a second, and are CPU time by the kernel's count, so that they say
something on a busy machine too. Waits and rates are what the clock says: on an idle machine only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import secrets
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import orjson
import requests
import uvloop
from sqlalchemy import insert

from mipy_ota.ota_server.policy import Board
from mipy_ota.ota_server.storage import model
from mipy_ota.ota_server.storage.sqlite import SqliteStorage

BOARDS = 10_000
RATE = 1000
CONNECTIONS = 1000
STORM = 5000
"""Connections that open at once."""
PATIENCE = 60.0
SERVER = (
    "import sys; from pathlib import Path; from mipy_ota.tools.fleet.serve import serve\n"
    "serve('127.0.0.1', int(sys.argv[1]), Path(sys.argv[2]), None)"
)
NGINX = """
daemon off; master_process off; worker_processes 1; error_log stderr crit; pid {folder}/pid;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 1000000000; default_type text/plain;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""
Ask = tuple[Callable[[], tuple[bytes, str]], "Device | None"]
TICK = os.sysconf("SC_CLK_TCK")


class Device:
    """A board, and what it says next."""

    def __init__(self, number: int) -> None:
        self.id = f"bench-{number:05}"
        self.key = secrets.token_bytes(32)
        self.ticket = ""
        self.up = 0

    def request(self, **more: object) -> tuple[bytes, str]:
        """A poll, and its nonce."""
        nonce, self.up = secrets.token_hex(8), self.up + 1
        said = {
            "id": self.id, "n": nonce, "k": self.ticket, "seq": 3630241, "m": "a1" * 16,
            "state": "ok", "heap": 21480, "up": self.up, **more,
        }  # fmt: skip
        body = orjson.dumps(said)
        mac = hmac.digest(self.key, b"poll1\0" + body, "sha256").hex()
        head = f"POST /d/v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        return f"{head}ota-mac: {mac}\r\n\r\n".encode() + body, nonce

    def rollback(self) -> tuple[bytes, str]:
        """A poll that tells of a rollback, which must be on the disk before it is answered."""
        trace = "line\n" * 20
        return self.request(
            bad={"m": secrets.token_hex(16), "why": "exception", "soft": 0, "trace": trace}
        )

    def accept(self, nonce: str, mac: str, body: bytes) -> bool:
        """Check a reply and keep its ticket; whether the poll counted."""
        right = hmac.digest(self.key, b"reply1\0" + nonce.encode() + body, "sha256").hex()
        assert mac == right, "a reply with a wrong MAC"
        reply = orjson.loads(body)
        self.ticket = reply["k"]
        return "stale" not in reply


class Link(asyncio.Protocol):
    """A connection: one request at a time, answered by a call of `done(status, mac, body)`."""

    done: Callable[[int, str, bytes], None]

    def __init__(self) -> None:
        self._got = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        status, *lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        if len(body) >= int(headers["content-length"]):
            self._got = b""
            self.done(int(status.split(" ")[1]), headers.get("ota-mac", ""), body)


class Load:
    """Seconds that boards waited, and what they were told."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.statuses: dict[int, int] = {}
        self.stale = 0

    def milliseconds(self, percent: int) -> float:
        """What so many percent of the polls did not exceed."""
        return round(1000 * statistics.quantiles(self.waits, n=100)[percent - 1], 1)


class Generator:
    """Sends requests over a set of connections."""

    def __init__(self, links: list[Link]) -> None:
        self._idle = deque(links)
        self._due: deque[tuple[float, Callable[[], tuple[bytes, str]], Device | None]] = deque()
        self.load = Load()
        self.open = 0

    def ask(self, make: Callable[[], tuple[bytes, str]], device: Device | None) -> None:
        """Ask now, or as soon as a connection is free; the wait counts from now."""
        self.open += 1
        self._due.append((time.perf_counter(), make, device))
        self._next()

    def _next(self) -> None:
        while self._due and self._idle:
            link = self._idle.popleft()
            start, make, device = self._due.popleft()
            request, nonce = make()

            def done(status: int, mac: str, body: bytes, start=start, link=link, device=device,
                     nonce=nonce) -> None:  # fmt: skip
                load = self.load
                load.waits.append(time.perf_counter() - start)
                load.statuses[status] = load.statuses.get(status, 0) + 1
                if device and status == 200:
                    load.stale += not device.accept(nonce, mac, body)
                self.open -= 1
                self._idle.append(link)
                self._next()

            link.done = done
            link.transport.write(request)

    async def finished(self) -> Load:
        """Wait until all is answered; returns what was seen since the last time."""
        end = time.perf_counter() + PATIENCE
        while self.open and time.perf_counter() < end:
            await asyncio.sleep(0.005)
        load, self.load = self.load, Load()
        return load

    async def at_rate(self, makers: Sequence[Ask], rate: int, seconds: float) -> Load:
        """`rate` requests a second, each due at its time whether or not others are answered."""
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            self.ask(*makers[number % len(makers)])
        return await self.finished()

    async def all(self, makers: Sequence[Ask]) -> Load:
        """Everything, as fast as the connections allow."""
        for make, device in makers:
            self.ask(make, device)
        return await self.finished()


async def linked(port: int, count: int) -> list[Link]:
    """So many connections."""
    loop = asyncio.get_running_loop()
    made = [loop.create_connection(Link, "127.0.0.1", port) for _ in range(count)]
    return [link for _, link in await asyncio.gather(*made)]


class Process:
    """A server on the first core."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def megabytes(self) -> int:
        """Memory in use."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().split("\n")
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024

    def wait(self) -> None:
        """Return when it listens."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise RuntimeError("the server does not start")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[Process]:
    process = Process(command, port)
    try:
        process.wait()
        yield process
    finally:
        process.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def nginx(folder: Path, seconds: float) -> dict[str, float]:
    """CPU of a small file, and how many a second."""
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        raise SystemExit("nginx is missing (Debian: apt install nginx-light)")
    (folder / "www").mkdir(parents=True)
    (folder / "www" / "file").write_bytes(b"x" * 90)
    port = free_port()
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port))
    get = b"GET /file HTTP/1.1\r\nhost: x\r\n\r\n", ""
    with running([binary, "-p", str(folder), "-c", str(folder / "conf")], port) as process:
        generator = Generator(await linked(port, CONNECTIONS))
        _, rate = await flat_out(generator, [(lambda: get, None)] * 2000, seconds)
        before = process.cpu()
        load = await generator.at_rate([(lambda: get, None)], RATE, seconds)
        cpu = (process.cpu() - before) / len(load.waits)
    return {"cpu": 1e6 * cpu, "rate": rate}


async def flat_out(
    generator: Generator, makers: Sequence[Ask], seconds: float
) -> tuple[int, float]:
    """Ask all again and again for some time; how many, and how many a second."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        await generator.all(makers)
        count += len(makers)
    return count, count / (time.perf_counter() - start)


def people(port: int, token: str, stop: Path) -> None:
    """Somebody who looks at pages and boards until `stop` is there; in a process of its own."""
    session = requests.Session()
    url = f"http://127.0.0.1:{port}"
    session.post(url + "/login", data={"token": token}, timeout=60)
    bearer = {"authorization": f"Bearer {token}"}
    while not stop.exists():
        for path in ("/", "/api/status", "/api/boards"):
            session.get(url + path, headers=bearer, timeout=60)
            time.sleep(0.2)


async def server(folder: Path, count: int, seconds: float) -> dict[str, object]:
    """Figures of a server of its own."""
    devices = await enrolled(folder / "data", count)
    port = free_port()
    environment = f"MIPY_HOME={folder}"
    command = ["env", environment, sys.executable, "-c", SERVER, str(port), str(folder / "data")]
    found: dict[str, object] = {"boards": count}
    with running(command, port) as process:
        generator = Generator(await linked(port, CONNECTIONS))
        polls = [(device.request, device) for device in devices]
        for _ in range(2):
            await generator.all(polls)
        found["memory_mb"] = process.megabytes()

        async def cpu(makers: Sequence[Ask]) -> float:
            before = process.cpu()
            await generator.all(makers)
            return round(1e6 * (process.cpu() - before) / len(makers), 1)

        found["poll_cpu_us_flat_out"] = await cpu(polls)
        _, rate = await flat_out(generator, polls, seconds)
        found["polls_per_second"] = round(rate)
        before = process.cpu()
        load = await generator.at_rate(polls, RATE, seconds)
        found["poll_cpu_us"] = round(1e6 * (process.cpu() - before) / len(load.waits), 1)
        found["p50_ms"], found["p99_ms"] = load.milliseconds(50), load.milliseconds(99)
        assert load.stale == 0, load.stale

        token = next(folder.glob("*/token")).read_text().strip()
        stop = folder / "stop"
        script = "import sys; from pathlib import Path; from tests.bench.server import people\n"
        script += "people(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))"
        viewer = subprocess.Popen([sys.executable, "-c", script, str(port), token, str(stop)])
        await asyncio.sleep(1)
        load = await generator.at_rate(polls, RATE, seconds)
        stop.touch()
        viewer.wait()
        found["p99_ms_while_people_look"] = load.milliseconds(99)
        assert load.stale == 0, load.stale

        # A message sent again, as anybody on the way can, and a poll without a ticket.
        old = devices[0].rollback()
        found["replay_cpu_us"] = await cpu([(lambda: old, None)] * count)
        bare = devices[1].request(k="")
        found["stale_cpu_us"] = await cpu([(lambda: bare, None)] * count)
        for _ in range(2):
            await generator.all(polls)

        start = time.perf_counter()
        reports = [(device.rollback, device) for device in devices[: int(0.95 * count)]]
        before = process.cpu()
        load = await generator.all(reports)
        found["reports_answered"] = f"{load.statuses.get(200, 0)} of {len(reports)}"
        found["reports_seconds"] = round(time.perf_counter() - start, 1)
        found["report_cpu_us"] = round(1e6 * (process.cpu() - before) / len(reports), 1)

        start = time.perf_counter()
        try:
            storm = Generator(await linked(port, STORM))
            load = await storm.all(polls)
            told = {status: n for status, n in sorted(load.statuses.items())}
            found["storm"] = f"{told} of {count} on {STORM} connections"
        except OSError as problem:
            found["storm"] = f"cut: {problem}"
        found["storm_seconds"] = round(time.perf_counter() - start, 1)
        before = process.megabytes()
        for _ in range(20):
            await reset(port, 500)
        found["memory_mb_after_10000_resets"] = f"{before} -> {process.megabytes()}"
    return found


async def reset(port: int, count: int) -> None:
    """Connections that ask once and end by a reset."""
    links = await linked(port, count)
    generator = Generator(list(links))
    get = b"GET /d/v1/trust/9 HTTP/1.1\r\nhost: x\r\n\r\n", ""
    await generator.all([(lambda: get, None)] * count)
    for link in links:
        raw = link.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.transport.abort()


async def enrolled(data: Path, count: int) -> list[Device]:
    """`count` boards in the server's database."""
    devices = [Device(number) for number in range(count)]
    rows = [
        asdict(Board(device.id, "", "weather", "esp8266-generic", device.key, False, 0.0))
        for device in devices
    ]
    storage = SqliteStorage(data)
    await storage.write(lambda db: db.execute(insert(model.boards), rows) and None)
    await storage.close()
    return devices


async def measure(folder: Path, count: int, seconds: float) -> dict[str, object]:
    """All figures."""
    small = await nginx(folder / "nginx", seconds)
    found = await server(folder, count, seconds)
    cpu, rate = found["poll_cpu_us"], found["polls_per_second"]
    assert isinstance(cpu, float) and isinstance(rate, int)
    return found | {
        "nginx_cpu_us": round(small["cpu"], 1),
        "nginx_per_second": round(small["rate"]),
        "poll_cpu_in_nginx_files": round(cpu / small["cpu"], 1),
        "poll_rate_of_nginx": round(rate / small["rate"], 2),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=BOARDS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        work = measure(Path(folder), asked.boards, asked.seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(work)
    if asked.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<32}{value:>10}")


if __name__ == "__main__":
    main()
