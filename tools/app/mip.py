"""`mipy mip`: third-party modules for an app's `lib/`, by mip's packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..console import Failure
from .packages import (
    INDEX,
    LOCK,
    Package,
    add,
    names,
    reached,
    read_lock,
    sha,
    wanted,
    write_lock,
)

App = Annotated[Path, typer.Option("--app", metavar="DIR", help="The app; the current folder.")]


def install(
    packages: Annotated[
        list[str],
        typer.Argument(metavar="PACKAGE...", help="NAME[@VERSION], github:..., URL or path."),
    ],
    app: App = Path("."),
    index: Annotated[str, typer.Option(metavar="URL", help="Where names are looked up.")] = INDEX,
) -> None:
    """Put third-party modules into the app's lib/, with what they need.

    The next release takes them along. mip.lock notes their hashes; keep it with the app.
    """
    for name, package in add(app, packages, index).items():
        for file in package.files:
            console.say(f"lib/{file}")
        console.note(f"{name} {package.version}".rstrip())


def rm(
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE...", help="As in mip.lock.")],
    app: App = Path("."),
) -> None:
    """Remove packages from the app's lib/, with what only they need.

    Files that were changed since stay.
    """
    lock = read_lock(app)
    before = dict(lock)
    for name in packages:
        if name not in lock:
            raise Failure(
                f"{name} is not in {app / LOCK}", f"there: {', '.join(sorted(lock)) or 'nothing'}"
            )
        lock[name].asked = None
    left = reached(lock, wanted(lock))
    if needed := left.intersection(packages):
        name = min(needed)
        who = min(other for other in left if name in lock[other].needs)
        raise Failure(f"{who} needs {name}", f"remove both, or {who} alone")
    lock = {name: lock[name] for name in left}
    for name in sorted(before.keys() - left):
        _remove_files(app, before[name], names(lock))
        console.say(f"{name} is gone" + ("" if name in packages else ", nothing needs it"))
    write_lock(app, lock)


def _remove_files(app: Path, gone: Package, kept: set[str]) -> None:
    for file, came in gone.files.items():
        path = app / "lib" / file
        if file in kept or not path.is_file():
            continue
        if sha(file, path.read_bytes()) != came:
            console.warn(f"lib/{file} was changed and stays")
            continue
        path.unlink()
        if path.parent != app / "lib" and not any(path.parent.iterdir()):
            path.parent.rmdir()
