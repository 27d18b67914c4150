"""`mipy keys`: the keys of a fleet and its trust files (docs/keys.md).

They lie together in one private folder: `<role>-<id>.pem` and `trust.<version>`. A new fleet
and a restored one appear whole or not at all; a trust file is written after the key it names.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...signing import keys as pem
from ...signing import rsa
from ...signing import trust as trust_file
from ...signing.reasons import Refused
from ...signing.rsa import PublicKey
from ...signing.trust import Trust
from .. import console, places
from ..console import Failure
from ..files import write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ..fleet.client import Client

PASSPHRASE_FILE = "MIPY_PASSPHRASE_FILE"
_KEY_NAME = re.compile(rf"({'|'.join(pem.ROLES)})-([0-9a-f]{{16}})\.pem")
_TRUST_NAME = re.compile(r"trust\.([1-9][0-9]{0,5})")
_SECRET = 0o600
_SHORTEST_ID = 4

_BACKUP = b"mipy-keys 1\n"
_BACKUP_BYTES = 4 * 1024 * 1024
_SALT, _NONCE = 16, 12


@dataclass(frozen=True)
class KeyFile:
    """A private key on disk."""

    role: str
    id: str
    path: Path


def entries() -> list[KeyFile]:
    """All private keys of the fleet, by role and id."""
    found = [
        KeyFile(match[1], match[2], path)
        for path in places.keys_dir().iterdir()
        if (match := _KEY_NAME.fullmatch(path.name))
    ]
    return sorted(found, key=lambda key: (pem.ROLES.index(key.role), key.id))


def trust_files() -> list[bytes]:
    """All trust files of the fleet, version 1 first, each checked against the one before.

    Raises:
        Failure: one is missing or damaged.
    """
    folder = places.keys_dir()
    numbers = [
        int(match[1]) for path in folder.iterdir() if (match := _TRUST_NAME.fullmatch(path.name))
    ]
    try:
        found = [_trust_path(folder, number).read_bytes() for number in range(1, len(numbers) + 1)]
        if found:
            trust_file.verify_chain(found)
    except (OSError, Refused) as problem:
        raise Failure(
            f"the trust files in {folder} are damaged: {problem}",
            "bring them back with `mipy keys restore`",
        ) from problem
    return found


def trust() -> Trust:
    """The fleet's newest trust. Raises Failure when there are no keys yet."""
    found = trust_files()
    if not found:
        raise Failure(
            f"the fleet '{places.fleet()}' has no keys",
            "make them with `mipy keys new`, or bring them with `mipy keys restore`",
        )
    return trust_file.parse(found[-1])


def usable(role: str) -> list[KeyFile]:
    """The keys of `role` that are here and count: dev keys always, others as the trust says."""
    if role == "dev":
        return [key for key in entries() if key.role == role]
    valid = {key.id for key in trust().valid(role)}
    return [key for key in entries() if key.role == role and key.id in valid]


def find(start: str | None, roles: Iterable[str] = pem.ROLES) -> KeyFile:
    """The one key of these roles whose id begins with `start` (None: the only one).

    Raises:
        Failure: none or several do.
    """
    wanted = [key for key in entries() if key.role in roles and key.id.startswith(start or "")]
    if len(wanted) == 1:
        return wanted[0]
    which = f"{' or '.join(roles)} key" + (f" {start}..." if start else "")
    raise Failure(
        f"{'several keys match' if wanted else 'there is no'} {which}",
        "see `mipy keys list`, and give more of the id",
    )


def private(key: KeyFile) -> RSAPrivateKey:
    """Read a private key, asking for its passphrase where it has one.

    Raises:
        Failure: it cannot be read.
    """
    try:
        content = key.path.read_bytes()
        label = f"Passphrase of the {key.role} key {key.id}"
        phrase = _passphrase(label) if pem.is_encrypted(content) else None
        found = pem.from_pem(content, phrase)
        if PublicKey.of(found).id != key.id:
            raise pem.BadKey("another key is in this file")
    except (OSError, pem.BadKey, Refused) as problem:
        raise Failure(
            f"cannot use {key.path}: {problem}", "`mipy keys restore` brings it back"
        ) from problem
    return found


# --- making ------------------------------------------------------------------------------------


