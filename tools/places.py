"""Where things lie: device sources, the fleet's keys and records, caches.

Keys and fleet records live outside every checkout, so that no `make clean` and no `git add`
ever reaches them (docs/keys.md).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .console import Failure
from .files import failed

DEFAULT = "default"
"""The fleet of whoever names none."""
NEAR = 0.65
"""How alike, of 1, two names are taken for each other: "kitchen" and "kichten" are 0.86."""
_FLEET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


def sources(part: str) -> Path:
    """The folder of device sources `part` ("bootloader", "app_slots" or "examples").

    In a checkout that is a folder beside `tools/`; in a wheel the whole tree lies under
    `mipy_ota/`, where it is beside `tools/` as well.

    Raises:
        Failure: the installation carries no such folder.
    """
    folder = Path(__file__).resolve().parent.parent / part
    if not folder.is_dir():
        raise Failure(f"no {part}/ in this installation ({folder})", "install mipy-ota again")
    return folder


def home() -> Path:
    """The folder of all fleets: MIPY_HOME, else `$XDG_CONFIG_HOME/mipy`, else `~/.config/mipy`."""
    named = os.environ.get("MIPY_HOME")
    return Path(named).expanduser() if named else _xdg("XDG_CONFIG_HOME", ".config") / "mipy"


def cache() -> Path:
    """The folder of what can be fetched again: `$XDG_CACHE_HOME/mipy-ota` or `~/.cache/mipy-ota`.

    It is not created here.
    """
    return _xdg("XDG_CACHE_HOME", ".cache") / "mipy-ota"


def fleet() -> str:
    """Name of the fleet: `--fleet`, which sets MIPY_FLEET, else "default".

    Raises:
        Failure: the name would not make a safe folder name.
    """
    name = os.environ.get("MIPY_FLEET") or DEFAULT
    if not _FLEET_NAME.fullmatch(name):
        raise Failure(
            f"{name!r} is no fleet name",
            "use letters, digits, '.', '_' and '-', at most 32, starting with a letter or digit",
        )
    return name


def fleet_dir() -> Path:
    """The folder of this fleet, made if missing, for its owner only."""
    return _private(home() / fleet())


def existing_fleet() -> Path:
    """The folder of this fleet, where it is there already.

    Raises:
        Failure: it is not: nothing comes of a mistyped --fleet.
    """
    folder = home() / fleet()
    if not folder.is_dir():
        raise Failure(
            f"there is no fleet '{fleet()}' in {home()}; {_known()}",
            "name another one with --fleet, bring it here with `mipy restore FILE`, or make a new "
            f"one with `mipy --fleet {fleet()} keys new`; `mkdir -p {folder}` begins an empty one",
        )
    return fleet_dir()


def fleets() -> list[str]:
    """The names of the fleets that are here."""
    return sorted(path.name for path in home().glob("[!.]*") if path.is_dir())


def refuse_near_name() -> None:
    """Where a fleet would be new here, have its name differ from those that are.

    Raises:
        Failure: it looks like a mistyped one.
    """
    from difflib import get_close_matches

    folder, name = home() / fleet(), fleet()
    known = {one.lower(): one for one in fleets()}
    near = get_close_matches(name.lower(), known, n=1, cutoff=NEAR)
    if near and not folder.is_dir():
        raise Failure(
            f"there is no fleet '{name}' in {home()}, but '{known[near[0]]}'; {_known()}",
            f"name that one with --fleet; if '{name}' is to be a new one, `mkdir {folder}` first",
        )


def _known() -> str:
    found = fleets()
    return f"there are: {', '.join(found)}" if found else "there is none yet"


def keys_dir() -> Path:
    """The folder of this fleet's private keys and trust file."""
    return _private(fleet_dir() / "keys")


def data_dir() -> Path:
    """The folder of this fleet's records: the server's database and files, boards, labels."""
    return _private(fleet_dir() / "data")


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as problem:
        raise failed(
            f"cannot use {folder}",
            problem,
            "make it a folder of yours, or name another one with MIPY_HOME",
        ) from problem
    return folder


def _xdg(variable: str, fallback: str) -> Path:
    # The XDG specification has relative paths ignored.
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / fallback
