"""The time of day on a board: zones, jobs by the clock, NTP, the server's time."""

from __future__ import annotations

import datetime
import io
import random
import re
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

from mipy_ota.tools import places
from mipy_ota.tools.fleet.serve import running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.board.app.test_runtime import Device, device, modules
from tests.support import fleet

__all__ = ["device", "modules"]

SINCE_1900 = 2_208_988_800

ZONES = {
    "Berlin": "CET-1CEST,M3.5.0,M10.5.0/3",
    "London": "GMT0BST,M3.5.0/1,M10.5.0",
    "Dublin": "IST-1GMT0,M10.5.0,M3.5.0/1",
    "New York": "EST5EDT,M3.2.0,M11.1.0",
    "Sydney": "AEST-10AEDT,M10.1.0,M4.1.0/3",
    "Lord Howe": "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
    "Chatham": "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45",
    "Nuuk": "<-02>2<-01>,M3.5.0/-1,M10.5.0/0",
    "Cairo": "EET-2EEST,M4.5.5/0,M10.5.4/24",
    "Gaza": "EET-2EEST,M3.4.4/50,M10.4.4/50",
    "Kathmandu": "<+0545>-5:45",
    "Honolulu": "HST10",
    "by day of the year": "AAA3BBB,J60/2,J300/3",
    "always summer": "EST5EDT,0/0,J365/25",
}


def zone(rule: str) -> ZoneInfo:
    """Python's own reading of a rule: a file (RFC 8536) that holds nothing else."""
    header = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4)
    block = header + struct.pack(">lbb4s", 0, 0, 0, b"UTC\0")
    return ZoneInfo.from_file(io.BytesIO(block + block + b"\n" + rule.encode() + b"\n"))


def vectors() -> list[str]:
    """Lines rule|kind|given|wanted: each year's changes to the second, and times at random."""
    lines = []
    draw = random.Random(8)
    for rule in ZONES.values():
        here = zone(rule)

        def offset(t: int, here: ZoneInfo = here) -> int:
            found = datetime.datetime.fromtimestamp(t, here).utcoffset()
            assert found is not None
            return int(found.total_seconds())

        times = [draw.randrange(1_577_836_800, 4_102_444_800) for _ in range(60)]
        for year in (2024, 2026, 2027, 2038, 2099):
            start = int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp())
            days = range(start, start + 366 * 86400, 86400)
            for day in [day for day in days if offset(day) != offset(day + 86400)]:
                low, high = day, day + 86400
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
                times += [low, high, high + 1799, high - 1800]
        lines += [f"{rule}|offset|{t}|{offset(t)}" for t in times]
        for t in times:
            wall = t + offset(t)
            plain = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=wall)
            lines.append(f"{rule}|moment|{wall}|{int(plain.replace(tzinfo=here).timestamp())}")
    return lines


def test_zones_and_jobs_by_the_clock(device: Device, modules: Path) -> None:
    (modules / "zones").write_text("\n".join(vectors()) + "\n")
    out = device.run("clocks.py", seconds=120)
    assert out.count("passed") == 7, out
    sys.stdout.write(out)


NOW = 1_795_500_000
ERA = 1 << 32


class Ntp(socketserver.UDPServer):
    """An NTP server that answers as `answer` makes of (request, seconds since 1900)."""

    def __init__(self, answer: Callable[[bytes, int], list[bytes]]) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", 0), NtpHandler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class NtpHandler(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        server = cast(Ntp, self.server)
        request, sock = self.request
        assert len(request) == 48 and request[0] == 0x23 and request[1:40] == bytes(39)
        for answer in server.answer(request, NOW + SINCE_1900):
            sock.sendto(answer, self.client_address)

    def finish(self) -> None:
        """Everything is sent already."""


def reply(
    request: bytes, seconds: int, first: int = 0x24, stratum: int = 2, nonce: bytes | None = None
) -> bytes:
    """An answer with half a second beyond `seconds`."""
    nonce = request[40:48] if nonce is None else nonce
    times = struct.pack(">II", seconds % ERA, 1 << 31)
    return bytes((first, stratum)) + bytes(22) + nonce + times + times


SERVERS: dict[str, Callable[[bytes, int], list[bytes]]] = {
    "good": lambda r, t: [reply(r, t)],
    "after what is none": lambda r, t: [b"", b"x" * 900, reply(r, 5, nonce=bytes(8)), reply(r, t)],
    "a year of 2040": lambda r, t: [reply(r, ERA + 150_000_000)],
    "not synchronised": lambda r, t: [reply(r, t, first=0xE4)],
    "go away": lambda r, t: [reply(r, t, stratum=0)],
    "a client": lambda r, t: [reply(r, t, first=0x23)],
    "of 2019": lambda r, t: [reply(r, SINCE_1900 + 1_560_000_000)],
    "zero": lambda r, t: [reply(r, 0, first=0x24)],
    "silent": lambda r, t: [],
    "an hour off": lambda r, t: [reply(r, t + 3600)],
}


