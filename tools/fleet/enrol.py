"""Who a board is: made once, at its first flash, and kept by the fleet.

A board's file (docs/protocol.md) and the chip it was flashed onto are kept together in the
fleet's records, so that a chip that is flashed again stays the same board, with the same key and
the same labels. The server is told all but the passwords.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...signing import board_file
from ...signing.board_file import Board
from ...signing.reasons import Refused
from .. import console, places
from ..app import project
from ..console import Failure
from ..files import failed, write
from ..keys import signed
from ..keys import store as keys

if TYPE_CHECKING:
    from ...signing.rsa import PublicKey

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Nothing in it is taken for another when it is read from a label."""
_WEBREPL_LETTERS = 9
_PORTAL_GROUPS = 3, 4
_KEY_BYTES = 32


@dataclass(frozen=True)
class Record:
    """A board of the fleet: its file, and the MAC and kind of its chip ("" when never seen)."""

    board: Board
    mac: str = ""
    chip: str = ""


def make(
    board_id: str,
    app: str,
    cls: str,
    *,
    name: str | None = None,
    servers: tuple[str, ...] = (),
    dev: PublicKey | None = None,
) -> Board:
    """A new board, with a key and passwords nobody else has.

    Raises:
        Failure: the fleet has no keys, an invalid id or name, or an address that breaks a rule.
    """
    groups, letters = _PORTAL_GROUPS
    board = Board(
        fleet=keys.trust().fleet,
        id=board_id,
        name=name,
        app=app,
        cls=cls,
        key=secrets.token_bytes(_KEY_BYTES),
        servers=servers,
        webrepl=_password(_WEBREPL_LETTERS),
        portal="-".join(_password(letters) for _ in range(groups)),
        dev=dev,
    )
    return checked(board)


def checked(board: Board) -> Board:
    """The board, when every value of it is allowed.

    Raises:
        Failure: one is not.
    """
    try:
        board.encode()
    except Refused as refused:
        raise Failure(
            f"no board file comes of this: {refused}",
            "names have letters, digits, '-', '_' and '.'; a server is http://HOST:PORT",
        ) from refused
    return board


def _password(letters: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(letters))


def app_of_new(said: str | None) -> str:
    """The app of a board that is new here.

    Args:
        said: what --app says: an app's name, or its folder. None: the app of the current folder,
            else the only one that this computer has made boards or releases for, else the demo in
            the project's own checkout.

    Raises:
        Failure: there are several, or none.
    """
    if named := project.app_named(said):
        return named
    apps = {one.board.app for one in records()} | {one.app for one in signed.known()}
    if len(apps) == 1:
        return apps.pop()
    if not apps and project.in_checkout():
        return project.facts(project.app_folder(None)).name
    there = f"the fleet has {', '.join(sorted(apps))}" if apps else "`mipy new DIR` starts one"
    raise Failure(
        "it is not said which app the board is for",
        f"run this in the app's folder, or name it with --app; {there}",
    )


# --- the fleet's records -------------------------------------------------------------------------


def _folder() -> Path:
    folder = places.data_dir() / "boards"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def records() -> list[Record]:
    """Every board that was flashed from here, by id.

    Raises:
        Failure: a record cannot be read.
    """
    return [_read(path) for path in sorted(_folder().glob("*.board"))]


def path_of(board_id: str) -> Path:
    """Where the file of this board is kept."""
    return _folder() / f"{board_id}.board"


def _read(path: Path) -> Record:
    try:
        board = board_file.parse(path.read_bytes())
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return Record(board, str(facts["mac"]), str(facts["chip"]))
    except FileNotFoundError:
        return Record(board_file.parse(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, Refused) as problem:
        raise Failure(
            f"the record {path} is damaged: {problem}",
            "bring it back from a backup, or delete it: the board is then a new one",
        ) from problem


def known(mac: str) -> Record | None:
    """The board on the chip with this MAC address, if it was flashed from here."""
    return next((one for one in records() if mac and one.mac == mac), None)


def imagined(name: str | None) -> Record | None:
    """The board of this name that has no chip yet: an image was made for it."""
    found = (one for one in records() if not one.mac and name and one.board.name == name)
    return next(found, None)


def find(board: str) -> Record:
    """A board by id or name.

    Raises:
        Failure: none or several are called so.
    """
    found = [one for one in records() if board in (one.board.id, one.board.name)]
    if len(found) == 1:
        return found[0]
    raise Failure(
        f"{len(found) or 'no'} boards of the fleet '{places.fleet()}' are called '{board}'",
        "give its id; `mipy boards` lists what the server knows",
    )


def keep(record: Record) -> Path:
    """Write the record; returns the path of the board file.

    Raises:
        Failure: another board has this id or name, or it cannot be written.
    """
    board = record.board
    for other in records():
        if other.board.id != board.id and board.name and other.board.name == board.name:
            raise Failure(
                f"the board {other.board.id} is called '{board.name}' already",
                "choose another name with --name",
            )
        if other.board.id == board.id and other.board.key != board.key:
            raise Failure(
                f"there is a board '{board.id}' already", "choose another name with --name"
            )
    path = path_of(board.id)
    facts = json.dumps({"mac": record.mac, "chip": record.chip}, indent=2) + "\n"
    try:
        write(path.with_suffix(".json"), facts.encode(), 0o600)
        write(path, board.encode(), 0o600)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem
    return path


def tell_server(path: Path) -> bool:
    """Enrol the board whose file is `path`; False, and a warning how to do it later, if not."""
    from .client import connect

    try:
        connect().enrol(path.read_bytes())
    except Failure as failure:
        console.warn(f"the board is not enrolled: {failure.text}")
        console.note(f"do it later: mipy boards --add {path}")
        return False
    return True


# --- where the server is -------------------------------------------------------------------------


def renewed(record: Record, **changes: object) -> Record:
    """The record with some values of its board changed; None keeps what there is."""
    kept = {name: value for name, value in changes.items() if value is not None}
    return replace(record, board=checked(replace(record.board, **kept)))
