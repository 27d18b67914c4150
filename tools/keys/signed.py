"""The manifests that this fleet's release keys have signed on this computer.

What a release is, the server may not tell: before one is signed again, it is looked up here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...signing import manifest
from ...signing.manifest import Manifest
from ...signing.reasons import Refused
from .. import places
from ..console import Failure
from ..files import failed, write


def keep(raw: bytes) -> None:
    """Remember a signed manifest.

    Raises:
        Failure: it cannot be written.
    """
    path = _folder() / manifest.parse(raw).digest
    try:
        write(path, raw, 0o600)
    except OSError as problem:
        raise failed(f"cannot write {path}", problem) from problem


def known() -> Iterator[Manifest]:
    """All of them, in no order.

    Raises:
        Failure: one is damaged.
    """
    for path in _folder().iterdir():
        if path.name.startswith("."):
            continue  # on its way when the computer went down
        try:
            found = manifest.parse(path.read_bytes())
            if found.digest != path.name:
                raise Refused("hash", "another manifest is in this file")
        except (OSError, Refused) as problem:
            raise Failure(
                f"the record {path} is damaged: {problem}",
                "bring it back from a backup, or delete it",
            ) from problem
        yield found


def _folder() -> Path:
    folder = places.data_dir() / "releases"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
