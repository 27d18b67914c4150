"""`mipy build`: an app's folder becomes an unsigned release for each class of boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...signing import manifest
from .. import console, options
from ..files import failed, write
from .build import Built, assemble, minutes
from .project import app_folder, classes_of, facts


def build(
    folder: options.AppFolder = None,
    cls: options.Classes = None,
    seq: Annotated[
        int | None, typer.Option(min=0, help="Number of the release; minutes since 2020.")
    ] = None,
    floor: options.Floor = None,
    note: options.Note = "-",
    compile_all: options.CompileAll = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to put it.")
    ] = Path("build"),
    as_json: options.Json = False,
) -> None:
    """Compile an app into an unsigned release, one for each class of boards."""
    app_dir = app_folder(folder)
    results: list[dict[str, Any]] = []
    for one in classes_of(app_dir, cls):
        number = next_seq(app_dir, one, output) if seq is None else seq
        built = assemble(app_dir, one, number, floor=floor, note=note, compile_all=compile_all)
        path = save(built, output)
        for warning in built.warnings:
            console.warn(warning)
        if not as_json:
            _show(built, path)
        results.append(_as_data(built, path))
    if as_json:
        console.data(results)


def file_name(made: manifest.Manifest) -> str:
    """What a release's bundle is called."""
    return f"{made.app}-{made.cls}-{made.seq}.ota"


def next_seq(app_dir: Path, cls: str, output: Path) -> int:
    """This minute's seq, or the next that `output` has no release with."""
    name, seq = facts(app_dir).name, minutes()
    while (output / f"{name}-{cls}-{seq}.ota").exists():
        seq += 1
    return seq


def save(built: Built, output: Path) -> Path:
    """Put the bundle into `output`. Raises Failure when it cannot be written."""
    path = output / file_name(built.manifest)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write(path, built.bundle)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem, "name another --output") from None
    return path


def _show(built: Built, path: Path) -> None:
    made = built.manifest
    rows = [(file.name, f"{file.size:>7}") for file in made.files]
    console.table(
        f"{made.app} for {made.cls}, seq {made.seq}",
        ("file", "  bytes"),
        [*rows, (f"{len(made.files)} files", f"{made.total:>7}")],
    )
    if built.left_out:
        console.note(f"not in it: {', '.join(f'{name}/' for name in built.left_out)}")
    console.say(f"{path} (not signed yet: `mipy sign {path}`)")


def _as_data(built: Built, path: Path) -> dict[str, Any]:
    made = built.manifest
    return {
        "path": str(path),
        "app": made.app,
        "class": made.cls,
        "seq": made.seq,
        "floor": made.floor,
        "digest": made.digest,
        "mpy": made.mpy,
        "arch": made.arch,
        "total": made.total,
        "files": {file.name: file.size for file in made.files},
        "warnings": list(built.warnings),
        "left_out": list(built.left_out),
    }
