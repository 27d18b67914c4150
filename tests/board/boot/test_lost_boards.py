"""Apps that would leave a board without its server: the boot stage brings it back by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools import places
from tests.support import apps
from tests.support.apps import BEGIN, GOOD, LOOP, beside_the_runtime, story, with_runtime
from tests.support.boards import Board

# The day after which the boot stage asks in the app's stead is nearly over at the start.
LATE = "ota.ticks += 172790\n"
WAITS = "while True:\n    ota.feed()\n    time.sleep(1)\n"
OFF = "import network\nnetwork.WLAN(0).active(False)\n"


# What a first release may be, off the cable, without ever reaching runtime.run().
SILENT: dict[str, str] = {
    "empty": BEGIN,
    "called by name only": BEGIN
    + "import runtime\nif __name__ == '__main__':\n    runtime.run(lambda app: None)\n",
    "a loop that asks": BEGIN + LOOP,
    "a loop that never asks": BEGIN + LATE + WAITS,
    "switches Wi-Fi off": BEGIN + OFF + LATE + WAITS,
    "sleeps": BEGIN + "machine.deepsleep(20000)\n",
    "asks and sleeps": BEGIN + "ota.check()\nmachine.deepsleep(20000)\n",
}


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("name", SILENT)
def test_a_first_release_that_never_runs_the_runtime(tmp_path: Path, name: str, chip: Any) -> None:
    """It has it aboard; nothing else connects the board, and it takes the next release."""
    cls = f"{chip}-generic"
    with story(tmp_path, beside_the_runtime(SILENT[name]), chip=chip, cls=cls) as it:
        it.board.start()
        it.says("begin 1000")
        it.confirmed(it.publish(GOOD))


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
def test_a_plain_app_that_switches_wifi_off(tmp_path: Path, chip: Any) -> None:
    """It is asked for updates once a day all the same."""
    app = BEGIN + OFF + LATE + "while True:\n    time.sleep(1)\n"
    with story(tmp_path, app, chip=chip, cls=f"{chip}-generic") as it:
        it.boot(1000)
        digest = it.publish(GOOD)
        it.board.start()
        it.confirmed(digest)


# --- deep sleep

# As people write them who have never heard of `ota.sleep`.
NAP = "time.sleep(2)\nmachine.deepsleep(20000)\n"
SLEEPERS: dict[str, str | Mapping[str, bytes]] = {
    "plain, asks": BEGIN + "ota.check()\n" + NAP,
    "plain, never asks": BEGIN + NAP,
    "asks beside the runtime": beside_the_runtime(BEGIN + "ota.check()\n" + NAP),
    "on the runtime": with_runtime(
        """\
def doze():
    if app.updater.answered:
        machine.deepsleep(20000)
app.every(1000, doze)
"""
    ),
}


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("name", SLEEPERS)
def test_a_sleeper_is_confirmed_by_its_first_sleep(tmp_path: Path, name: str, chip: Any) -> None:
    """The server has answered, and the app came as far as its sleep."""
    with story(tmp_path, chip=chip, cls=f"{chip}-generic") as it:
        it.boot(1000)
        digest = it.publish(SLEEPERS[name])
        it.install()
        it.board.start()
        it.confirmed(digest)
        assert not it.record()["rejected"]
        # And the next one.
        it.confirmed(it.publish(GOOD))


@pytest.mark.parametrize("name", ("plain, asks", "on the runtime"))
def test_a_sleeper_whom_no_server_answers_is_not(tmp_path: Path, name: str) -> None:
    with story(tmp_path) as it:
        it.boot(1000)
        it.publish(
            SLEEPERS[name]
            if name != "on the runtime"
            else with_runtime("app.every(1000, lambda: app.up > 4 and machine.deepsleep(20000))\n")
        )
        it.install()
        it.server.stop()
        assert it.tries() == [1001, 1001, 1001, 1000]


def test_a_sleeper_tries_again_after_a_failed_install(tmp_path: Path) -> None:
    """Its lives are shorter than any pause."""
    with story(tmp_path, SLEEPERS["plain, asks"]) as it:
        it.boot(1000)
        it.remember(apps.FAILS, 2)
        digest = it.publish(GOOD)
        it.board.start()
        it.confirmed(digest)


# --- full

HEAP = """\
taken = []
gc.collect()
while gc.mem_free() > 2500:
    taken.append(bytearray(100))
