"""`mipy adopt --undo`: the board as it was before it was adopted."""

from __future__ import annotations

from collections.abc import Iterator

from .. import console
from ..board.remote import Facts, Remote, show
from ..console import Failure
from . import backup
from .plan import BOOT, MAIN, OURS, Tree
from .steps import Step, remove, switch, work


def give_back(remote: Remote, facts: Facts) -> None:
    """Bring the board back to its backup: every file equal, nothing else left.

    What is on it now is backed up first. A run that was broken off is simply run again.

    Raises:
        Failure: there is no backup of this board, or the connection broke.
    """
    wanted = backup.newest(facts.mac)
    now = backup.take(remote, facts, before_undo=True)
    now.save()
    console.say(f"what is on it now: {now.path}")
    work(steps_back(remote, wanted.tree, now.tree))
    if not _equal(remote, wanted.tree):
        raise Failure("the board differs from its backup", "run it again")
    console.say(f"the board is as it was: {wanted.path}")
    console.note("it stays on the server's list; it just does not answer any more")


def steps_back(remote: Remote, wanted: Tree, now: Tree) -> Iterator[Step]:
    for path, content in sorted(wanted.items()):
        if path in (BOOT, MAIN) or (path in now and now[path] == content):
            continue
        if path in now and (now[path] is None) != (content is None):
            for other in _deepest_first(path, now):
                yield show(other), lambda p=other: remove(remote, p, now[p] is None)
        if content is None:
            yield show(path), lambda p=path: remote.folder(p)
        else:
            yield show(path), lambda p=path, c=content: remote.write(p, c)
    yield "state", lambda: remote.folder(OURS[2])
    for path in (BOOT, MAIN):
        content = wanted.get(path)
        if content is not None and now.get(path) != content:
            yield show(path), lambda p=path, c=content: switch(remote, p, c)
        elif content is None and path in now:
            yield show(path), lambda p=path: remote.remove(p)
    if OURS[2] not in now:
        now = {**now, OURS[2]: None}
    for path in sorted(now, key=lambda path: path.count(b"/"), reverse=True):
        if path not in wanted and path not in (BOOT, MAIN):
            yield f"removing {show(path)}", lambda p=path: remove(remote, p, now[p] is None)


def _equal(remote: Remote, wanted: Tree) -> bool:
    sizes = {path: None if content is None else len(content) for path, content in wanted.items()}
    return remote.tree() == sizes and all(
        remote.holds(path, content) for path, content in wanted.items() if content is not None
    )


def _deepest_first(path: bytes, tree: Tree) -> list[bytes]:
    found = [other for other in tree if other == path or other.startswith(path + b"/")]
    return sorted(found, reverse=True)
