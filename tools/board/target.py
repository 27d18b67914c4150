"""Which board is meant: by name, id, address or serial port, and how it is reached.

A name or id is looked up in the fleet's records, which also hold the WebREPL password; where the
board is on the network the server knows from its last poll, else `NAME.local` may (an ESP32
answers to it). The password goes to who proves to be the board, and else only if a person says so.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console, places
from ..console import Failure
from ..printable import printable

if TYPE_CHECKING:
    from ...signing.board_file import Board
    from ..fleet.enrol import Record
    from .repl import Stream

_START_SECONDS = 15.0
_ANSWER_SECONDS = 3.0
"""How long a board that has just started may take with an answer, before it is asked anew."""
_HOST = re.compile(r"(?P<host>[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+|localhost)(:(?P<port>\d{1,5}))?")
_SERIAL = re.compile(r"/|COM\d+$")


@dataclass(frozen=True)
class Target:
    """One board, not connected to yet.

    Attributes:
        name: what messages call it.
        port: its serial port, None when it is reached by WebREPL.
        host, number: where its WebREPL is.
        record: what the fleet knows of it, if anything.
        told: what the server knows of it, if anything.
        typed: the host is what a person gave, and not what a server or the network said.
    """

    name: str
    port: str | None = None
    host: str = ""
    number: int = 0
    record: Record | None = None
    told: dict[str, Any] | None = None
    typed: bool = False

    @property
    def board(self) -> Board | None:
        """Its board file."""
        return self.record.board if self.record else None

    def open(self, patience: float | None = None) -> Stream:
        """Connect to its console.

        Args:
            patience: see `WebRepl`.

        Raises:
            Failure: it is not reached, or lets nobody in.
        """
        if self.port is not None:
            from .repl import Serial

            return Serial(self.port)
        from .webrepl import Closed, Deaf, Refused, WebRepl

        end = time.monotonic() + (_START_SECONDS if self._opens() else 0)
        while True:
            try:
                return WebRepl(
                    self.host,
                    self._password,
                    self.name,
                    self.number,
                    patience,
                    self.board.key if self.board else None,
                    self.typed,
                )
            except (Closed, Deaf):
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            except Refused:
                _typed.pop((self.host, self.number), None)
                raise

    def reopen(self, seconds: float = 120) -> Stream:
        """Connect once more to a board that resets.

        Args:
            seconds: how long to try.

        Raises:
            Failure: it does not come back.
        """
        from .webrepl import Refused

        end = time.monotonic() + seconds
        while True:
            try:
                return self.open(_ANSWER_SECONDS)
            except Failure as failure:
                if time.monotonic() > end or isinstance(failure, Refused):
                    raise
                time.sleep(0.2)

    def _opens(self) -> bool:
        """Whether its WebREPL opens in a moment, if the board is starting just now."""
        dev = self.board is not None and self.board.dev is not None
        return dev or (self.told is not None and self.told["open"] is not None)

    def _password(self, doubt: str) -> str:
        """The board's password, for whom `WebRepl` has `doubt` about, or none.

        Raises:
            Unproved: it is not to be sent there.
        """
        known = self.board.webrepl if self.board else None
        if known:
            if doubt:
                self._ask_first(doubt)
            return known
        if (self.host, self.number) not in _typed:
            _typed[self.host, self.number] = self._asked()
        return _typed[self.host, self.number]

    def _asked(self) -> str:
        from getpass import getpass

        at = "" if self.name == self.host else f" at {self.host}"
        try:
            return getpass(printable(f"WebREPL password of {self.name}{at}: "))
        except EOFError:
            raise Failure(
                f"the password of {self.name} is not known here",
                "run it from a terminal; the board's label has it",
            ) from None

    def _ask_first(self, doubt: str) -> None:
        """A known password goes unasked to nobody but who has proved to be the board.

        Where that is, a server says, or whoever answers to its name on the network.
        """
        from .webrepl import Unproved

        there = (self.name, self.host, self.number)
        if there in _allowed:
            return
        console.warn(f"what answers at {self.host} {doubt}")
        if not sys.stdin.isatty():
            raise Unproved(
                f"the password of {self.name} is not sent to {self.host}",
                "run this at a terminal, where you are asked; see `mipy boards` for its address",
            )
        if not console.confirm(f"Send it the WebREPL password of {self.name} all the same?"):
            raise Unproved("the password was not sent", "over its cable a board needs none")
        _allowed.add(there)


_allowed: set[tuple[str, str, int]] = set()
"""Who may have which board's password, as a person has said in this run of the program."""
_typed: dict[tuple[str, int], str] = {}
"""The password that a person has typed for an address in this run: nobody types it twice."""


