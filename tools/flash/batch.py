"""Many boards: the next port, the next row of a table.

The table is the memory: a board's id is written into its row as soon as it is up, and rows with
an id are passed over, so a batch that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Collection
from pathlib import Path

from ...ota_server.words import many
from .. import console
from ..console import Failure
from ..files import failed, write
from ..fleet.enrol import Record
from . import port as ports

COLUMNS = ("name", "app", "class", "server", "id")
"""Of these `name` must be there; `id` is filled in here."""
_LOOK_SECONDS = 0.5
_QUOTE = 'a cell with a comma in it is written in quotes: "a, b"'

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows of the table.

    Raises:
        Failure: it cannot be read, a column is unknown, or a name is missing or used twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns, *lines = [[cell.strip() for cell in row] for row in csv.reader(file)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise Failure(f"cannot read {path}: {problem}", "it needs a first line: name") from problem
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown or "name" not in columns:
        raise Failure(
            f"{path}: "
            + (f"no column is called '{unknown[0]}'" if unknown else "no column 'name'"),
            f"its first line names columns: {', '.join(COLUMNS[:-1])}",
        )
    found = [dict(zip(columns, line, strict=False)) for line in lines if any(line)]
    names = [row["name"] for row in found]
    for line in lines:
        if len(line) > len(columns):
            raise Failure(f"{path}: {','.join(line)} has more cells than there are columns", _QUOTE)
    for name in names:
        if not name:
            raise Failure(f"{path}: a board has no name", "every board needs a name of its own")
        if names.count(name) > 1:
            raise Failure(
                f"{path}: two boards are called '{name}'", "every board needs a name of its own"
            )
    return found


def save(path: Path, table: list[Row]) -> None:
    """Write the table atomically.

    Raises:
        Failure: it cannot be written.
    """
    text = io.StringIO()
    columns = [column for column in COLUMNS if column == "id" or column in table[0]]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    try:
        write(path, text.getvalue().encode())
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem


Flash = Callable[[str, dict[str, object], Collection[str]], "Record | None"]
"""Port, what the row says, ids that are done; returns None when the board there is one of them."""


def run(path: Path, port: str | None, flash: Flash) -> None:
    """Flash a board for each row that has no id yet.

    Args:
        port: the one to use for all, each board after the other; None: whichever comes next.
        flash: flashes the board on a port; one that is done and still plugged in is passed over.

    Raises:
        Failure: of the board at hand; those before it are done and noted.
    """
    table = read(path)
    open_rows = [row for row in table if not row.get("id")]
    console.note(f"{len(table) - len(open_rows)} of {many(len(table), 'board')} done")
    next_port = _Ports(port)
    for row in open_rows:
        made = None
        while made is None:
            at = next_port(row["name"])
            made = flash(at, _wishes(row), {one["id"] for one in table if one.get("id")})
            if made is None:
                console.note(f"the board on {at} is done already")
        row["id"] = made.board.id
        save(path, table)
    console.say(f"done: {many(len(table), 'board')} of {path}")


def _wishes(row: Row) -> dict[str, object]:
    said: dict[str, object] = {"name": row["name"]}
    if row.get("app"):
        said["app"] = row["app"]
    if row.get("class"):
        said["cls"] = row["class"]
    if row.get("server"):
        said["servers"] = tuple(row["server"].split())
    return said


class _Ports:
    """Hands out ports, each once for as long as its board stays plugged in."""

    def __init__(self, port: str | None) -> None:
        self._only = port
        self._used: set[str] = set()

    def __call__(self, name: str) -> str:
        told = False
        while True:
            there = self._there()
            self._used &= set(there)
            fresh = [port for port in there if port not in self._used]
            if fresh:
                self._used.add(fresh[0])
                return fresh[0]
            if not told:
                console.say(f"plug in the board for '{name}'")
                told = True
            time.sleep(_LOOK_SECONDS)

    def _there(self) -> list[str]:
        if self._only:
            return [self._only] if Path(self._only).exists() else []
        return ports.find()
