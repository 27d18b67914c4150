"""The house move: another router, another server, both. No cable is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import board_file
from mipy_ota.tools import places
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet, portal
from tests.support.fleet import Fleet

HOME = {"home": "secret-word"}
AWAY = {"away": "other-secret"}
SPEED = 20
PLAIN = "import ota, time\nprint('app runs')\nwhile True:\n    ota.check()\n    time.sleep(1)\n"


def runtime() -> dict[str, str | bytes]:
    """The demo on the runtime, which opens its portal after two minutes without Wi-Fi."""
    root = places.sources("app_slots")
    names = ["main.py", "config.py", "drivers/led.py"]
    files = fleet.runtime() | {name: (root / name).read_text() for name in names}
    files["config.py"] = str(files["config.py"]).replace("PORTAL = 30", "PORTAL = 2")
    files["main.py"] = "print('app runs')\n" + str(files["main.py"])
    return files


KINDS: dict[str, dict[str, str | bytes]] = {"plain": {"main.py": PLAIN}, "runtime": runtime()}


class House:
    """A board that is at home, and has been heard of there."""

    def __init__(self, folder: Path, kind: str, server: Running, chip: Any = "esp8266") -> None:
        self.fleet = Fleet(server)
        self.who: board_file.Board = portal.identity((server.url,))
        self.fleet.enrol(self.who)
        release = fleet.release(KINDS[kind], 1000)
        self.board: VirtualBoard = fleet.prepared(folder, self.who, release, speed=SPEED, chip=chip)
        self.board.radio(clients=1)
        self.board.start()
        self.heard(server)

    def heard(self, server: Running) -> None:
        """Wait until the server hears of the board anew."""
        before = self._last(server)
        anew = lambda _: self._last(server) != before  # noqa: E731
        assert self.board.wait(anew), self.board.console[-4000:]

    def _last(self, server: Running) -> Any:
        board = server.do(server.storage.board("b1"))
        return board and board.last_seen

    def again(self) -> None:
        """Take the power away and give it back."""
        self.board.power_cut()

    def join(self, times: int, server: str = "") -> None:
        """Give it its new network, by phone."""
        form = portal.opened(self.board, times)
        form.join("away", "other-secret", server)
        form.says("Connected to <b>away</b>")
        if server:
            form.says("The server answers")


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("kind", KINDS)
def test_another_router(tmp_path: Path, kind: str, chip: str) -> None:
    with running(tmp_path / "server", interval=5) as server:
        house = House(tmp_path / "board", kind, server, chip)
        with house.board as board:
            # The runtime's keeper notices by itself; a plain app's board is plugged in anew.
            board.radio(networks=AWAY)
            if kind == "plain":
                house.again()
            house.join(1)
            house.heard(server)
            house.again()
            house.heard(server)
            assert board.console.count(portal.OPEN) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_another_server(tmp_path: Path, kind: str) -> None:
    """The old one is gone without a word; the board calls, and keeps what proved itself."""
    data = tmp_path / "server"
    with running(data, interval=5) as server:
        house = House(tmp_path / "board", kind, server)
    with house.board as board:
        with running(data, interval=5, calls=True) as server:
            house.heard(server)
        with running(data, port=int(server.url.rsplit(":", 1)[1]), interval=5) as server:
            house.again()
            house.heard(server)
        board.stop()
        assert server.url.encode() in board.read("/state/0/s")


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_server_tells(tmp_path: Path, kind: str) -> None:
    """`mipy serve --moved`: the old one sends the board on."""
    data = tmp_path / "server"
    with running(data, interval=5) as old:
        house = House(tmp_path / "board", kind, old)
        port = int(old.url.rsplit(":", 1)[1])
    with house.board, running(tmp_path / "new", interval=5) as new:
        Fleet(new).enrol(house.who)
        with running(data, port=port, interval=5, moved=new.url):
            house.heard(new)
        house.again()
        house.heard(new)


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("kind", KINDS)
def test_another_router_and_server(tmp_path: Path, kind: str, chip: str) -> None:
    """Both at once: by phone, with the new server's address in the form."""
    data = tmp_path / "server"
    with running(data, interval=5) as old:
        house = House(tmp_path / "board", kind, old, chip)
    with house.board as board, running(data, interval=5) as new:
        board.radio(networks=AWAY)
        house.again()
        house.join(1, new.url)
        house.heard(new)


def test_a_call_counts_only_when_sealed(tmp_path: Path) -> None:
    """Nobody but an enrolled board gets an answer, and nobody's else answer is believed."""
    from mipy_ota.ota_server.device.discovery import Responder

    with running(tmp_path, interval=5) as server:
        known = Fleet(server)
        who = portal.identity((server.url,))
        responder = Responder(server.storage, 8266)
        call = _call(who)
        peer = ("127.0.0.1", 5)
        assert server.do(responder.reply(call, peer)) is None  # not enrolled
        known.enrol(who)
        answer = server.do(responder.reply(call, peer))
        assert answer and answer.startswith(b"here1 http://127.0.0.1:8266 ")
        for bad in (b"", call[:-1], call + b"x", call[:-1] + b"g", b"\xff" * 1500):
            assert server.do(responder.reply(bad, peer)) is None
        other = call[:-64] + bytes(reversed(call[-64:]))
        assert server.do(responder.reply(other, peer)) is None


def _call(who: board_file.Board) -> bytes:
    import hmac

    said = f"{who.id} {'0' * 16}".encode()
    return b"find1 %s %s" % (said, hmac.digest(who.key, b"find1\0" + said, "sha256").hex().encode())
