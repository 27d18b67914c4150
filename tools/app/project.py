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
    """An app's app.toml.

    Attributes:
        name: the app's.
        classes: of boards that it is built for.
        runtime: whether it stands on the project's.
        floor: releases below it are refused once one is confirmed.
        modules: those that the boards' firmware has beyond the stock one.
        public: files that may be read by anybody although they look like secrets (leaks.py).
    """

    name: str
    classes: tuple[str, ...]
    runtime: bool = True
    floor: int = 0
    modules: tuple[str, ...] = ()
    public: tuple[str, ...] = ()


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
        raise Failure(
            f"cannot read {path}: {problem}", "correct it; `mipy new` writes one as an example"
        ) from problem
    kinds = {
        "name": str, "classes": list, "runtime": bool, "floor": int, "modules": list,
        "public": list,
    }  # fmt: skip
    for key, value in table.items():
        if key not in kinds or type(value) is not kinds[key]:
            raise Failure(
                f"{path}: '{key} = {value!r}' has no meaning",
                'it may say name = "...", classes = ["..."], runtime = true or false, floor = 0, '
                'modules = ["..."], public = ["..."]',
            )
    lists = {key: table.get(key, []) for key in ("classes", "modules", "public")}
    if "name" not in table or not all(isinstance(x, str) for some in lists.values() for x in some):
        raise Failure(
            f"{path}: name, classes, modules and public are texts", 'write name = "..." into it'
        )
    return Facts(
        table["name"],
        tuple(lists["classes"]),
        table.get("runtime", True),
        table.get("floor", 0),
        tuple(lists["modules"]),
        tuple(lists["public"]),
    )


def app_folder(named: Path | None) -> Path:
    """The app to build: the one named, else that of the current folder.

    In the project's own checkout that is the demo, app_slots/.

    Raises:
        Failure: the current folder is not an app's.
    """
    here = Path.cwd()
    if named or (here / FACTS).exists():
        return named or here
    if in_checkout():
        return places.sources("app_slots")
    raise Failure(
        f"{here} is no app: it has no {FACTS}",
        "`mipy new .` makes it one, `mipy new DIR` makes another folder; or name the app's folder",
    )


def in_checkout() -> bool:
    """Whether the current folder is the project's own checkout."""
    return Path.cwd().resolve() == places.sources("app_slots").resolve().parent


def app_named(said: str | None) -> str | None:
    """The name of the app that a person means; None where nothing tells.

    Args:
        said: what --app says: an app's name, or its folder. None: the app of the current folder.

    Raises:
        Failure: the folder's app.toml cannot be read.
    """
    folder = Path.cwd() if said is None else Path(said).expanduser()
    return facts(folder).name if (folder / FACTS).exists() else said


def classes_of(app_dir: Path, wanted: list[str] | None) -> tuple[str, ...]:
    """The classes to build for: those asked for, else all that app.toml names.

    Raises:
        Failure: there is none.
    """
    named = tuple(wanted) if wanted else facts(app_dir).classes
    if not named:
        raise Failure("for which class of boards?", "name it, like --class esp8266-generic")
    return named
