"""Backups of a board's file system: zip files that any tool opens.

A name in the zip is the board's path, with `%XX` for what text or a zip cannot hold (bytes that
are no UTF-8, control characters, `%` and `\\`). The zip's comment says which board it is of.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from .. import console, places
from ..board.remote import Facts, Remote
from ..console import Failure
from ..files import failed, write

_BEFORE_UNDO = "before-undo"
_LITERAL = re.compile(r"[^%\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Backup:
    """All of a board's files: path -> content, None for a folder."""

    path: Path
    about: Mapping[str, Any]
    tree: dict[bytes, bytes | None] = field(repr=False)

    def save(self) -> None:
        """Write it, for its owner only: a board's files hold passwords.

        Raises:
            Failure: it cannot be written.
        """
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.comment = json.dumps(self.about).encode()
            for path, content in sorted(self.tree.items()):
                name = name_of(path) + ("/" if content is None else "")
                packed.writestr(zipfile.ZipInfo(name), content or b"")
        try:
            write(self.path, out.getvalue(), 0o600)
        except OSError as problem:
            raise failed(f"cannot write {self.path}", problem) from problem


def folder() -> Path:
    """Where this fleet's backups of boards lie."""
    where = places.data_dir() / "backups"
    where.mkdir(mode=0o700, exist_ok=True)
    return where


def take(remote: Remote, facts: Facts, before_undo: bool = False) -> Backup:
    """Read all files of a board; nothing is written yet, here or there.

    Args:
        before_undo: for a look back only; `newest` passes it over.
    """
    tree: dict[bytes, bytes | None] = {}
    sizes = remote.tree()
    with console.progress() as bar:
        task = bar.add_task("reading", total=sum(size or 0 for size in sizes.values()))
        for path, size in sizes.items():
            tree[path] = None if size is None else remote.read(path, size)
            bar.advance(task, size or 0)
    when = time.strftime("%Y%m%d-%H%M%S")
    kind = f"-{_BEFORE_UNDO}" if before_undo else ""
    name = f"{facts.mac.replace(':', '')}-{when}{kind}.zip"
    return Backup(folder() / name, asdict(facts), tree)


def load(name: str) -> Backup:
    """The backup called `name`.

    Raises:
        Failure: it is not here, or damaged.
    """
    path = folder() / Path(name).name
    try:
        with zipfile.ZipFile(path) as packed:
            tree = {
                path_of(entry.filename.rstrip("/")): None if entry.is_dir() else packed.read(entry)
                for entry in packed.infolist()
            }
            return Backup(path, json.loads(packed.comment), tree)
    except FileNotFoundError as problem:
        raise Failure(
            f"the board's backup {path} is not here",
            "run this on the computer where the board was adopted, or bring the file",
        ) from problem
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise Failure(f"the backup {path} is damaged: {problem}", "bring a copy of it") from problem


def newest(mac: str) -> Backup:
    """The newest backup of the board with this MAC address, as it was before it was adopted.

    Raises:
        Failure: there is none here.
    """
    start = mac.replace(":", "")
    names = [p.name for p in folder().glob(f"{start}-*.zip") if _BEFORE_UNDO not in p.name]
    if not names:
        raise Failure(
            f"there is no backup of the board {mac} in {folder()}",
            "run this on the computer where the board was adopted, or bring the file",
        )
    return load(max(names))


def name_of(path: bytes) -> str:
    """The name in a zip of an absolute path on a board."""
    text = path[1:].decode("utf-8", "surrogateescape")
    return "".join(map(_escaped, text))


def _escaped(letter: str) -> str:
    if _LITERAL.fullmatch(letter) and not "\udc80" <= letter <= "\udcff":
        return letter
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))


def path_of(name: str) -> bytes:
    """The path on a board of a name in a zip."""
    return b"/" + unquote_to_bytes(name)
