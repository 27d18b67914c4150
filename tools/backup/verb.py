"""`mipy backup` and `mipy restore`: a whole fleet in one encrypted file (docs/operations.md)."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from .. import console, options, places
from ..console import Failure
from ..keys import backup as key_backups
from ..keys import passphrase as secret
from . import archive

SERVER = "data/server"
DATABASE = f"{SERVER}/server.db"
LEFT_OUT = ("data/sim/", f"{SERVER}/server.", f"{SERVER}/server-before-")
"""Virtual boards; the database, which is copied by itself; copies of former databases."""

DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The server's data, as for mipy serve.")
]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to put the backup.")],
    data: DataFolder = None,
    passphrase_file: options.PassphraseFile = None,
) -> None:
    """Pack the whole fleet into one encrypted file: keys, records, the server's data.

    The server may run meanwhile. Virtual boards are left out.
    """
    folder = places.existing_fleet()
    if file.exists():
        raise Failure(f"{file} exists", "name another file; a backup replaces nothing")
    if file.resolve().is_relative_to(folder.resolve()):
        raise Failure(f"{file} is in the fleet's own folder", "name a place outside of it")
    server = data or folder / SERVER
    if data and not ((data / "server.db").is_file() or _elsewhere(data)):
        raise Failure(f"{data} is no data folder of a server", "name that of `mipy serve --data`")
    phrase = secret.ask("Passphrase for the backup", passphrase_file, twice=True)
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=folder) as temporary:
        files = {}
        database = server / "server.db"
        if database.is_file():  # first of all: what it names is among the content by then
            files[DATABASE] = _copied(database, Path(temporary) / "server.db")
        files |= dict(_files(folder, server))
        with console.busy("writing the backup"):
            archive.pack(file, sorted(files.items()), phrase)
        _tell_damage(server)
        if _elsewhere(server):
            console.warn(
                "the server's database is not in it, for it is on PostgreSQL; back it up with "
                "pg_dump (docs/operations.md)"
            )
        said = _in_words(len(files), files.get(DATABASE))
    key_backups.remember(path.name for name, path in files.items() if name.startswith("keys/"))
    size = file.stat().st_size
    console.say(f"{file}: {said}, {size} bytes; nobody can open it without the passphrase")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup made by mipy backup.")],
    passphrase_file: options.PassphraseFile = None,
) -> None:
    """Unpack a backup of a whole fleet. Nothing may be there yet."""
    archive.begins_well(file)
    folder = places.home() / places.fleet()
    if _holds_files(folder):
        raise Failure(
            f"the fleet '{places.fleet()}' is here already, in {folder}",
            "restore into another one with --fleet, or move that folder away",
        )
    phrase = secret.ask("Passphrase of the backup", passphrase_file)
    with console.busy("restoring"):
        archive.unpack(file, phrase, folder)
    key_backups.remember(path.name for path in places.keys_dir().iterdir())
    count = sum(path.is_file() for path in folder.rglob("*"))
    console.say(f"{_in_words(count, folder / DATABASE)} restored, in {folder}")
    console.note(
        "once boards have polled, `mipy status` tells if its trust file is older than theirs"
    )


def _elsewhere(server: Path) -> bool:
    """Whether the server of this data folder has its database on PostgreSQL."""
    return (server / "files").is_dir() and not (server / "server.db").exists()


def _files(folder: Path, server: Path) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path of all that is kept of a fleet, but the database."""
    for root, start in (("", folder), (f"{SERVER}/", server)):
        for path in _below(start):
            name = root + path.relative_to(start).as_posix()
            if not root and name.startswith(f"{SERVER}/"):
                continue  # comes with the server's folder, wherever that is
            if name.startswith(LEFT_OUT) or (
                name.startswith("keys/") and not archive.allowed(name)
            ):
                continue
            if not archive.allowed(name):
                raise Failure(f"no backup can hold the file {path}", "rename or remove it")
            yield name, path


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder; hidden ones are half-written, or none of ours."""
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if len(Path(at).relative_to(folder).parts) > archive.DEEPEST:
            raise Failure(f"{at} is too deep for a backup", "remove it")
        for name in names:
            path = Path(at, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _copied(database: Path, target: Path) -> Path:
    """A sound copy of the server's database, which may be in use."""
    from ...ota_server.storage.migrate import copy

    try:
        copy(database, target)
        with closing(sqlite3.connect(target)) as db:
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as failed:
        problem = str(failed)
    if problem != "ok":
        raise Failure(
            f"the database {database} is damaged: {problem}",
            "bring back an earlier backup, and keep this file until that is done",
        )
    return target


def _tell_damage(server: Path) -> None:
    """Warn of content that is not what its name says. It is packed as it is."""
    stored = [path for kind in ("files", "manifests") for path in _below(server / kind)]
    damaged = sum(_digest(path) != path.name for path in stored)
    if damaged:
        console.warn(
            f"{damaged} of {len(stored)} files that boards download are damaged; "
            "publishing their releases again mends them"
        )


def _digest(path: Path) -> str:
    """What the stored content should be called; "" when it cannot be read."""
    from ...ota_server.storage.content import inflated
    from ...signing import manifest
    from ...signing.reasons import Refused

    plain = inflated(path.read_bytes())
    if plain is None:
        return ""
    if path.parent.name != "manifests":
        return hashlib.sha256(plain).hexdigest()
    try:
        return manifest.parse(plain).digest  # its signatures do not count
    except Refused:
        return ""


def _in_words(files: int, database: Path | None) -> str:
    if database is None or not database.is_file():
        return f"{_counted(files, 'file')}, no server's data"
    with closing(sqlite3.connect(database)) as db:
        boards, releases = (
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("boards", "releases")
        )
    counts = ((files, "file"), (boards, "board"), (releases, "release"))
    return ", ".join(_counted(*one) for one in counts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _holds_files(folder: Path) -> bool:
    return folder.is_symlink() or any(not path.is_dir() for path in folder.rglob("*"))