"""
TELLS = "print('tick', ota.ticks)\n"
FULL: dict[str, str | Mapping[str, bytes]] = {
    "plain": BEGIN
    + HEAP.replace("2500", "6000")
    + LOOP.replace("ota.check", TELLS.strip() + "\n    ota.check"),
    "runtime": with_runtime(
        HEAP + f"app.taken = taken\napp.every(1000, lambda: {TELLS.strip()})\n"
    ),
}
_TICK = re.compile(r"tick (\d+)\n")


@pytest.mark.parametrize("kind", FULL)
def test_a_heap_too_full_for_a_poll(tmp_path: Path, kind: str) -> None:
    """The boot stage asks in its stead, within minutes."""
    with story(tmp_path, FULL[kind]) as it:
        it.board.start()
        it.says("MemoryError")
        it.confirmed(it.publish(GOOD))
        assert max(int(tick) for tick in _TICK.findall(it.board.console)) < 2 * 60 * 30


BRIM = """\
def fill():
    size = 4096
    n = 0
    while size > 16:
        n += 1
        ota.feed()
        try:
            f = open('/data/junk%d' % n, 'wb')
        except OSError:
            break
        try:
            f.write(bytes(size))
        except OSError:
            size //= 2
        try:
            f.close()
        except OSError:
            size //= 2
    print('full to the brim')
"""
TIDY = BEGIN + "for name in os.listdir('/data'):\n    os.remove('/data/' + name)\n" + LOOP


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("kind", ("plain", "runtime"))
def test_a_flash_full_to_the_brim(tmp_path: Path, kind: str, chip: Any) -> None:
    """The board talks to its server all the same, start after start."""
    app = {
        "plain": BEGIN + BRIM + "fill()\n" + LOOP,
        "runtime": with_runtime(BRIM + "app.after(2000, fill)\n"),
    }[kind]
    with story(tmp_path, app, chip=chip, cls=f"{chip}-generic", blocks=128) as it:
        it.board.start()
        it.says("full to the brim")
        for _ in range(3):
            it.board.power_cut()
            it.polls(2)


def test_a_flash_full_to_the_brim_and_no_data(tmp_path: Path) -> None:
    """Not even the app's folder can be made: it starts without."""
    app = (
        BEGIN
        + BRIM.replace("/data/junk", "/junk")
        + (
            "os.chdir('/')\nfor name in os.listdir('/data'):\n    os.remove('/data/' + name)\n"
            "os.rmdir('/data')\nfill()\n"
        )
        + LOOP
    )
    with story(tmp_path, app, blocks=128) as it:
        it.board.start()
        it.says("full to the brim")
        it.board.power_cut()
        it.polls(2)


LOCKED = """
import micropython, resident
def ask():  # a loop of the module's would store its own variable
    for ticks in (4000, 2400, 3000):
        resident.rescue_in(ticks)
micropython.heap_lock()
ask()
micropython.heap_unlock()
print("due at", resident.rescue_at)
"""


def test_a_rescue_takes_no_heap(tmp_path: Path) -> None:
    """It is asked for when none is left; a MemoryError there would end the app."""
    with Board(tmp_path / "board", blocks=64) as board:
        resident = places.sources("bootloader") / "resident.py"
        board.format({"/main.py": LOCKED.encode(), "/resident.py": resident.read_bytes()})
        assert board.life().console == "due at 2400\n"
