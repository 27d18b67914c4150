"""An app's folder: where it is, and what its app.toml says."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from .. import places
from ..console import Failure

FACTS = "app.toml"


@dataclass(frozen=True)
class Facts:
    """An app's app.toml."""

    name: str
    classes: tuple[str, ...]
    runtime: bool = True
    floor: int = 0


def facts(folder: Path) -> Facts:
    """Read `folder`/app.toml.

    Raises:
        Failure: it is missing or says something that has no meaning.
    """
    path = folder / FACTS
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Failure(
            f"{folder} is no app: it has no {FACTS}", "start one with `mipy new DIR`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise Failure(f"cannot read {path}: {problem}", "mend it") from problem
    kinds = {"name": str, "classes": list, "runtime": bool, "floor": int}
    for key, value in table.items():
        if key not in kinds or type(value) is not kinds[key]:
            raise Failure(
                f"{path}: '{key} = {value!r}' has no meaning",
                'it may say name = "...", classes = ["..."], runtime = true or false, floor = 0',
            )
    classes = table.get("classes", [])
    if "name" not in table or not all(isinstance(cls, str) for cls in classes):
        raise Failure(f"{path}: name and classes are texts", 'write name = "..." into it')
    return Facts(table["name"], tuple(classes), table.get("runtime", True), table.get("floor", 0))


def app_folder(named: Path | None) -> Path:
    """The app to build: the one named, else the current folder if it is one, else app_slots/."""
    here = Path.cwd()
    return named or (here if (here / FACTS).exists() else places.sources("app_slots"))


def classes_of(app_dir: Path, wanted: list[str] | None) -> tuple[str, ...]:
    """The classes to build for: those asked for, else all that app.toml names.

    Raises:
        Failure: there is none.
    """
    named = tuple(wanted) if wanted else facts(app_dir).classes
    if not named:
        raise Failure("for which class of boards?", "name it, like --class esp8266-generic")
    return named
