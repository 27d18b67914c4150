"""Atomic file writes, and what to do about a file that cannot be used."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from .console import Failure

_HINTS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room: your share of that disk is used up",
    errno.EROFS: "that disk can only be read; name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk is failing: copy what is on it, and use another one",
}
"""What helps depends on the cause, whichever file it is."""
_WHOSE = "see whose it is with `ls -ld`"


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


def failed(what: str, problem: OSError, hint: str = "") -> Failure:
    """The failure of a verb that cannot use a file.

    Args:
        what: what cannot be done, like "cannot write x".
        hint: what to do where the cause does not tell.
    """
    if problem.errno in (errno.EACCES, errno.EPERM):
        hint = f"{_WHOSE}, or {hint}" if hint else _WHOSE
    cause = problem.strerror or str(problem)
    return Failure(f"{what}: {cause}", _HINTS.get(problem.errno or 0, hint))
