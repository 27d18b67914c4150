"""`mipy fs`: a board's files, in mpremote's words.

A file is written atomically: under another name first; then its hash is checked on the board, and
one rename puts it in its place. The slots and the boot stage's folders are read only:
what runs on a board is a signed release, for which there is `mipy push`.
"""

from __future__ import annotations

import errno
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..console import Failure
from ..files import failed
from . import session, target
from .remote import Remote, show
from .repl import Raised

PATH = Annotated[str, typer.Argument(metavar="[:]PATH", help="On the board; relative to /data.")]
HOME = "/data"
_SLOTS = "/app_slots"
_OURS = ("/bootloader", "/trust", "/state", "/boot.py", "/main.py")
_ERRORS = {
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "it is there already",
    errno.ENOTDIR: "it is no folder",
    errno.EISDIR: "it is a folder",
    errno.ENOSPC: "its flash is full",
    39: "the folder is not empty",
}
"""MicroPython's numbers, which are Linux's."""


def path_of(text: str) -> bytes:
    """An absolute path on the board; a relative one begins where apps begin, in /data."""
    full = posixpath.normpath(posixpath.join(HOME, text.removeprefix(":")))
    return ("/" + full.lstrip("/")).encode()


def writable(path: bytes) -> bytes:
    """The path, if it is nobody's but the app's.

    Raises:
        Failure: it is part of a release or of the boot stage.
    """
    text = show(path)
    if text == "/" or text == _SLOTS or text.startswith(_SLOTS + "/"):
        raise Failure(
            f"{text} holds signed releases: a file changed there would end in a rollback",
            "change the app and send it with `mipy push BOARD`",
        )
    if any(text == ours or text.startswith(ours + "/") for ours in _OURS):
        raise Failure(
            f"{text} is the boot stage's, which is written over the cable alone",
            "`mipy flash` writes it; an app's files belong into /data",
        )
    return path


@contextmanager
def files(board: str) -> Iterator[Remote]:
    """The files of a board, and its own errors in plain words."""
    with session.opened(target.find(board)) as repl:
        try:
            yield Remote(repl)
        except Raised as raised:
            if raised.kind != "OSError":
                raise
            raise Failure(f"the board says: {_plain(raised.text)}", "see `mipy fs ls`") from None


def _plain(text: str) -> str:
    """An OSError in plain words; known ones come as "[Errno 2] ENOENT", others as a number."""
    last = text.rpartition("OSError: ")[2]
    found = re.match(r"(?:\[Errno (\d+)\]|(\d+)$)", last)
    return _ERRORS.get(int(found[1] or found[2]), last) if found else last


def ls(board: options.Board, path: PATH = ":") -> None:
    """List a folder of a board."""
    with files(board) as remote:
        for name, size in sorted(remote.list(path_of(path)).items()):
            shown = show(name) + ("/" if size is None else "")
            console.say(f"{'' if size is None else size:>10} {shown}")


def tree(board: options.Board, path: PATH = ":/") -> None:
    """List a folder of a board and all that is in it."""
    top = path_of(path).rstrip(b"/")
    with files(board) as remote:
        console.say(show(top) or "/")
        for found, size in sorted(remote.tree(top).items()):
            depth = found.count(b"/") - top.count(b"/")
            name = show(found.rpartition(b"/")[2])
            console.say("   " * depth + name + ("/" if size is None else f"  {size}"))


def cat(board: options.Board, path: PATH) -> None:
    """Write a file of a board to standard output."""
    with files(board) as remote:
        console.output()(_fetched(remote, path_of(path)))


def cp(
    board: options.Board,
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A file; the board's begin with ':'.")
    ],
    to: Annotated[str, typer.Argument(metavar="DST", help="Where to; a folder ends in '/'.")],
) -> None:
    """Copy a file to a board, from a board, or on it.

    Paths on the board begin with ':'. What is cut off midway leaves the old file as it was.
    """
    if not (source.startswith(":") or to.startswith(":")):
        raise Failure(
            "neither file is the board's", "write the board's with a ':', like :notes.txt"
        )
    if to.startswith(":"):
        goal = path_of(to)
        if to == ":" or to.endswith("/"):
            goal = goal.rstrip(b"/") + b"/" + Path(source.removeprefix(":")).name.encode()
        writable(goal)
        content = None if source.startswith(":") else _local(Path(source))
        with files(board) as remote:
            if content is None:
                content = _fetched(remote, path_of(source))
            with console.progress() as bar:
                task = bar.add_task(show(goal), total=len(content))
                remote.put(goal, content, lambda sent: bar.update(task, completed=sent))
        return
    local = Path(to)
    if local.is_dir() or to.endswith("/"):
        local /= posixpath.basename(source)
    with files(board) as remote:
        content = _fetched(remote, path_of(source))
    from ..files import write

    try:
        write(local, content, 0o600 if _secret(path_of(source)) else 0o644)
    except OSError as problem:
        raise failed(f"cannot write {local}", problem) from problem


def _secret(path: bytes) -> bool:
    """Whether a board's file may hold its key or a network's password."""
    return path.startswith((b"/trust/", b"/state/")) or path == b"/wifi.json"


def _local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "name a file") from problem


def _fetched(remote: Remote, path: bytes) -> bytes:
    size = remote.size(path)
    if size is None:
        raise Failure(f"{show(path)} is a folder", "name a file")
    with console.progress() as bar:
        task = bar.add_task(show(path), total=size)
        return remote.read(path, size, lambda got: bar.update(task, completed=got))


def mkdir(board: options.Board, path: PATH) -> None:
    """Make a folder on a board."""
    goal = writable(path_of(path))
    with files(board) as remote:
        remote.folder(goal)


def rm(
    board: options.Board,
    path: PATH,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="A folder with all that is in it.")
    ] = False,
) -> None:
    """Remove a file or an empty folder of a board."""
    goal = writable(path_of(path))
    with files(board) as remote:
        if remote.size(goal) is not None:
            remote.remove(goal)
            return
        inside = remote.tree(goal) if recursive else {}
        for found in sorted(inside, key=lambda one: one.count(b"/"), reverse=True):
            (remote.remove_folder if inside[found] is None else remote.remove)(found)
        remote.remove_folder(goal)


def df(board: options.Board) -> None:
    """Show how full a board's flash is."""
    with files(board) as remote:
        size, free = remote.space()
    console.say(f"{size - free} of {size} bytes are used, {free} are free")


def sha256sum(board: options.Board, path: PATH) -> None:
    """Show a file's SHA-256, computed on the board."""
    goal = path_of(path)
    with files(board) as remote:
        console.say(f"{remote.digest(goal, remote.size(goal) or 0)}  {show(goal)}")