def make_fleet(app: str, *, passphrase: str | None = None, server: str | None = None) -> Trust:
    """Make one key of each role and trust version 1.

    Args:
        app: what the fleet's boards run.
        passphrase: locks all of them.
        server: address for the trust file.

    Raises:
        Failure: the fleet has keys already, or a name is not allowed.
    """
    folder = places.keys_dir()
    if any(folder.iterdir()):
        raise Failure(
            f"the fleet '{places.fleet()}' has keys already, in {folder}",
            "another fleet is `mipy --fleet NAME keys new`; one more key is `mipy keys new ROLE`",
        )
    made: dict[str, RSAPrivateKey] = {}
    with console.progress() as bar:
        task = bar.add_task("making keys", total=len(pem.ROLES))
        for role in pem.ROLES:
            made[role] = rsa.new_key()
            bar.advance(task)
    named = [(role, PublicKey.of(made[role])) for role in pem.TRUST_ROLES]
    try:
        first = trust_file.first(app, named, server=server)
    except Refused as refused:
        raise Failure(f"no trust file comes of this: {refused}", "choose another --app") from None
    contents = {
        f"{role}-{PublicKey.of(key).id}.pem": pem.to_pem(key, passphrase)
        for role, key in made.items()
    }
    contents["trust.1"] = trust_file.add_signature(first.encode(), made["root"])
    _put_all(folder, contents)
    return first


def add_key(role: str, passphrase: str | None = None, threshold: int | None = None) -> KeyFile:
    """Make one more key and, unless it is a dev key, the trust version that names it.

    Raises:
        Failure: the root keys that have to sign are not here, or too few keys for `threshold`.
    """
    folder = places.keys_dir()
    with console.busy(f"making a {role} key"):
        made = rsa.new_key()
    key_id = PublicKey.of(made).id
    new = KeyFile(role, key_id, folder / f"{role}-{key_id}.pem")
    following = None
    if role != "dev":
        following = _following(
            {key_id: made},
            add=[(role, PublicKey.of(made))],
            **({f"{role}_threshold": threshold} if threshold else {}),
        )
    _write(new.path, pem.to_pem(made, passphrase))
    if following:
        _write(*following)
    return new


def amend(**change: Any) -> None:
    """Make the trust version with this change (`trust.following`). Raises Failure as `add_key`."""
    _write(*_following({}, **change))


def _following(fresh: Mapping[str, RSAPrivateKey], **change: Any) -> tuple[Path, bytes]:
    """Path and content of the next trust file, signed by every root key that is here."""
    old = trust()
    try:
        new = trust_file.following(old, **change)
        raw = new.encode()
        here = {key.id: key for key in entries() if key.role == "root"}
        for root in sorted({key.id for key in [*old.valid("root"), *new.valid("root")]}):
            if root in fresh:
                raw = trust_file.add_signature(raw, fresh[root])
            elif root in here:
                raw = trust_file.add_signature(raw, private(here[root]))
        trust_file.verify_next(old, raw)
    except Refused as refused:
        hint = "bring the root keys with `mipy keys restore`"
        if refused.code == "threshold":
            hint = "make another key of this role first: `mipy keys new ROLE`"
        raise Failure(f"no trust version {old.version + 1}: {refused}", hint) from refused
    return _trust_path(places.keys_dir(), new.version), raw


def _trust_path(folder: Path, version: int) -> Path:
    return folder / f"trust.{version}"


def _write(path: Path, content: bytes) -> None:
    try:
        write(path, content, _SECRET)
    except OSError as problem:
        raise Failure(f"cannot write {path}: {problem.strerror}", "make room for it") from problem


def _put_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Fill an empty folder in one step, so that no half of a fleet is ever there."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir(mode=0o700)
        for name, content in contents.items():
            write(part / name, content, _SECRET)
        os.rename(part, folder)  # onto an empty folder, else it fails
    except OSError as problem:
        raise Failure(f"cannot fill {folder}: {problem.strerror}", "see what is in it") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish_trust(client: Client) -> int:
    """Send the server every trust version it has not got; returns how many that were.

    Raises:
        Failure: as `Client.add_trust`; or the server has another file under one of our versions.
    """
    ours = trust_files()
    have = _version_at(client.trust(), ours)
    if have > len(ours):
        console.warn(
            f"the server has trust version {have}, the newest here is {len(ours)}: bring the newer "
            "one here with `mipy keys restore` before you change keys"
        )
    missing = ours[have:]
    for raw in missing:
        client.add_trust(raw)
    return len(missing)


