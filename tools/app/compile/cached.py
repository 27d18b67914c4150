"""What was made from the same input before, kept in the cache folder under the input's SHA-256.

Processes may read and write side by side: a file is renamed into its place, and one whose checksum
is wrong (the disk was full, the power went) counts as missing. Nothing here is ever needed; what
cannot be kept is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from ... import places

DAYS = 30
"""What nobody has used for so long is removed."""
_DAY = 86_400.0
_SUM = 32  # bytes of SHA-256 in front of the content


def content(parts: tuple[bytes, ...], make: Callable[[], bytes]) -> bytes:
    """What `make` returns for this input.

    Args:
        parts: everything that the result depends on, the version of its maker included.
        make: is called where it is not here yet; what it raises is raised.
    """
    digest = sha256(f"{sys.version_info[:2]}".encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    path = _folder() / digest.hexdigest()
    found = _read(path)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):
            _write(path, found)
    return found


def texts(parts: tuple[bytes, ...], make: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """The same for texts by name."""
    return json.loads(content(parts, lambda: json.dumps(make()).encode()))


def _folder() -> Path:
    return places.cache() / "build"


def _read(path: Path) -> bytes | None:
    try:
        raw = path.read_bytes()
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)  # when it was last used, to the day
    except OSError:
        return None
    return raw[_SUM:] if sha256(raw[_SUM:]).digest() == raw[:_SUM] else None


def _write(path: Path, made: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tidy(path.parent)
    handle, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(sha256(made).digest() + made)
        os.replace(part, path)
    except OSError:
        os.unlink(part)
        raise


@cache
def _tidy(folder: Path) -> None:
    """Once a process."""
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > DAYS * _DAY:
                os.unlink(entry)
