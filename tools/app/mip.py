"""`mipy mip`: third-party modules for an app's `lib/`, by mip's packages."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..console import Failure
from .packages import INDEX, LOCK, add, names, read_lock, write_lock

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
    """Remove packages from the app's lib/; files that were changed since stay."""
    lock = read_lock(app)
    for name in packages:
        if name not in lock:
            raise Failure(
                f"{name} is not in {app / LOCK}", f"there: {', '.join(sorted(lock)) or 'nothing'}"
            )
        gone = lock.pop(name)
        for file, sha in gone.files.items():
            path = app / "lib" / file
            if file in names(lock) or not path.is_file():
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha:
                console.warn(f"lib/{file} was changed and stays")
                continue
            path.unlink()
            if path.parent != app / "lib" and not any(path.parent.iterdir()):
                path.parent.rmdir()
    write_lock(app, lock)