def _version_at(server: bytes | None, ours: list[bytes]) -> int:
    """The version of the server's newest trust file, which is one of ours or a later one."""
    if server is None:
        return 0
    try:
        theirs = trust_file.parse(server)
        if theirs.version <= len(ours):
            same = trust_file.parse(ours[theirs.version - 1])
            if replace(theirs, signatures=()) != replace(same, signatures=()):
                raise Refused("trust-version", f"another file is version {theirs.version} here")
    except Refused as refused:
        raise Failure(
            f"the server's trust file is not this fleet's: {refused}",
            "is it another fleet's server? see MIPY_SERVER and `mipy keys list`",
        ) from refused
    return theirs.version


# --- passphrases -------------------------------------------------------------------------------


def _passphrase(label: str, file: Path | None = None, twice: bool = False) -> str:
    """A passphrase: from `file`, else from the file that MIPY_PASSPHRASE_FILE names, else typed.

    Args:
        label: the prompt.
        twice: it is a new one, so have it typed again.
    """
    named = os.environ.get(PASSPHRASE_FILE)
    if file or named:
        return _read_passphrase(file or Path(str(named)))
    if not sys.stdin.isatty():
        raise Failure(
            "a passphrase is needed and nobody is at the keyboard",
            f"write it into a file, and name the file with {PASSPHRASE_FILE}",
        )
    return console.prompt(label, hidden=True, twice=twice)


def _read_passphrase(path: Path) -> str:
    try:
        phrase = path.expanduser().read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise Failure(f"cannot read the passphrase in {path}: {problem}") from problem
    if not phrase:
        raise Failure(f"{path} is empty", "write the passphrase into it")
    return phrase


_PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from a file."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# --- verbs -------------------------------------------------------------------------------------


def new(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="ROLE", help="One more key: root, release, debug or dev. A whole fleet if not."
        ),
    ] = None,
    app: Annotated[
        str | None, typer.Option(metavar="NAME", help="App of a new fleet; as in app.toml.")
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the keys by a passphrase.")
    ] = False,
    passphrase_file: _PassphraseFile = None,
    threshold: Annotated[
        int | None,
        typer.Option(min=1, help="From now on so many root or release keys must sign."),
    ] = None,
) -> None:
    """Make the keys of a fleet, or one more key and the trust version that names it."""
    if role is not None and role not in pem.ROLES:
        raise Failure(f"'{role}' is no role", f"choose from {', '.join(pem.ROLES)}", 2)
    if role not in ("root", "release") and threshold is not None:
        raise Failure("--threshold goes with one more root or release key", "", 2)
    phrase = None
    if passphrase or passphrase_file:
        phrase = _passphrase("Passphrase for the new keys", passphrase_file, twice=True)
    if role is None:
        from ..app.project import app_folder, facts

        made = make_fleet(app or facts(app_folder(None)).name, passphrase=phrase)
        console.say(f"keys of the fleet '{places.fleet()}', app '{made.app}':")
        list_keys()
        console.note("keep a copy off this machine: `mipy keys backup FILE`")
    else:
        key = add_key(role, phrase, threshold)
        console.say(f"{role} key {key.id}, in {key.path}")
        if role != "dev":
            _tell_version()


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Key id, or the start of it.")],
) -> None:
    """Make the trust version after which a key counts no more. There is no way back."""
    known = [key.id for _, key in trust().keys]
    matching = [known_id for known_id in known if known_id.startswith(key_id)]
    if len(key_id) < _SHORTEST_ID or len(matching) != 1:
        raise Failure(
            f"'{key_id}' names {len(matching)} of the trusted keys", "see `mipy keys list`"
        )
    amend(revoke=[matching[0]])
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
    amend(reset=(seq, floor))
    console.say(f"boards will take what lies above seq {seq}")
    _tell_version()


def server(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's new address.")],
) -> None:
    """Make the trust version that names the server's address to every board."""
    amend(server=url)
    console.say(f"boards will look for the server at {url} too")
    _tell_version()


def _tell_version() -> None:
    console.say(f"trust version {trust().version} is ready; `mipy keys publish` sends it out")


