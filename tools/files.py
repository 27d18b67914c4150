"""Atomic file writes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` so that `path` holds the old or the new, also after Ctrl-C or a power cut.

    Raises:
        OSError: as open, write and rename do; `path` is as it was.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # The mode at creation: a secret must never be readable, not even for a moment.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
