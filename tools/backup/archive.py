"""Archives of a fleet: a zip under a passphrase, written and read as a stream.

    "mipy-fleet 1\\n", salt (16 bytes), nonce (12), AES-256-GCM of the zip, tag (16)

The key comes of the passphrase as for backups of keys. The zip's last entry, `index.json`, has each
file's size and SHA-256. Nothing of a zip is looked at before the tag has proved it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from ..console import Failure
from ..files import failed
from ..keys import store
from ..keys.backup import stretch

HEADER = b"mipy-fleet 1\n"
LARGEST = 32 * 1024**3
"""Half of what AES-GCM may seal with one nonce (NIST SP 800-38D, 5.2.1.1)."""
INDEX = "index.json"
INDEX_BYTES = 64 * 1024**2
DEEPEST = 8
_SALT, _NONCE, _TAG = 16, 12, 16
_CHUNK = 1024 * 1024
_OTHER = "use another backup"
_PART = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}")


def allowed(name: str) -> bool:
    """Whether a file of this name, relative to the fleet's folder, may be in an archive."""
    parts = name.split("/")
    if name == INDEX or len(parts) > DEEPEST or not all(map(_PART.fullmatch, parts)):
        return False
    return parts[0] != "keys" or (len(parts) == 2 and store.is_ours(parts[1]))


class _Sealing:
    """What a zip is written to. It cannot seek, so the zip comes out in order."""

    def __init__(self, file: IO[bytes], passphrase: str) -> None:
        salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
        self._file = file
        self._cipher = _cipher(passphrase, salt, nonce).encryptor()
        self._cipher.authenticate_additional_data(HEADER)
        file.write(HEADER + salt + nonce)

    def write(self, data: bytes) -> int:
        self._file.write(self._cipher.update(data))
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.write(self._cipher.finalize() + self._cipher.tag)


def pack(path: Path, files: Iterable[tuple[str, Path]], passphrase: str) -> None:
    """Write an archive of (name, file) atomically, for its owner only.

    Raises:
        Failure: a file cannot be read, or the archive cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            sealing = _Sealing(file, passphrase)
            index = {}
            with zipfile.ZipFile(cast(Any, sealing), "w", zipfile.ZIP_DEFLATED) as packed:
                for name, source in files:
                    entry = packed.open(name, "w", force_zip64=True)
                    with source.open("rb") as content, entry as to:
                        index[name] = _copied(content, to)
                packed.writestr(INDEX, json.dumps({"files": index}))
            sealing.close()
            file.flush()
            os.fsync(file.fileno())
            if file.tell() > LARGEST:
                raise Failure(f"the fleet is larger than a backup may be ({LARGEST} bytes)")
        os.replace(part, path)
    except OSError as problem:
        raise failed(f"no backup is made: {problem.filename or path}", problem) from problem
    finally:
        part.unlink(missing_ok=True)


def unpack(path: Path, passphrase: str, target: Path) -> None:
    """Unpack an archive into `target`, a folder that is missing or empty, atomically.

    Raises:
        Failure: the passphrase is wrong, the archive is damaged or holds what it may not, or
            the folder is not empty or cannot be written.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent) as plain:
            _decrypt(path, passphrase, plain)
            part.mkdir(mode=0o700)
            with zipfile.ZipFile(plain) as packed:
                _extract(packed, part)
        _remove_empty(target)
        os.rename(part, target)  # onto nothing or an empty folder, else it fails
    except OSError as problem:
        raise failed(
            f"nothing is restored: {problem.filename or target}",
            problem,
            "make room for it, or name another place with --fleet or MIPY_HOME",
        ) from problem
    except (
        # What a damaged zip, or one that somebody else made, has to offer.
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
        ValueError, LookupError, TypeError, AttributeError,
    ) as problem:  # fmt: skip
        raise Failure(
            f"nothing is restored: {path} is not in order: {problem}", _OTHER
        ) from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    """Remove the empty folders in `folder`, such as a look at the fleet's keys leaves behind."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # something is in it, which the caller finds
                path.rmdir()


def begins_well(path: Path) -> None:
    """Raises Failure where a file is not an archive, or larger than one may be."""
    try:
        with path.open("rb") as file:
            found, size = file.read(len(HEADER)), os.fstat(file.fileno()).st_size
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "name a backup") from problem
    if found != HEADER or size > LARGEST:
        raise Failure(f"{path} is no backup of a fleet", "`mipy backup FILE` makes one")


def _decrypt(path: Path, passphrase: str, plain: IO[bytes]) -> None:
    from cryptography.exceptions import InvalidTag

    begins_well(path)
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - len(HEADER) - _SALT - _NONCE - _TAG
        _room(plain, left)
        file.seek(len(HEADER))
        salt, nonce = file.read(_SALT), file.read(_NONCE)
        if left < 0:
            raise Failure(f"{path} is not complete", _OTHER)
        cipher = _cipher(passphrase, salt, nonce).decryptor()
        cipher.authenticate_additional_data(HEADER)
        while left:
            chunk = file.read(min(_CHUNK, left))
            plain.write(cipher.update(chunk))
            left -= len(chunk)
        try:
            plain.write(cipher.finalize_with_tag(file.read(_TAG)))
        except (InvalidTag, ValueError) as problem:
            raise Failure(
                "the passphrase is wrong, or the backup is damaged", "try another passphrase"
            ) from problem


def _extract(packed: zipfile.ZipFile, folder: Path) -> None:
    """Raises ValueError and others for what is not in order, OSError for the disk."""
    entries = {entry.filename: entry for entry in packed.infolist()}
    index = _index(packed, entries.pop(INDEX))
    if len(packed.infolist()) != len(index) + 1 or entries.keys() != index.keys():
        raise ValueError("its files are not those of its index")
    _room(folder, sum(size for size, _ in index.values()))
    for name, wanted in index.items():
        if not allowed(name):
            raise ValueError(f"it holds {name!r}, which is no file of a fleet")
        path = folder / name
        for parent in list(path.relative_to(folder).parents)[-2::-1]:
            (folder / parent).mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with packed.open(entries[name]) as content, os.fdopen(handle, "wb") as to:
            if _copied(content, to, wanted[0]) != wanted:
                raise ValueError(f"{name!r} is damaged")
            to.flush()
            os.fsync(to.fileno())


def _index(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> dict[str, tuple[int, str]]:
    with packed.open(entry) as file:
        raw = file.read(INDEX_BYTES + 1)
    if len(raw) > INDEX_BYTES:
        raise ValueError("its index is too large")
    found: dict[str, Any] = json.loads(raw)["files"]
    for size, digest in found.values():
        if type(size) is not int or size < 0 or type(digest) is not str:
            raise ValueError("its index is no list of sizes and hashes")
    return {name: (size, digest) for name, (size, digest) in found.items()}


def _copied(content: IO[bytes], to: IO[bytes], most: int | None = None) -> tuple[int, str]:
    """Copy a file; its size and hash. It stops with the first chunk past `most` bytes."""
    size, digest = 0, hashlib.sha256()
    while chunk := content.read(_CHUNK):
        size += len(chunk)
        if most is not None and size > most:
            break
        digest.update(chunk)
        to.write(chunk)
    return size, digest.hexdigest()


def _room(where: Path | IO[bytes], size: int) -> None:
    free = shutil.disk_usage(where if isinstance(where, Path) else where.fileno()).free
    if size > free:
        raise Failure(f"nothing is restored: {size} bytes are needed, {free} are free")


def _cipher(passphrase: str, salt: bytes, nonce: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import GCM

    return Cipher(AES(stretch(passphrase, salt)), GCM(nonce))
