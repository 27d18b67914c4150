"""`mipy new`: start your own app, in a folder outside this project."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ...signing import envelope
from ...signing.reasons import Refused
from .. import console, places
from ..console import Failure
from ..files import failed
from .project import FACTS, facts

LIST = ("list", "?")
"""What `--example` takes beside a name; a shell may take a bare ? for itself."""
_COPIED = ("main.py", "config.py")
_SOURCES = (".py", ".html", ".js")  # of an example

_FACTS = """\
# What this folder is a release of; read by `mipy build`.
name = "{name}"
classes = [{classes}]
runtime = true
floor = 0
"""

_README = """\
# {name}

An app for MicroPython boards, updated over the air with MiPy-OTA.

| here | what |
|---|---|
| main.py | the app: what it sets up, what it does how often |
| config.py | its settings and their defaults; a board can override each |
| app.toml | its name and the classes of boards it is built for |
| drivers/ | own drivers; the project's can be imported without a copy |
| lib/ | third-party modules, by hand or by `mipy mip install` |
| www/ | its pages, if it serves any |

    mipy build      compile it and see how large it is
    mipy release    build, sign and publish it
    mipy flash      a new board for it, over USB; `mipy sim NAME` is a virtual one

A fleet has one set of keys for all of its apps: `mipy keys new`, once.

Releases can be read by whoever listens: no password and no key belongs into this folder.
"""

_IGNORED = """\
build/
__pycache__/
*.pem
*.key
.env
wifi.json
webrepl_cfg.py
"""


def new(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder; . for this one.")
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Begin with an example; the name list lists them."),
    ] = None,
) -> None:
    """Start an app of your own: main.py, config.py, app.toml, drivers/, lib/, README."""
    if example in LIST:
        for name in sorted(examples()):
            console.say(name)
        return
    if example:
        _known(example)
    if folder is None:
        raise Failure("which folder?", "`mipy new DIR`, or `mipy new .` for this one", 2)
    make(folder, example)
    console.say(f"{folder} is an app; `mipy build {folder}` compiles it")
    console.note(f"begin with {folder / 'main.py'}; README.md tells the rest")


def examples() -> dict[str, Path]:
    """The folders of the examples, by name."""
    return {path.parent.name: path.parent for path in places.sources("examples").glob("*/main.py")}


def _known(example: str) -> Path:
    """The folder of an example. Raises Failure where there is none of this name."""
    known = examples()
    if example not in known:
        raise Failure(f"there is no example {example!r}", f"there are {', '.join(sorted(known))}")
    return known[example]


def make(folder: Path, example: str | None = None) -> None:
    """Make the app `folder`, named after it, atomically.

    A folder that is there keeps what is in it; its own main.py, config.py or README.md, too.

    Raises:
        Failure: it is an app already, its name is no app's name, there is no such example, or it
            cannot be written.
    """
    begins = _known(example) if example else None
    target = folder.expanduser().absolute()
    if (target / FACTS).exists():
        raise Failure(f"{folder} is an app already", f"build it: `mipy build {folder}`")
    if target.exists() and not target.is_dir():
        raise Failure(f"{folder} is a file", "name a folder")
    name = target.resolve().name
    try:
        envelope.word(name)
    except Refused as refused:
        raise Failure(
            f"{name!r} is no name for an app", "use letters, digits, '_', '.' and '-'"
        ) from refused
    part = target.with_name(f".{target.name}.part")
    try:
        part.mkdir(parents=True)
        _fill(part, name, begins)
        if target.exists():
            _merge(part, target)
        else:
            part.rename(target)
    except OSError as problem:
        raise failed(f"cannot make {folder}", problem, "name another one") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _merge(part: Path, target: Path) -> None:
    """Put into `target` what it has not; app.toml, which makes it an app, comes last."""
    files = [path.relative_to(part) for path in sorted(part.rglob("*")) if path.is_file()]
    for name in sorted(files, key=lambda file: file.name == FACTS):
        if (target / name).exists():
            console.note(f"{name} is there and stays")
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part / name, target / name)


def _fill(folder: Path, name: str, example: Path | None) -> None:
    source = example or places.sources("app_slots")
    about = facts(source)
    files = (path.relative_to(source) for path in source.rglob("*") if path.suffix in _SOURCES)
    for copied in sorted(files) if example else map(Path, _COPIED):
        text = (source / copied).read_text("utf-8")
        text = re.sub(rf'^NAME = "{about.name}"$', f'NAME = "{name}"', text, flags=re.MULTILINE)
        (folder / copied).parent.mkdir(exist_ok=True)
        _text(folder / copied, text)
    classes = ", ".join(f'"{cls}"' for cls in about.classes)
    _text(folder / FACTS, _FACTS.format(name=name, classes=classes))
    _text(folder / "README.md", _README.format(name=name))
    _text(folder / ".gitignore", _IGNORED)
    for empty in ("drivers", "lib"):
        (folder / empty).mkdir()
        _text(folder / empty / ".gitkeep", "")


def _text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8", newline="\n")