class Names(socketserver.BaseRequestHandler):
    """A name server (RFC 1035): a plain answer, one behind an alias, none, and a broken one."""

    def handle(self) -> None:
        query, sock = self.request
        address = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3"
        alias = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\7\4host\xc0\x12"
        host = b"\4host\xc0\x12" + address[2:]
        count, answers = {
            b"\4time": (1, address),
            b"\5alias": (2, alias + host),
            b"\4none": (0, b""),
        }.get(query[12 : 13 + query[12]], (9, address[:9]))
        head = query[:2] + b"\x81\x80\0\1\0" + bytes((count, 0, 0, 0, 0))
        sock.sendto(b"\0\0" + (head + query[12:] + answers)[2:], self.client_address)
        sock.sendto(head + query[12:] + answers, self.client_address)


def test_ntp(device: Device) -> None:
    """Good answers are taken, others cost a pause; the loop goes on meanwhile."""
    servers = {name: Ntp(answer) for name, answer in SERVERS.items()}
    names = socketserver.UDPServer(("127.0.0.1", 0), Names)
    threading.Thread(target=names.serve_forever, args=(0.05,), daemon=True).start()
    try:
        out = device.run(
            "ntp.py",
            str(names.server_address[1]),
            *(
                f"{one.server_address[1]}:{n}:{NOW if name == 'an hour off' else ''}"
                for n, (name, one) in enumerate(servers.items())
            ),
        )
    finally:
        for one in (names, *servers.values()):
            one.shutdown()
            one.server_close()
    assert re.findall(r"^name (\w+)\S+ (.*)$", out, re.M) == [
        ("time", "10.1.2.3"),
        ("alias", "10.1.2.3"),
        ("none", "ValueError('no such name',)"),
        ("bad", "IndexError('bytes index out of range',)"),
    ]
    lines = [line.split("| ")[1] for line in out.splitlines() if "| " in line]
    said = dict(zip(SERVERS, lines, strict=True))
    good = ["good", "after what is none", "a year of 2040"]
    for name in good:
        assert said[name].startswith("ntp "), said
    for name in good[:2]:
        seen, left = map(int, said[name].split()[1:])
        assert seen - NOW in (0, 1, 2) and left >= 14400, said
    assert int(said["a year of 2040"].split()[1]) - (ERA + 150_000_000 - SINCE_1900) in (0, 1, 2)
    for name in set(SERVERS) - set(good):
        assert "Error" in said[name] and 8 <= int(said[name].split()[-1]) <= 10, (name, said)
    assert "OSError" in said["silent"]
    assert int(out.split()[-1]) > 100, out


CLOCKED = """
import gc
import runtime
import time
from runtime import log
from utilities import clock, daily


def setup(app):
    clock.start(app)

    def tell():
        gc.collect()
        log.info("it is %s by %s", clock.text(), clock.source or "nobody")
        log.info("in UTC %d-%02d-%02d %02d, free %d", *(time.gmtime()[:4] + (gc.mem_free(),)))

    tell()
    app.every(3000, tell)


runtime.run(setup)
"""


def test_a_board_learns_the_time(tmp_path: Path) -> None:
    """From its server; from NTP when that answers, which it does at the third question."""
    asked = []

    def answer(request: bytes, _: int) -> list[bytes]:
        asked.append(1)
        return [reply(request, int(time.time()) + SINCE_1900)] if len(asked) > 2 else []

    files = fleet.runtime()
    root = places.sources("app_slots")
    for name in ("clock", "daily", "ntp", "tz"):
        files[f"utilities/{name}.py"] = (root / f"utilities/{name}.py").read_text()
    ntp = Ntp(answer)
    files |= {
        "main.py": CLOCKED,
        "config.py": 'LOG_LEVEL = 1\nSERVER = ""\nTIMEZONE = "CET-1CEST,M3.5.0,M10.5.0/3"\n'
        f'NTP = "127.0.0.1:{ntp.server_address[1]}"\n',
    }
    with running(tmp_path / "server", interval=5) as server:
        known = fleet.Fleet(server)
        with known.board(tmp_path / "board", fleet.release(files, 1000), "b1", speed=20) as board:
            board.start()
            for by in ("nobody", "server", "ntp"):
                assert board.wait(lambda b, by=by: f" by {by}\n" in _lines(b)), board.console
            board.stop()
            said = board.console
    ntp.shutdown()
    ntp.server_close()
    here = datetime.datetime.now(zone("CET-1CEST,M3.5.0,M10.5.0/3"))
    day = re.findall(r"it is (\S+) \S+ by ntp", _lines(board))[-1]
    assert abs(datetime.date.fromisoformat(day) - here.date()) <= datetime.timedelta(1)
    assert re.search(r"in UTC 20[2-9]\d-", said)
    assert "failed" not in said, said
    sys.stdout.write(said[-300:])


def _lines(board: VirtualBoard) -> str:
    return board.console.replace("\r\n", "\n")


def test_the_host_knows_a_rule_when_it_sees_one() -> None:
    from mipy_ota.tools.app.config import declared

    for rule in ZONES.values():
        assert declared(f'TIMEZONE = "{rule}"  #: tz\n')["TIMEZONE"].default == rule