def find(board: str | None) -> Target:
    """The board that is called so; None: the one on a USB port.

    Raises:
        Failure: unknown board, or its address is unknown.
    """
    from ..flash import port as ports

    if board is None:
        found = ports.choose(ports.find())
        return Target(found, port=found)
    if is_port(board):
        return Target(board, port=board)
    address = _HOST.fullmatch(board)
    if address and not _known(board):
        return _at(address["host"], int(address["port"] or _port()))
    from ..fleet import enrol

    record = enrol.find(board)
    known = told(record.board.id)
    name = record.board.name or record.board.id
    return Target(name, host=_where(record, known), number=_port(), record=record, told=known)


def told(board_id: str) -> dict[str, Any] | None:
    """What the server knows of a board; None when that is nothing, or it cannot be asked."""
    return next((one for one in _boards() if one["id"] == board_id), None)


def is_port(board: str) -> bool:
    """Whether a serial port is meant; a folder of an app may be called as its board is."""
    return bool(_SERIAL.match(board)) or Path(board).is_char_device()


def is_address(board: str) -> bool:
    """Whether this has the form of an address, which a name with dots has as well."""
    return bool(_HOST.fullmatch(board))


def _known(board: str) -> bool:
    """Whether a board is called so; its name may have dots like a host's."""
    from ..fleet import enrol

    return any(board in (one.board.id, one.board.name) for one in enrol.records())


def _at(host: str, number: int) -> Target:
    """The board at an address; the server may know which one that is."""
    from ..fleet import enrol

    there = {board["id"]: board for board in _boards() if board["address"] == host}
    records = [one for one in enrol.records() if one.board.id in there]
    if len(records) != 1:
        return Target(host, host=host, number=number, typed=True)
    record = records[0]
    return Target(
        host,
        host=host,
        number=number,
        record=record,
        told=there[record.board.id],
        typed=True,
    )


def _where(record: Record, known: dict[str, Any] | None) -> str:
    """The host of a board of the fleet."""
    board = record.board
    if known and _is_address(known["address"]):
        return known["address"]
    # As bootloader/wifi.py makes the host name.
    name = f"{(board.name or board.id).replace('_', '-')[:32]}.local"
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError:
        raise Failure(
            f"nobody knows where {board.name or board.id} is: it has not polled the server yet",
            "give its address or serial port instead of its name; see `mipy boards`",
        ) from None


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.IPv4Address(text).is_unspecified
    except ValueError:
        return False


def _boards() -> list[dict[str, Any]]:
    """What the server knows; empty when it cannot be asked, as on a bench without one."""
    from ..fleet.client import connect

    try:
        return connect().boards()
    except Failure:
        return []


def _port() -> int:
    from .webrepl import PORT

    return PORT


def meant(board: str) -> Record:
    """A board by name, id, address, or the port that it is on: its chip is asked then.

    Raises:
        Failure: it is not of the fleet, or the chip does not answer.
    """
    from ..flash import chip
    from ..fleet import enrol

    called = [one for one in enrol.records() if board in (one.board.id, one.board.name)]
    if len(called) == 1:
        return called[0]
    if not is_address(board) and not is_port(board):
        return enrol.find(board)
    found = find(board)
    record = found.record
    if found.port:
        mac = chip.identify(found.port).mac
        chip.restart(found.port)
        record = enrol.known(mac)
    if record is None:
        raise Failure(
            f"the board at {board} is none of the fleet '{places.fleet()}'",
            "give its name or id; `mipy boards` lists what the server knows",
        )
    return record
