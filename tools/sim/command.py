"""`mipy sim`: a virtual board in the foreground, its console on the terminal."""

from __future__ import annotations

import hashlib
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console, options, places
from ..console import Failure
from ..printable import Printable
from .board import Chip, VirtualBoard

if TYPE_CHECKING:
    from ...signing.board_file import Board
    from ..fleet.client import Client

CLASSES: dict[Chip, str] = {"esp8266": "esp8266-generic", "esp32": "esp32-generic"}
NETWORKS = {"virtual": "virtual-air"}
"""The Wi-Fi around a virtual board, SSID -> password."""
PORTAL_PORT = 8080
"""Port 80, as a virtual board has it (chip/socket.py)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_VIRTUAL = "virtual"
_AGAIN_SECONDS = 1.0
_LEAVE = b"\x1d"  # Ctrl-], as in mpremote and telnet


def sim(
    name: Annotated[str, typer.Argument(help="The board; made when there is none.")] = "sim-01",
    chip: Annotated[str, typer.Option(help="esp8266 or esp32.")] = "esp8266",
    address: Annotated[
        str | None,
        typer.Option(help="Its loopback address, 127.x.y.z; from its name if not given."),
    ] = None,
    speed: Annotated[int, typer.Option(min=1, help="How many times faster its clock runs.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with a new flash chip.")] = False,
    app: options.AppName = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="A new board for development: dev key, WebREPL on.")
    ] = False,
) -> None:
    """Run a virtual board with its console.

    A new board belongs to the fleet, is made known to its server, and starts with the newest
    release there; if there is none, it waits for one in recovery. What is typed goes to the
    board, Ctrl-C too; Ctrl-C twice within a second, or Ctrl-], switches it off. Its flash is
    kept for the next time.
    """
    if not _NAME.fullmatch(name):
        console.fail(f"{name!r} is no board name", "use letters, digits, '_' and '-', at most 32")
    kind: Chip | None = next((known for known in CLASSES if known == chip), None)
    if kind is None:
        console.fail(f"there is no virtual {chip!r}", f"--chip is one of {', '.join(CLASSES)}")
    folder = places.data_dir() / "sim" / name
    new = fresh or not (folder / "flash.img").exists()
    who = identity(name, kind, dev, app)
    with VirtualBoard(folder, kind, address or address_of(name), speed) as board:
        board.radio(networks=NETWORKS)
        server = _introduce(who)
        if new:
            prepare(board, who, server)
        console.note(f"{name}, a virtual {chip} at {board.address}, polls {who.servers[0]}")
        for line in _around(who, board.address):
            console.note(line)
        console.note("Ctrl-C goes to the board; twice within a second, or Ctrl-], switches it off")
        with _terminal():
            _converse(board)
        sums = board.stats
    console.note(
        f"{name} is off: {sums.boots} boots, {sums.ops} flash operations ({sums.erases} erases), "
        f"{sums.sent} bytes sent, {sums.received} received"
    )


def _around(who: Board, address: str) -> Iterator[str]:
    """What a person needs to join the air around a board, which is virtual too."""
    for ssid, password in NETWORKS.items():
        yield f"the Wi-Fi in its air is '{ssid}', password '{password}'"
    password = f", its radio's password '{who.portal}'" if who.portal else ""
    yield f"its portal, when open: http://{address}:{PORTAL_PORT}/{password}"


# --- a new board


def identity(name: str, chip: Chip, dev: bool = False, app: str | None = None) -> Board:
    """Who the board is: made at its first start, and kept with the fleet's other boards.

    Args:
        app: of a new board, as --app says it.

    Raises:
        Failure: the fleet has no keys, the name is another board's, or it is of another app.
    """
    from ..app import project
    from ..flash.plan import dev_key
    from ..fleet import enrol
    from ..fleet.client import address

    found = next((one.board for one in enrol.records() if one.board.id == name), None)
    if found is None:
        named, key = enrol.app_of_new(app), dev_key() if dev else None
        found = enrol.make(name, named, CLASSES[chip], servers=(address(),), dev=key)
        enrol.keep(enrol.Record(found, chip=_VIRTUAL))
    elif app and project.app_named(app) != found.app:
        raise Failure(f"{name} is a board of the app {found.app}", "give another name with --app")
    elif found.cls != CLASSES[chip]:
        raise Failure(f"{name} is of class {found.cls}", "give the right --chip, or another name")
    elif dev and not found.dev:
        raise Failure(f"{name} is a production board already", "give another name with --dev")
    return found


def prepare(board: VirtualBoard, who: Board, server: Client | None) -> None:
    """Flash a new board: boot stage, trust file, board file, Wi-Fi, the newest release if any.

    Args:
        server: where to ask for releases; None: it starts without one.

    Raises:
        Failure: what the server gives is not what this fleet has signed.
    """
    from ..flash import provision
    from ..keys import store as keys

    release = _newest(server, who) if server else None
    if release is None:
        console.note(
            "there is no release for it yet: it waits in recovery for what `mipy release` publishes"
        )
    board.format(provision.board_files(who, keys.trust_files()[0], release, NETWORKS))


def _introduce(who: Board) -> Client | None:
    """Make the board known to the server; None, and a warning, when that is not there."""
    from ..fleet.client import connect

    try:
        server = connect()
        if who.id not in {board["id"] for board in server.boards()}:
            server.enrol(who.encode())
    except Failure as failure:
        console.warn(f"the board is not enrolled: {failure.text}")
        console.note("it runs, but no server knows it; start `mipy serve`, then the board again")
        return None
    return server


def _newest(server: Client, who: Board) -> bytes | None:
    from ...signing import bundle, manifest
    from ...signing.reasons import Refused
    from ..keys import store as keys

    for known in server.releases():
        if (known["app"], known["class"]) != (who.app, who.cls) or known["withdrawn"]:
            continue
        release = server.bundle(known["digest"])
        try:
            raw, contents = bundle.read(release)
            found = manifest.verify(raw, keys.trust()).manifest
            if (found.app, found.cls) != (who.app, who.cls):
                raise Refused("app", f"{found.app} for {found.cls}")
            bundle.check(found, contents)
        except Refused as refused:
            raise Failure(
                f"the server's release {known['seq']} is refused: {refused}",
                "publish one with `mipy release`",
            ) from refused
        return release
    return None


def address_of(name: str) -> str:
    """A loopback address that stays the same for a name and is hardly another's."""
    a, b, c = hashlib.sha256(name.encode()).digest()[:3]
    return f"127.{16 + a % 200}.{b}.{1 + c % 254}"


