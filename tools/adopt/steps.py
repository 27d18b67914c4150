"""What an adoption writes, in the order that keeps the board able to start at any moment:

1. the backup, on this computer;
2. what the old program does not know of: boot stage, trust, board file, slot a, /data;
3. /main.py, then /boot.py, each replaced in one step: from here on the new program starts;
4. the old program's code is removed, since it would hide modules from the boot stage.

A run that was interrupted is continued by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .. import console
from ..board.remote import Remote, show
from ..board.repl import Raised
from .backup import Backup
from .plan import BOOT, DATA, MAIN, OURS, Plan, Tree

MARK = b"/state/adopt"
"""Here while an adoption is under way; holds the name of its backup."""
_FRESH = b"/state/new"
Step = tuple[str, Callable[[], None]]


def steps(remote: Remote, made: Plan, kept: Backup, files: Mapping[bytes, bytes]) -> Iterator[Step]:
    """All that is written, in the order that keeps the board able to start."""
    taken = [path for path in files if path in kept.tree and not path.startswith(DATA)]
    if not remote.holds(MAIN, files[MAIN]):
        yield "state", lambda: remote.folder(OURS[2])
        yield "state", lambda: remote.write(MARK, kept.path.name.encode())
        for path, content in files.items():
            if path not in (BOOT, MAIN) and path not in kept.tree:
                yield show(path), lambda p=path, c=content: _put(remote, p, c)
        for path, target in made.data.items():
            content = kept.tree[path] or b""
            yield show(target), lambda p=path, t=target, c=content: _copy(remote, p, t, c)
        yield "/main.py", lambda: switch(remote, MAIN, files[MAIN])
    # Also what the old program has under the same name, like /wifi.json.
    for path in {BOOT: None, **dict.fromkeys(taken)}:
        if not remote.holds(path, files[path]):
            yield show(path), lambda p=path: switch(remote, p, files[p])
    for path in made.code:
        yield f"removing {show(path)}", lambda p=path: remove(remote, p)
    for path in _emptied(made, kept.tree):
        yield f"removing {show(path)}", lambda p=path: remove(remote, p, folder=True)
    yield "done", lambda: remove(remote, MARK)


def work(steps: Iterator[Step]) -> None:
    """Do the steps, with a progress bar."""
    with console.progress() as bar:
        task = bar.add_task("writing", total=None)
        for label, act in steps:
            bar.update(task, description=label)
            act()
            bar.advance(task)


def _put(remote: Remote, path: bytes, content: bytes) -> None:
    if not remote.holds(path, content):
        remote.folder(path.rpartition(b"/")[0])
        remote.write(path, content)


def _copy(remote: Remote, path: bytes, target: bytes, content: bytes) -> None:
    if not remote.holds(target, content):
        remote.folder(target.rpartition(b"/")[0])
        remote.copy(path, target, content)


def switch(remote: Remote, path: bytes, content: bytes) -> None:
    """Put a file in the place of another in one step."""
    remote.write(_FRESH, content)
    remote.rename(_FRESH, path)


def remove(remote: Remote, path: bytes, folder: bool = False) -> None:
    """Remove what a former run may have removed."""
    try:
        (remote.remove_folder if folder else remote.remove)(path)
    except Raised as raised:
        if raised.kind != "OSError":
            raise


def _emptied(made: Plan, tree: Tree) -> list[bytes]:
    """Folders in which nothing but code was, deepest first."""
    stay = {path for path in tree if path not in made.code and tree[path] is not None}
    stay |= {path for path, content in tree.items() if content is None and bare(path, tree)}
    folders = {path for path, content in tree.items() if content is None and path not in stay}
    kept = {path for path in folders if any(other.startswith(path + b"/") for other in stay)}
    return sorted(folders - kept, key=lambda path: path.count(b"/"), reverse=True)


def bare(folder: bytes, tree: Tree) -> bool:
    """Whether nothing is in a folder of the tree."""
    return not any(path.startswith(folder + b"/") for path in tree)