def publish() -> None:
    """Send new trust versions to the server, from which the boards take them."""
    from ..fleet.client import connect

    sent = publish_trust(connect())
    console.say(f"{sent} trust versions sent, the newest is {trust().version}")


def list_keys(as_json: _Json = False) -> None:
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
    here = {key.id: key for key in entries()}
    rows: dict[str, dict[str, Any]] = {
        key.id: {"role": key.role, "id": key.id, "since": None, "revoked": None}
        for key in here.values()
    }
    for raw in trust_files():
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


# --- backup ------------------------------------------------------------------------------------


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to put the backup.")],
    passphrase_file: _PassphraseFile = None,
) -> None:
    """Pack all keys and trust files into one encrypted file."""
    trust()  # nothing to keep, or something broken: say so now
    if file.exists():
        raise Failure(f"{file} exists", "name another file; a backup replaces nothing")
    phrase = _passphrase("Passphrase for the backup", passphrase_file, twice=True)
    contents = {
        path.name: path.read_bytes()
        for path in places.keys_dir().iterdir()
        if _KEY_NAME.fullmatch(path.name) or _TRUST_NAME.fullmatch(path.name)
    }
    _write(file, pack(contents, phrase))
    _remember(contents)
    console.say(f"{file}: {len(contents)} files; nobody can open it without the passphrase")


def backed_up() -> set[str]:
    """Names of the key files that are in some backup."""
    try:
        return set(_backed_up_path().read_text("utf-8").split())
    except FileNotFoundError:
        return set()


def _remember(names: Iterable[str]) -> None:
    text = "".join(f"{name}\n" for name in sorted(backed_up() | set(names)))
    _write(_backed_up_path(), text.encode())


def _backed_up_path() -> Path:
    return places.fleet_dir() / "backed-up"


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    passphrase_file: _PassphraseFile = None,
) -> None:
    """Bring keys back from a backup. Keys that are here stay as they are."""
    try:
        content = file.read_bytes() if file.stat().st_size <= _BACKUP_BYTES else b""
    except OSError as problem:
        raise Failure(f"cannot read {file}: {problem.strerror}", "name a backup") from problem
    if not content.startswith(_BACKUP):
        raise Failure(f"{file} is no backup of keys", "`mipy keys backup FILE` makes one")
    phrase = _passphrase("Passphrase of the backup", passphrase_file)
    contents = unpack(content, phrase)
    folder = places.keys_dir()
    missing = {name: data for name, data in contents.items() if not (folder / name).exists()}
    for name in sorted(contents.keys() - missing.keys()):
        if (folder / name).read_bytes() != contents[name]:
            raise Failure(
                f"{folder / name} differs from the backup's", "restore into another --fleet"
            )
    if not any(folder.iterdir()):
        _put_all(folder, missing)
    else:
        for name in sorted(missing):  # keys come before the trust files that name them
            _write(folder / name, missing[name])
    _remember(contents)
    console.say(f"{len(missing)} files restored, {len(contents) - len(missing)} were here")


def pack(contents: Mapping[str, bytes], passphrase: str) -> bytes:
    """Files as one encrypted blob: header, salt, nonce, AES-256-GCM of a zip (key by scrypt)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as bundle:
        for name in sorted(contents):
            bundle.writestr(name, contents[name])
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, plain.getvalue(), _BACKUP)
    return _BACKUP + salt + nonce + sealed


def unpack(content: bytes, passphrase: str) -> dict[str, bytes]:
    """The files in a backup. Raises Failure when the passphrase is wrong or it is damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    rest = content.removeprefix(_BACKUP)
    salt, nonce, sealed = rest[:_SALT], rest[_SALT : _SALT + _NONCE], rest[_SALT + _NONCE :]
    try:
        plain = AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, _BACKUP)
    except (InvalidTag, ValueError) as problem:
        raise Failure(
            "the passphrase is wrong, or the backup is damaged", "try another passphrase"
        ) from problem
    with zipfile.ZipFile(io.BytesIO(plain)) as bundle:
        names = bundle.namelist()
        for name in names:
            if not (_KEY_NAME.fullmatch(name) or _TRUST_NAME.fullmatch(name)):
                raise Failure(f"the backup holds '{name}', which is no key", "use another backup")
        return {name: bundle.read(name) for name in names}


def _stretch(passphrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # 32 MB and about 0.1 s a guess.
    return Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(passphrase.encode())