# --- its console


@contextmanager
def _terminal() -> Iterator[None]:
    """Ctrl-] ends the input as Ctrl-D does elsewhere, which means something to a board."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    changed = termios.tcgetattr(sys.stdin)
    changed[6][termios.VEOF] = _LEAVE
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _converse(board: VirtualBoard) -> None:
    board.start(_printer())
    pressed = 0.0
    listening = True
    while True:
        try:
            if listening and select.select([sys.stdin], [], [], 0.05)[0]:
                # Not sys.stdin.readline: its buffer would hide further lines from select.
                text = os.read(sys.stdin.fileno(), 4096).decode(errors="replace")
                if text:
                    board.type(text)
                elif sys.stdin.isatty():
                    return
                else:
                    listening = False
            elif not listening:
                time.sleep(0.05)
        except KeyboardInterrupt:
            now = time.monotonic()
            if now - pressed < _AGAIN_SECONDS or not sys.stdin.isatty():
                return
            pressed = now
            board.ctrl_c()


def _printer() -> Callable[[str], None]:
    """Shows what the board prints; escaped on a terminal, but for what edits its lines."""
    readable, stream = Printable(cursor=True), sys.stdout

    def put(text: str) -> None:
        stream.write(readable(text.encode()) if stream.isatty() else text)
        stream.flush()

    return put
