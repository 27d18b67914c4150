"""Backups of a fleet's keys: one encrypted file, and the note of what some backup holds."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from .. import places
from ..console import Failure
from . import store

HEADER = b"mipy-keys 1\n"
LARGEST = 4 * 1024 * 1024
_SALT, _NONCE = 16, 12


def backed_up() -> set[str]:
    """Names of the key files that are in some backup."""
    try:
        return set(_backed_up_path().read_text("utf-8").split())
    except FileNotFoundError:
        return set()


def remember(names: Iterable[str]) -> None:
    """Note that a backup holds the key files of these names."""
    text = "".join(f"{name}\n" for name in sorted(backed_up() | set(names)))
    store.save(_backed_up_path(), text.encode())


def _backed_up_path() -> Path:
    return places.fleet_dir() / store.BACKED_UP


def pack(contents: Mapping[str, bytes], passphrase: str) -> bytes:
    """Files as one encrypted blob: header, salt, nonce, AES-256-GCM of a zip (key by scrypt)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as bundle:
        for name in sorted(contents):
            bundle.writestr(name, contents[name])
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    sealed = AESGCM(stretch(passphrase, salt)).encrypt(nonce, plain.getvalue(), HEADER)
    return HEADER + salt + nonce + sealed


def unpack(content: bytes, passphrase: str) -> dict[str, bytes]:
    """The files in a backup. Raises Failure when the passphrase is wrong or it is damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    rest = content.removeprefix(HEADER)
    salt, nonce, sealed = rest[:_SALT], rest[_SALT : _SALT + _NONCE], rest[_SALT + _NONCE :]
    try:
        plain = AESGCM(stretch(passphrase, salt)).decrypt(nonce, sealed, HEADER)
    except (InvalidTag, ValueError) as problem:
        raise Failure(
            "the passphrase is wrong, or the backup is damaged", "try another passphrase"
        ) from problem
    with zipfile.ZipFile(io.BytesIO(plain)) as bundle:
        names = bundle.namelist()
        for name in names:
            if not store.is_ours(name):
                raise Failure(f"the backup holds '{name}', which is no key", "use another backup")
        return {name: bundle.read(name) for name in names}


def stretch(passphrase: str, salt: bytes) -> bytes:
    """The key of a backup (32 bytes), by scrypt (RFC 7914)."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # 32 MB and about 0.1 s a guess.
    return Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(passphrase.encode())
