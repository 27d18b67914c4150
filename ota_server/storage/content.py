"""Files by the SHA-256 of their plain bytes, manifests by their digest; deflated for boards.

Write-once: what a name stands for never changes, so any cache may serve it.
"""

import contextlib
import os
import tempfile
import zlib
from pathlib import Path

WINDOW_BITS = 10
"""Deflate window of everything that boards fetch: 1 KB of RAM on the chip (docs/protocol.md)."""


class Content:
    """A folder of such files. Its methods block; boards' requests run them in a thread.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left_over in folder.glob(".new-*"):
            left_over.unlink()

    def add(self, name: str, plain: bytes) -> None:
        """Store `plain` under `name` (64 hex digits), durably.

        What is there already stays, unless it is damaged: publishing again mends it.
        """
        final = self._folder / name
        if self._inflated(name) == plain:
            return
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(deflate(plain))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_folder(self._folder)

    def deflated(self, name: str) -> bytes | None:
        """The stored bytes, as boards fetch them; None when there is no such content."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def plain(self, name: str) -> bytes | None:
        """The content itself; None when it is missing or damaged."""
        return self._inflated(name)

    def _inflated(self, name: str) -> bytes | None:
        stored = self.deflated(name)
        return None if stored is None else inflated(stored)


def inflated(stored: bytes) -> bytes | None:
    """The content that was stored as these bytes; None when they are damaged."""
    try:
        return zlib.decompress(stored, -WINDOW_BITS)
    except zlib.error:
        return None


def deflate(plain: bytes) -> bytes:
    """Raw deflate with the window that a board has memory for."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -WINDOW_BITS)
    return packer.compress(plain) + packer.flush()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
