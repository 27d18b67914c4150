"""What changes a fleet's keys: a new fleet, one more key, the next version of the trust file.

A new fleet is made atomically; a trust file is written after the key it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...signing import keys as pem
from ...signing import rsa
from ...signing import trust as trust_file
from ...signing.reasons import Refused
from ...signing.rsa import PublicKey
from ...signing.trust import Trust
from .. import console, places
from ..console import Failure
from . import store
from .store import KeyFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


def make_fleet(*, passphrase: str | None = None, server: str | None = None) -> Trust:
    """Make one key of each role and trust version 1, which names the fleet.

    Args:
        passphrase: locks all of them.
        server: address for the trust file.

    Raises:
        Failure: the fleet has keys already, or had some, or a name is not allowed.
    """
    folder = places.keys_dir()
    if store.trust_files():
        raise Failure(
            f"the fleet '{places.fleet()}' has keys already, in {folder}",
            "another fleet is `mipy --fleet NAME keys new`; one more key is `mipy keys new ROLE`",
        )
    store.refuse_second_set()
    made: dict[str, RSAPrivateKey] = {}
    with console.progress() as bar:
        task = bar.add_task("making keys", total=len(pem.ROLES))
        for role in pem.ROLES:
            made[role] = rsa.new_key()
            bar.advance(task)
    named = [(role, PublicKey.of(made[role])) for role in pem.TRUST_ROLES]
    try:
        first = trust_file.first(places.fleet(), named, server=server)
    except Refused as refused:
        raise Failure(f"no trust file comes of this: {refused}", "choose another --fleet") from None
    contents = {
        f"{role}-{PublicKey.of(key).id}.pem": pem.to_pem(key, passphrase)
        for role, key in made.items()
    }
    contents["trust.1"] = trust_file.add_signature(first.encode(), made["root"])
    store.put_all(folder, contents)
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
    store.save(new.path, pem.to_pem(made, passphrase))
    if following:
        store.save(*following)
    return new


def amend(**change: Any) -> None:
    """Make the trust version with this change (`trust.following`). Raises Failure as `add_key`."""
    store.save(*_following({}, **change))


def _following(fresh: Mapping[str, RSAPrivateKey], **change: Any) -> tuple[Path, bytes]:
    """Path and content of the next trust file, signed by every root key that is here."""
    old = store.trust()
    try:
        new = trust_file.following(old, **change)
        raw = new.encode()
        here = {key.id: key for key in store.entries() if key.role == "root"}
        for root in sorted({key.id for key in [*old.valid("root"), *new.valid("root")]}):
            if root in fresh:
                raw = trust_file.add_signature(raw, fresh[root])
            elif root in here:
                raw = trust_file.add_signature(raw, store.private(here[root]))
        trust_file.verify_next(old, raw)
    except Refused as refused:
        hint = "bring the root keys with `mipy keys restore`"
        if refused.code == "threshold":
            hint = "make another key of this role first: `mipy keys new ROLE`"
        raise Failure(f"no trust version {old.version + 1}: {refused}", hint) from refused
    return store.trust_path(places.keys_dir(), new.version), raw
