"""`mipy set` and `mipy get` on a virtual board, and what becomes of a change that does harm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mipy_ota.tools.board import settings
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet.serve import running
from mipy_ota.tools.sim.board import Snapshot, VirtualBoard
from mipy_ota.tools.sim.port import Port
from tests.support import fleet

CONFIG = b"""\
LOG_LEVEL = 1  #: 0..3
SERVER = ""  #: url
NAME = "demo"
DIVISOR = 1
PIN = 2  #: 0..16
ON = True
UNIT = "C"  #: C | F
MQTT_PASSWORD = ""  #: secret
API_TOKEN = ""  #: secret
CODE = ""  #: secret
HASTE = 0
"""
MAIN = """\
import config
import runtime
from runtime import log


def setup(app):
    log.info("values %s %d %s %s", config.NAME, 10 // config.DIVISOR, config.PIN, config.UNIT)
    log.info("password %d", len(config.MQTT_PASSWORD))
    log.info("keys %s %s", config.API_TOKEN, config.CODE)

    def sensor():
        if config.PIN != 2:
            raise OSError("no sensor here")

    def hasten():
        app.up += config.HASTE

    app.every(1000, sensor, "sensor")
    app.every(1000, hasten)


runtime.run(setup)
"""


class Bench:
    """A board with the app on a serial cable."""

    def __init__(self, board: VirtualBoard, port: Port) -> None:
        self.board, self.port = board, port
        self._seen = self._start = len(board.console)

    def hears(self, text: str, seconds: float | None = None) -> None:
        """Wait for `text`, behind what was waited for before."""
        assert self.board.wait(lambda b: text in b.console[self._seen :], seconds), (
            f"no {text!r} in {self.board.console[self._seen :]}"
        )
        self._seen = self.board.console.index(text, self._seen) + len(text)

    def set(self, *changes: str, default: list[str] | None = None) -> None:
        settings.set_(self.port.path, list(changes), default)

    def silent(self, text: str) -> bool:
        """Whether `text` was never printed."""
        return text not in self.board.console[self._start :]


Proven = tuple[VirtualBoard, Snapshot]


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proven]:
    """A board, off, with a confirmed release that has shown what its jobs can do."""
    folder = tmp_path_factory.mktemp("bench")
    with running(folder / "server", interval=15) as server:
        known = fleet.Fleet(server)
        files = fleet.runtime() | {"main.py": MAIN, "config.py": CONFIG}
        release = fleet.release(files, 1000)
        with known.board(folder / "board", release, "b1", speed=50) as board:
            board.start()
            assert board.wait(lambda b: known.get("/api/boards/b1")["up"] > 75), board.console
            board.stop()
            yield board, board.save()


@pytest.fixture
def bench(proven: Proven) -> Iterator[Bench]:
    """That board, running, with no setting of its own."""
    board, snapshot = proven
    board.restore(snapshot)
    board.radio(networks=fleet.WIFI)
    with Port(board) as port:
        made = Bench(board, port)
        board.start(port.hear)
        try:
            made.hears("values demo 10 2 C")
            yield made
        finally:
            board.stop()


@pytest.fixture
def told(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    def ask() -> dict[str, Any]:
        capsys.readouterr()
        settings.get(bench.port.path, None, True)
        bench.hears("values")  # until then a new process of the board's may have the port open
        return json.loads(capsys.readouterr().out)

    return ask


def test_a_good_change_is_kept(
    bench: Bench, told: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = told()
    assert before["NAME"] == {"key": "NAME", "value": "demo", "from": "config.py"}
    assert before["MQTT_PASSWORD"]["value"] is None and not before["MQTT_PASSWORD"]["set"]
    monkeypatch.setattr("sys.stdin", io.StringIO("hush hush \u00fc\nhush2\nhush3\n"))
    bench.set("NAME=attic room", "UNIT=F", "ON=off", "MQTT_PASSWORD", "API_TOKEN", "CODE")
    bench.hears("values attic room 10 2 F")
    bench.hears("password 11")
    bench.hears("keys *** ***")
    bench.board.radio(networks={})  # nothing is confirmed meanwhile
    for _ in range(4):  # to look is no crash
        assert told()["NAME"] == {"key": "NAME", "value": "attic room", "from": "board, on trial"}
    bench.board.radio(networks=fleet.WIFI)
    bench.hears("settings: the change is confirmed")
    after = told()
    assert after["ON"] == {"key": "ON", "value": False, "from": "board"}
    assert after["MQTT_PASSWORD"]["set"] and after["MQTT_PASSWORD"]["value"] is None
    assert bench.silent("hush")


def test_a_default_again(bench: Bench, told: Callable[[], dict[str, Any]]) -> None:
    bench.set("UNIT=F", "ON=off")
    bench.hears("values demo 10 2 F")
    bench.hears("settings: the change is confirmed")
    bench.set("NAME=shed", default=["UNIT", "ON"])
    bench.hears("values shed 10 2 C")
    bench.hears("settings: the change is confirmed")
    assert told()["UNIT"] == {"key": "UNIT", "value": "C", "from": "config.py"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("NMAE=x", "declares no NMAE"),
        ("PIN=17", "PIN is within 0..16"),
        ("PIN=x", "PIN is a whole number"),
        ("UNIT=K", "UNIT is one of C, F"),
        ("MQTT_PASSWORD=open", "MQTT_PASSWORD is a secret"),
    ],
)
def test_what_does_not_fit_is_refused(bench: Bench, change: str, said: str) -> None:
    with pytest.raises(Failure) as caught:
        bench.set("NAME=never", change)
    assert said in caught.value.text and caught.value.hint
    bench.hears("values demo")


@pytest.mark.parametrize(
    ("change", "shows", "why"),
    [
        ("DIVISOR=0", "Traceback", "ZeroDivisionError"),
        ("PIN=5", "values demo 10 5", "(unproven job sensor), starting again"),
        ("SERVER=http://127.0.0.9:9", "no answer from http://127.0.0.9:9", "(no answer from"),
    ],
)
def test_a_bad_change_goes_back(bench: Bench, change: str, shows: str, why: str) -> None:
    """A crash, a sensor that is no longer found, a server that is not there."""
    bench.set(change, "HASTE=3")
    for _ in range(3):
        bench.hears(shows)
        bench.hears(why)
    bench.hears("settings: the change has not proved itself, the former values are back")
    bench.hears("values demo 10 2 C")


def test_a_change_and_no_network(bench: Bench) -> None:
    bench.board.radio(networks={})
    bench.set("NAME=lost", "HASTE=3")
    for _ in range(3):
        bench.hears("values lost")
        bench.hears("(no answer from the server), starting again")
    bench.board.radio(networks=fleet.WIFI)
    bench.hears("values demo 10 2 C")
