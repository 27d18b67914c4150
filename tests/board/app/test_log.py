"""The log beyond the console: the ring file on flash, syslog."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.sim.board import Life, VirtualBoard
from tests.support import fleet
from tests.support.boards import Board
from tests.support.soak import app

MAIN = """
import machine, os, sys

class Ota:
    seq = 7

class App:
    drivers = []

    def every(self, ms, fn, name):
        assert ms == 60000

    def once(self, fn, name):
        fn()  # the loop's first turn

sys.modules["ota"] = Ota
if len(machine.RTC().memory()) < 16:
    machine.RTC().memory(bytes(16))
if "data" not in os.listdir("/"):
    os.mkdir("/data")
from runtime import log, logfile
file = logfile.LogFile(App())
"""
STORY = """
for i in range(14):
    log.info("line %d %s", i, "." * (i * 7 % 40))
    if i % 2:
        file.flush()
        print("flushed", i)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[VirtualBoard]:
    with Board(tmp_path / "board") as made:
        yield made


def slot() -> dict[str, bytes]:
    root = places.sources("app_slots") / "runtime"
    return {
        f"/lib/runtime/{name}.mpy": fleet.mpy(
            f"runtime/{name}.py", (root / f"{name}.py").read_text()
        )
        for name in ("__init__", "log", "logfile")
    }


def begin(board: VirtualBoard, body: str, files: Mapping[str, bytes] | None = None) -> Life:
    board.format({**slot(), "/main.py": (MAIN + body).encode(), **(files or {})})
    return board.life()


def lines(board: VirtualBoard) -> list[str]:
    files = board.files()
    return (files.get("/data/log1", b"") + files.get("/data/log0", b"")).decode().splitlines()


def test_ring_file_survives_power_cuts(board: VirtualBoard) -> None:
    """At every operation, clean and torn, with the change of files among them.

    What was written is there, in order and whole; of what is being written all or nothing.
    """
    old = [f"{i} I an old line of some length" for i in range(130)]
    kept = "".join(line + "\n" for line in old).encode()
    files = {"/data/log0": kept, "/data/log1": b"0 I older still\n" * 200}
    whole = begin(board, STORY, files)
    assert whole.cause == "repl", whole.console
    assert "older still" not in "".join(lines(board)), "one of the writes changed the files"
    told = [line for line in lines(board) if " line " in line and "old" not in line]
    print(f"{whole.ops} operations, {whole.erases} erases in 7 writes of about 80 bytes")
    assert whole.erases <= 7 * 2
    board.format({**slot(), "/main.py": (MAIN + STORY).encode(), **files})
    fresh = board.save()
    for cut in range(1, whole.ops + 1):
        for torn in (False, True):
            board.restore(fresh)
            life = board.life(cut=cut, torn=torn)
            assert life.cause == "cut", (cut, life.console)
            found = lines(board)
            flushed = [int(n) for n in re.findall(r"flushed (\d+)", life.console)]
            least = flushed[-1] + 1 if flushed else 0
            got = [line for line in found if " line " in line and "old" not in line]
            assert found[found.index(old[0]) :][: len(old)] == old, cut
            assert got == told[: len(got)] and least <= len(got) <= least + 2, (cut, got)
    life = board.life()
    assert life.cause == "repl" and lines(board)[-1] == told[-1], "and it goes on"


def test_newest_lines_outlive_a_reset(board: VirtualBoard) -> None:
    """What was not yet on flash is in RTC memory; a start without such lines writes nothing."""
    begin(board, "log.error('the newest line')\nmachine.reset()\n")
    assert board.lives[-1].cause == "reset" and not lines(board)
    board.write("/main.py", MAIN.encode())
    life = board.life()
    assert lines(board)[-1] == "0 E the newest line", life.console
    board.power_cut()
    assert board.life().ops == 0


def test_too_much_pushes_out_the_oldest(board: VirtualBoard) -> None:
    body = "for i in range(200):\n    log.info('line %d', i)\nlog.error('x' * 2000)\nfile.flush()\n"
    begin(board, body)
    found = lines(board)
    assert found[-1] == "x" * 400 and found[-2] == "0 I line 199", found
    assert sum(len(line) + 1 for line in found) <= 512


def test_ring_file_is_bounded(board: VirtualBoard) -> None:
    body = "for i in range(300):\n    log.info('line %d %s', i, '.' * 60)\n    file.flush()\n"
    life = begin(board, body)
    files = board.files()
    assert all(len(files[f"/data/log{n}"]) <= 4096 for n in "01")
    assert lines(board)[-1].startswith("0 I line 299") and len(lines(board)) > 55
    print(f"{life.erases} erases in 300 writes of 80 bytes")


def test_secrets_of_a_full_heap(board: VirtualBoard) -> None:
    """A line that finds no room is told by its format, unless that holds a secret."""
    body = """
class Full:
    def __str__(self):
        raise MemoryError

log.info("nothing to hide: %s %s", Full(), "a part")
log.secrets.append("hush hush")
log.info("it is %s", "hush hush")
log.info("half a line %s", Full())
log.info("hush hush %s", Full())
log.info("parts %s %s %s", Full(), "is hush hush", "one by one")
"""
    life = begin(board, body)
    assert life.cause == "repl" and "a part\nnothing to hide: %s %s\n" in life.console
    assert "one by one\nparts %s %s %s\n" in life.console, life.console
    assert "it is ***" in life.console and "half a line %s\n***\n" in life.console, life.console
    assert "hush" not in life.console


def test_syslog(tmp_path: Path) -> None:
    """RFC 5424, section 6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        main = """
import runtime
from runtime import log
from runtime.syslog import Syslog

def setup(app):
    Syslog(app)
    log.error("too early for the network")
    app.after(5000, lambda: log.warning("the tank is %d %% full, ä", 3))

runtime.run(setup)
"""
        host = f"SYSLOG_HOST = '127.0.0.1'\nSYSLOG_PORT = {server.getsockname()[1]}\n"
        release = fleet.release(app(1, main, more=host), 1000)
        with fleet.prepared(tmp_path / "board", fleet.identity(), release, speed=10) as board:
            board.start()
            packets = [server.recv(2048).decode()]
            while "tank" not in packets[-1]:
                packets.append(server.recv(2048).decode())
            board.stop()
    assert re.fullmatch(r"<12>1 - b1 mipy - - - \d+ W the tank is 3 % full, ä", packets[-1])
    assert not any("early" in packet for packet in packets)
