"""A developer's desk: a fleet with its server, an app to edit, a board to push it to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.flash import plan, provision
from mipy_ota.tools.fleet import enrol, serve
from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.keys import changes, sign
from mipy_ota.tools.keys import store as keys
from mipy_ota.tools.sim.board import VirtualBoard
from mipy_ota.tools.sim.port import Port
from tests.support.boards import Board

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
ON_THE_RUNTIME = """\
import part, runtime
n = 0
def turn():
    global n
    n += 1
    print("turn", n, part.VALUE)
def setup(app):
    app.every(1000, turn)
runtime.run(setup)
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
        return self.board.wait(lambda board: f" {value}\n" in board.console[at:])


def write_app(folder: Path, modules: int = 18, runtime: bool = False) -> Path:
    """An app of `modules` + 2 files, 18 KB of bytecode with 18 of them; or one on the runtime."""
    folder.mkdir(parents=True)
    (folder / "app.toml").write_text(
        f'name = "{APP}"\nclasses = ["{CLASS}"]\nruntime = {str(runtime).lower()}\n'
    )
    (folder / "main.py").write_text(ON_THE_RUNTIME if runtime else MAIN)
    if runtime:
        (folder / "config.py").write_bytes((places.sources("app_slots") / "config.py").read_bytes())
    (folder / "part.py").write_text("VALUE = 'one'\n")
    for n in range(modules):
        (folder / f"module{n}.py").write_text("".join(FUNCTION % (i, n) for i in range(40)))
    return folder


@contextmanager
def desk(
    folder: Path,
    dev: bool = True,
    speed: int = 10,
    runtime: bool = False,
    address: str = "",
    silent: bool = False,
) -> Iterator[Desk]:
    """A running board with the app's first release.

    Args:
        dev: it carries the fleet's dev key.
        runtime: the app stands on the runtime, and consists of little else.
        silent: the board says nothing when it resets, as chips do.
    """
    with serve.running(folder / "server") as server:
        surroundings = {
            "MIPY_HOME": str(folder / "home"),
            "MIPY_SERVER": server.url,
            "MIPY_TOKEN_FILE": str(folder / "server" / "token"),
        }
        with mock.patch.dict(os.environ, surroundings):
            changes.make_fleet()
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
            app = write_app(folder / "app", 0 if runtime else 18, runtime)
            client = Client(server.url, server.token)
            first = sign.sign_for_fleet(build.make(app, CLASS, build.minutes()))
            client.add_trust(keys.trust_files()[0])
            client.publish(first)
            with Board(folder / "board", address=address, speed=speed, silent=silent) as board:
                board.format(provision.board_files(who, keys.trust_files()[0], first, WIFI))
                board.radio(networks=WIFI)
                port = Port(board)
                try:
                    board.start(port.hear)
                    assert board.wait("turn 1"), board.console
                    yield Desk(app, board, port.path, client, record)
                finally:
                    board.stop()
                    port.close()
