"""LittleFS images as stock firmware makes and mounts them.

Geometry as in extmod/vfs_lfs.c and the ports' inisetup; a chip refuses an image of another block
count. Fresh images have disk version 2.0, which every firmware mounts; newer firmware raises
it to 2.1 at its first write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from littlefs import LittleFS, LittleFSError, UserContext

BLOCK = 4096
_GEOMETRY: dict[str, Any] = {
    "block_size": BLOCK,
    "read_size": 32,
    "prog_size": 32,
    "cache_size": 128,
    "lookahead_size": 32,
    "block_cycles": 100,
    "name_max": 255,
}
# Nothing on the flash tells the cache's size; it says how much is read at once.
_WHOLE_BLOCKS = {**_GEOMETRY, "cache_size": BLOCK}
_EMPTY = b"\xff" * BLOCK
_DISK_VERSION = 0x00020000
_MAGIC, _MAGIC_AT = b"littlefs", 8
_SUPERBLOCK_AT = 20
"""Disk version, block size and block count, behind the magic's tag and their own."""


def blank(blocks: int) -> bytes:
    """A formatted, empty image of `blocks` 4 KB blocks."""
    return build({}, blocks)


def build(files: Mapping[str, bytes], blocks: int) -> bytes:
    """An image of `blocks` 4 KB blocks that holds `files` (absolute or relative paths).

    Raises:
        littlefs.LittleFSError: they do not fit.
    """
    flash = _Memory(b"\xff" * BLOCK * blocks)
    system = LittleFS(
        flash, **_GEOMETRY, block_count=blocks, disk_version=_DISK_VERSION, mount=False
    )
    system.format()
    system.mount()
    for path, data in sorted(files.items()):
        _put(system, path, data)
    system.unmount()
    return bytes(flash.buffer)


def from_folder(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, as `build` takes them."""
    return {
        "/" + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(image: bytes) -> dict[str, bytes]:
    """All files in an image, by absolute path.

    Raises:
        littlefs.LittleFSError: the image does not mount, or a file cannot be read.
    """
    system = _mount(_Memory(image), _WHOLE_BLOCKS)
    return {path: _get(system, path) for path in _walk(system)}


def begins(blocks: bytes) -> bool:
    """Whether a file system begins with these two blocks; one of them may be damaged."""
    found = (blocks[at + _MAGIC_AT :][: len(_MAGIC)] for at in (0, BLOCK))
    return _MAGIC in found


def blocks(head: bytes) -> int | None:
    """How many 4 KB blocks the file system has that begins with the two blocks `head`.

    None if none begins there; a chip mounts it only if this is the number that it expects. The
    place is that of the superblock's entry (littlefs SPEC.md, "0x001 LFS_TYPE_INLINESTRUCT").
    """
    for at in (0, BLOCK):
        if head[at + _MAGIC_AT :].startswith(_MAGIC):
            _, size, count = struct.unpack_from("<III", head, at + _SUPERBLOCK_AT)
            return count if size == BLOCK else None
    return None


def some(read: Callable[[int, int], bytes], prefixes: tuple[str, ...]) -> dict[str, bytes]:
    """The files whose paths begin so, of a file system whose size its superblock tells.

    Args:
        read: gives `size` bytes from `offset`; what it raises is raised here.

    Raises:
        littlefs.LittleFSError: it does not mount, or a file cannot be read.
    """
    lazy = _Lazy(read)
    try:
        system = LittleFS(lazy, **_GEOMETRY, block_count=0, mount=False)
        system.mount()
        paths = [path for path in _walk(system) if path.startswith(prefixes)]
        found = {path: _get(system, path) for path in paths}
    except LittleFSError:
        if lazy.problem:
            raise lazy.problem from None
        raise
    if lazy.problem:
        raise lazy.problem
    return found


class _Memory(UserContext):
    """An image in memory. The library's own formats a log line at every access, and is slower."""

    def __init__(self, image: bytes) -> None:
        super().__init__(0)
        self.buffer = bytearray(image)

    def read(self, cfg: Any, block: int, off: int, size: int) -> bytearray:
        """See `UserContext`."""
        at = block * BLOCK + off
        return self.buffer[at : at + size]

    def prog(self, cfg: Any, block: int, off: int, data: bytes) -> int:
        """See `UserContext`."""
        at = block * BLOCK + off
        self.buffer[at : at + len(data)] = data
        return 0

    def erase(self, cfg: Any, block: int) -> int:
        """See `UserContext`."""
        return self.prog(cfg, block, 0, _EMPTY)


class _Lazy(UserContext):
    """Blocks that are read when LittleFS asks for them; an exception would not get through it."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        super().__init__(0)
        self._read = read
        self.problem: Exception | None = None

    def read(self, cfg: Any, block: int, off: int, size: int) -> bytearray:
        """See `UserContext`."""
        if self.problem is None:
            try:
                return bytearray(self._read(block * BLOCK + off, size))
            except Exception as problem:
                self.problem = problem
        return bytearray(b"\xff" * size)


@contextmanager
def opened(path: Path) -> Iterator[LittleFS]:
    """The file system in the image file `path`, written back when the block ends well."""
    flash = _Memory(path.read_bytes())
    system = _mount(flash)
    yield system
    system.unmount()
    path.write_bytes(flash.buffer)


def put(path: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` into the image file `path`; folders are made."""
    with opened(path) as system:
        for name, data in sorted(files.items()):
            _put(system, name, data)


def get(path: Path, name: str) -> bytes:
    """One file of the image file `path`.

    Raises:
        FileNotFoundError: there is none.
    """
    return _get(_mount(_Memory(path.read_bytes()), _WHOLE_BLOCKS), name)


def remove(path: Path, name: str) -> None:
    """Delete one file of the image file `path`.

    Raises:
        FileNotFoundError: there is none.
    """
    with opened(path) as system:
        system.remove(name)


def _mount(flash: _Memory, geometry: Mapping[str, Any] = _GEOMETRY) -> LittleFS:
    system = LittleFS(flash, **geometry, block_count=len(flash.buffer) // BLOCK, mount=False)
    system.mount()
    return system


def _walk(system: LittleFS) -> Iterator[str]:
    for folder, _, names in system.walk("/"):
        for name in names:
            yield f"{folder.rstrip('/')}/{name}"


def _get(system: LittleFS, path: str) -> bytes:
    with system.open(path, "rb") as file:
        return file.read()


def _put(system: LittleFS, path: str, data: bytes) -> None:
    path = "/" + path.lstrip("/")
    folder = path.rpartition("/")[0]
    if folder:
        system.makedirs(folder, exist_ok=True)
    with system.open(path, "wb") as file:
        file.write(data)
