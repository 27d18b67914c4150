"""A developer's desk: a fleet with its server, an app to edit, a board to push it to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from mipy_ota.tools import build, enrol, keys, provision, serve, sign
from mipy_ota.tools.client import Client
from mipy_ota.tools.flash import plan
from mipy_ota.tools.sim.board import VirtualBoard
from mipy_ota.tools.sim.port import Port

APP = "demo"
CLASS = "esp8266-generic"
NAME = "kitchen"
WIFI = {"home": "secret-word"}
MAIN = """\
import part
import ota, time
n = 0
while True:
    ota.check()
    n += 1
    print("turn", n, part.VALUE)
    time.sleep(1)
"""
FUNCTION = "def f%d(x):\n    return x * %d + 1\n\n\n"


@dataclass
class Desk:
    """`app` is the app's folder, `port` the board's serial port."""

    app: Path
    board: VirtualBoard
    port: str
    server: Client
    who: enrol.Record

    def edit(self, value: str) -> None:
        """A one-line change."""
        (self.app / "part.py").write_text(f"VALUE = {value}\n")

    def runs(self, value: str) -> bool:
        """Wait for the app to run with this value, from now on."""
        at = len(self.board.console)
        return self.board.wait(lambda board: f" {value}\n" in board.console[at:], 60)


def write_app(folder: Path, modules: int = 18) -> Path:
    """An app of `modules` + 2 files, 18 KB of bytecode with 18 of them."""
    folder.mkdir(parents=True)
    (folder / "app.toml").write_text(f'name = "{APP}"\nclasses = ["{CLASS}"]\nruntime = false\n')
    (folder / "main.py").write_text(MAIN)
    (folder / "part.py").write_text("VALUE = 'one'\n")
    for n in range(modules):
        (folder / f"module{n}.py").write_text("".join(FUNCTION % (i, n) for i in range(40)))
    return folder


@contextmanager
def desk(folder: Path, dev: bool = True, speed: int = 10) -> Iterator[Desk]:
    """A running board with the app's first release; `dev`: it carries the fleet's dev key."""
    with serve.running(folder / "server") as server:
        surroundings = {
            "MIPY_HOME": str(folder / "home"),
            "MIPY_SERVER": server.url,
            "MIPY_TOKEN_FILE": str(folder / "server" / "token"),
        }
        with mock.patch.dict(os.environ, surroundings):
            keys.make_fleet(APP)
            who = enrol.make(
                "b1",
                APP,
                CLASS,
                name=NAME,
                servers=(server.url,),
                dev=plan.dev_key() if dev else None,
            )
            record = enrol.Record(who, chip="virtual")
            enrol.tell_server(enrol.keep(record))
            app = write_app(folder / "app")
            client = Client(server.url, server.token)
            first = sign.sign_for_fleet(build.make(app, CLASS, build.minutes()))
            client.add_trust(keys.trust_files()[0])
            client.publish(first)
            with VirtualBoard(folder / "board", speed=speed) as board:
                board.format(provision.board_files(who, keys.trust_files()[0], first, WIFI))
                board.radio(networks=WIFI)
                port = Port(board)
                try:
                    board.start(port.hear)
                    assert board.wait("turn 1", 90), board.console
                    yield Desk(app, board, port.path, client, record)
                finally:
                    board.stop()
                    port.close()
