"""The keys of a fleet and its trust files, on disk (docs/keys.md).

They lie together in one private folder: `<role>-<id>.pem` and `trust.<version>`. A fleet appears
there atomically.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...signing import keys as pem
from ...signing import trust as trust_file
from ...signing.reasons import Refused
from ...signing.rsa import PublicKey
from ...signing.trust import Trust
from .. import places
from ..console import Failure
from ..files import failed, write
from . import passphrase

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_KEY_NAME = re.compile(rf"({'|'.join(pem.ROLES)})-([0-9a-f]{{16}})\.pem")
_TRUST_NAME = re.compile(r"trust\.([1-9][0-9]{0,5})")
_SECRET = 0o600
BACKED_UP = "backed-up"
"""The file in a fleet's folder that names the keys which are in a backup."""


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
        found = [trust_path(folder, number).read_bytes() for number in range(1, len(numbers) + 1)]
        if found:
            trust_file.verify_chain(found)
    except (OSError, Refused) as problem:
        raise Failure(
            f"the trust files in {folder} are damaged: {problem}",
            "bring them back with `mipy keys restore`",
        ) from problem
    return found


def is_ours(name: str) -> bool:
    """Whether a file of this name is a key or a trust file."""
    return bool(_KEY_NAME.fullmatch(name) or _TRUST_NAME.fullmatch(name))


def trust() -> Trust:
    """The fleet's newest trust. Raises Failure when there are no keys yet."""
    found = trust_files()
    if not found:
        refuse_second_set()
        raise Failure(
            f"the fleet '{places.fleet()}' has no keys here",
            "if it has boards, bring theirs with `mipy keys restore FILE`: they obey no others; "
            "a new fleet gets its own by `mipy keys new`",
        )
    return trust_file.parse(found[-1])


def refuse_second_set() -> None:
    """See that new keys are for a fleet that has never had any: boards obey no second set.

    Raises:
        Failure: something here was made with keys that are missing now.
    """
    if traces := _traces():
        raise Failure(
            f"the keys of the fleet '{places.fleet()}' are missing: {traces}",
            "bring them back with `mipy keys restore FILE`, for its boards obey no others; "
            "another fleet is `mipy --fleet NAME keys new`",
        )


def _traces() -> str:
    """What tells that the fleet has had keys."""
    folder = places.fleet_dir()
    data = folder / "data"  # looked at, not made
    if boards := len(list((data / "boards").glob("*.board"))):
        return f"it has {boards} board{'s' if boards > 1 else ''}"
    if any((data / "releases").glob("[!.]*")):
        return "releases were signed with them"
    if (folder / BACKED_UP).exists():
        return "a backup holds them"
    return "private keys are here, without their trust files" if entries() else ""


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
    """Read a private key, asking for its passphrase where it has one that was not typed yet.

    Raises:
        Failure: it cannot be read.
    """
    try:
        content = key.path.read_bytes()
        found = _opened(content, f"Passphrase of the {key.role} key {key.id}")
        if PublicKey.of(found).id != key.id:
            raise pem.BadKey("another key is in this file")
    except (OSError, pem.BadKey, Refused) as problem:
        raise Failure(
            f"cannot use {key.path}: {problem}", "`mipy keys restore` brings it back"
        ) from problem
    return found


def _opened(content: bytes, label: str) -> RSAPrivateKey:
    if not pem.is_encrypted(content):
        return pem.from_pem(content)
    for phrase in passphrase.typed:
        with contextlib.suppress(pem.BadKey):  # it is another key's
            return pem.from_pem(content, phrase)
    return pem.from_pem(content, passphrase.ask(label))


def trust_path(folder: Path, version: int) -> Path:
    """Where this version of the trust file is kept."""
    return folder / f"trust.{version}"


def save(path: Path, content: bytes) -> None:
    """Write a file for its owner alone. Raises Failure when it cannot be written."""
    try:
        write(path, content, _SECRET)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem


def put_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Fill an empty folder in one step, so that no half of a fleet is ever there.

    Raises:
        Failure: it cannot be written, or is not empty.
    """
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        part.mkdir(mode=0o700)
        for name, content in contents.items():
            write(part / name, content, _SECRET)
        os.rename(part, folder)  # onto an empty folder, else it fails
    except OSError as problem:
        raise failed(f"cannot fill {folder}", problem, "see what is in it") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)
