"""`mipy keys`: make, change, list, back up and restore a fleet's keys (docs/keys.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...signing import keys as pem
from ...signing import trust as trust_file
from .. import console, options, places
from ..console import Failure
from ..files import failed
from . import backup as backups
from . import changes, store
from . import passphrase as secret

_SHORTEST_ID = 4


def new(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="ROLE", help="One more key: root, release, debug or dev. A whole fleet if not."
        ),
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the keys by a passphrase.")
    ] = False,
    passphrase_file: options.PassphraseFile = None,
    threshold: Annotated[
        int | None,
        typer.Option(min=1, help="From now on so many root or release keys must sign."),
    ] = None,
) -> None:
    """Make the keys of a fleet, or one more key and the trust version that names it.

    One set of keys serves every app of the fleet.
    """
    if role is not None and role not in pem.ROLES:
        raise Failure(f"'{role}' is no role", f"choose from {', '.join(pem.ROLES)}", 2)
    if role not in ("root", "release") and threshold is not None:
        raise Failure("--threshold goes with one more root or release key", "", 2)
    phrase = None
    if passphrase or passphrase_file:
        phrase = secret.ask("Passphrase for the new keys", passphrase_file, twice=True)
    if role is None:
        made = changes.make_fleet(passphrase=phrase)
        console.say(f"keys of the fleet '{made.fleet}', for all of its apps:")
        list_keys()
        console.note("keep a copy off this machine: `mipy keys backup FILE`")
    else:
        key = changes.add_key(role, phrase, threshold)
        console.say(f"{role} key {key.id}, in {key.path}")
        if role != "dev":
            _tell_version()


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Key id, or the start of it.")],
) -> None:
    """Make the trust version after which a key counts no more. There is no way back."""
    known = [key.id for _, key in store.trust().keys]
    matching = [known_id for known_id in known if known_id.startswith(key_id)]
    if len(key_id) < _SHORTEST_ID or len(matching) != 1:
        raise Failure(
            f"'{key_id}' names {len(matching)} of the trusted keys", "see `mipy keys list`"
        )
    changes.amend(revoke=[matching[0]])
    console.say(f"{matching[0]} is revoked")
    _tell_version()


def reset(
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The highest that counts.")],
    floor: Annotated[
        int, typer.Argument(metavar="[FLOOR]", min=0, help="Nothing below it is installed.")
    ] = 0,
) -> None:
    """Make the trust version that brings every board's highest seq and floor down to these.

    The way out after a release whose number is too high. Withdraw that release first.
    """
    changes.amend(reset=(seq, floor))
    console.say(f"boards will take what lies above seq {seq}")
    _tell_version()


def server(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's new address.")],
) -> None:
    """Make the trust version that names the server's address to every board."""
    changes.amend(server=url)
    console.say(f"boards will look for the server at {url} too")
    _tell_version()


def _tell_version() -> None:
    console.say(f"trust version {store.trust().version} is ready; `mipy keys publish` sends it out")
    console.note("then make a new backup: an older one would bring the former keys back")


def list_keys(as_json: options.Json = False) -> None:
    """List the keys: what they may sign, since which trust version, and where they are."""
    rows = _overview()
    if as_json:
        console.data(rows)
    else:
        cells = [
            (row["role"], row["id"], row["since"], row["revoked"], "yes" if row["file"] else "no")
            for row in rows
        ]
        console.table("", ("role", "id", "since trust", "revoked in", "here"), cells)
        console.say(f"in {places.keys_dir()}")


def _overview() -> list[dict[str, Any]]:
    here = {key.id: key for key in store.entries()}
    rows: dict[str, dict[str, Any]] = {
        key.id: {"role": key.role, "id": key.id, "since": None, "revoked": None}
        for key in here.values()
    }
    for raw in store.trust_files():
        version = trust_file.parse(raw)
        for role, key in version.keys:
            row = rows.setdefault(
                key.id, {"role": role, "id": key.id, "since": None, "revoked": None}
            )
            row["since"] = row["since"] or version.version
        for key_id in version.revoked:
            row = rows.setdefault(
                key_id, {"role": "?", "id": key_id, "since": None, "revoked": None}
            )
            row["revoked"] = row["revoked"] or version.version
    for key_id, row in rows.items():
        row["file"] = str(here[key_id].path) if key_id in here else None
    order = [*pem.ROLES, "?"]
    return sorted(rows.values(), key=lambda row: (order.index(row["role"]), row["id"]))


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to put the backup.")],
    passphrase_file: options.PassphraseFile = None,
) -> None:
    """Pack all keys and trust files into one encrypted file."""
    store.trust()  # nothing to keep, or something broken: say so now
    if file.exists():
        raise Failure(f"{file} exists", "name another file; a backup replaces nothing")
    phrase = secret.ask("Passphrase for the backup", passphrase_file, twice=True)
    contents = {
        path.name: path.read_bytes()
        for path in places.keys_dir().iterdir()
        if store.is_ours(path.name)
    }
    store.save(file, backups.pack(contents, phrase))
    backups.remember(contents)
    console.say(f"{file}: {len(contents)} files; nobody can open it without the passphrase")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    passphrase_file: options.PassphraseFile = None,
) -> None:
    """Bring keys back from a backup. Keys that are here stay as they are."""
    try:
        content = file.read_bytes() if file.stat().st_size <= backups.LARGEST else b""
    except OSError as problem:
        raise failed(f"cannot read {file}", problem, "name a backup") from problem
    if not content.startswith(backups.HEADER):
        raise Failure(f"{file} is no backup of keys", "`mipy keys backup FILE` makes one")
    phrase = secret.ask("Passphrase of the backup", passphrase_file)
    contents = backups.unpack(content, phrase)
    folder = places.keys_dir()
    missing = {name: data for name, data in contents.items() if not (folder / name).exists()}
    for name in sorted(contents.keys() - missing.keys()):
        if (folder / name).read_bytes() != contents[name]:
            raise Failure(
                f"{folder / name} differs from the backup's", "restore into another --fleet"
            )
    if not any(folder.iterdir()):
        store.put_all(folder, missing)
    else:
        for name in sorted(missing):  # keys come before the trust files that name them
            store.save(folder / name, missing[name])
    backups.remember(contents)
    console.say(f"{len(missing)} files restored, {len(contents) - len(missing)} were here")
