"""A board's file system over its REPL.

Paths are absolute and bytes: what a board calls its files need not be text. Whatever is written
is read back by its hash.
"""

from __future__ import annotations

import ast
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

from ..console import Failure
from .repl import Raised, Repl

_CHUNK = 768
"""Bytes a command carries; with base64 and the compiler's share some 3 KB of a board's heap."""
_SLOWEST = 20_000
"""Bytes a second that the slowest board hashes and copies."""
_PATIENCE = 10.0
_PART = b"/.part"
"""What is under way; on the same file system as everything else, so that a rename is one step."""

_FEW, _LONG = 64, 64
"""Bytes of a file, and of a path, between which WebREPL's own way is taken."""
Progress = Callable[[int], object]


@runtime_checkable
class Uploader(Protocol):
    """A stream with a faster way for files than commands are."""

    def upload(self, path: bytes, content: bytes, progress: Progress) -> None:
        """Write a file; whether it has arrived, its hash tells."""
        ...


def _quiet(_: int) -> None:
    """No-op progress callback."""


# One letter a function: each name lies on the board's heap.
_FUNCTIONS = """\
import os,gc
from binascii import hexlify,a2b_base64 as A,b2a_base64 as E
from hashlib import sha256
def L(d):
 for e in os.ilistdir(d):
  print((e[0],e[1]&0x4000,e[3] if len(e)>3 else 0))
def B(p):
 f=open(p,'rb')
 while 1:
  b=f.read(384)
  if not b:
   break
  yield b
 f.close()
def H(p):
 h=sha256()
 for b in B(p):
  h.update(b)
 print(hexlify(h.digest()).decode())
def C(p,q):
 f=open(q,'wb')
 for b in B(p):
  f.write(b)
 f.close()
def D(p):
 try:
  os.mkdir(p)
 except OSError as e:
  if e.errno!=17:
   raise
def R(p):
 for b in B(p):
  print(E(b).decode(),end='')
"""
_FACTS = """\
import sys
i=sys.implementation
try:
 import network
 m=network.WLAN(0).config('mac')
except (ImportError,OSError):
 import machine
 m=machine.unique_id()
s=os.statvfs('/')
print((sys.platform,tuple(i[1])[:3],i._mpy&255,i._machine,getattr(i,'_build',''),hexlify(m).decode(),s[0],s[3]))
"""
# ESP32s and other builds have no rom_ioctl, or one that gives no memory.
_SEGMENT = """\
try:
 import vfs
 M=memoryview(vfs.rom_ioctl(2,0))
except (ImportError,AttributeError,TypeError,OSError):
 M=b''
print(len(M))
"""


@dataclass(frozen=True)
class Facts:
    """What a board is: `mac` with colons, `free` flash in bytes, the rest as MicroPython has it."""

    platform: str
    version: tuple[int, int, int]
    mpy: int
    machine: str
    build: str
    mac: str
    free: int


class Remote:
    """The files of the board at `repl`, which is in raw mode.

    Every method raises `Failure` when the board goes away, and `Raised` for its own errors.
    """

    def __init__(self, repl: Repl) -> None:
        self._repl = repl
        repl.run(_FUNCTIONS)

    def facts(self) -> Facts:
        """Ask the board what it is."""
        said = ast.literal_eval(self._repl.run(_FACTS).strip().splitlines()[-1])
        platform, version, mpy, machine, build, mac, block, blocks = said
        colons = ":".join(mac[at : at + 2] for at in range(0, len(mac), 2))
        return Facts(platform, version, mpy, machine, build, colons, block * blocks)

    def tree(self, folder: bytes = b"") -> dict[bytes, int | None]:
        """Every path below `folder` with the file's size; None for a folder."""
        return dict(self._below(folder))

    def _below(self, folder: bytes) -> Iterator[tuple[bytes, int | None]]:
        for name, size in self.list(folder).items():
            path = folder + b"/" + name
            yield path, size
            if size is None:
                yield from self._below(path)

    def list(self, folder: bytes) -> dict[bytes, int | None]:
        """The names in a folder, with sizes as in `tree`."""
        # Of "/" itself MicroPython gives names as text, which need not be any.
        said = self._repl.run(f"L({folder.rstrip(b'/') + b'/.'!r})")
        entries = map(ast.literal_eval, said.splitlines())
        return {name: None if is_folder else size for name, is_folder, size in entries}

    def size(self, path: bytes) -> int | None:
        """A file's size; None for a folder."""
        mode, size = self._repl.evaluate(f"(lambda s:(s[0],s[6]))(os.stat({path!r}))")
        return None if mode & 0x4000 else size

    def space(self) -> tuple[int, int]:
        """Size of the file system and what is free of it, bytes."""
        block, blocks, free = self._repl.evaluate("(lambda s:(s[0],s[2],s[3]))(os.statvfs('/'))")
        return block * blocks, block * free

    def segment(self) -> int:
        """Bytes of the ROMFS segment, which the next two methods see; 0 if there is none."""
        return int(self._repl.run(_SEGMENT))

    def segment_read(self, offset: int, size: int) -> bytes:
        """Bytes of the segment, fewer at its end."""
        return self._repl.evaluate(f"bytes(M[{offset}:{offset + size}])")

    def segment_digest(self, offset: int, size: int) -> str:
        """SHA-256 of bytes of the segment, hex."""
        code = f"print(hexlify(sha256(M[{offset}:{offset + size}]).digest()).decode())"
        return self._repl.run(code, _PATIENCE + size / _SLOWEST).strip()

    def digest(self, path: bytes, size: int) -> str:
        """SHA-256 of a file of `size` bytes, hex."""
        return self._repl.run(f"H({path!r})", _PATIENCE + size / _SLOWEST).strip()

    def holds(self, path: bytes, content: bytes) -> bool:
        """Whether there is a file with this content."""
        try:
            return self.digest(path, len(content)) == sha256(content).hexdigest()
        except Raised as raised:
            if raised.kind == "OSError":
                return False
            raise

    def read(self, path: bytes, size: int, progress: Progress = _quiet) -> bytes:
        """The content of a file of `size` bytes; `progress` is told how many have come."""
        said = bytearray()

        def heard(more: bytes) -> None:
            said.extend(more)
            progress(min(len(said) * 3 // 4, size))

        self._repl.follow(f"R({path!r})".encode(), heard)
        content = b"".join(map(b64decode, said.splitlines()))
        if sha256(content).hexdigest() != self.digest(path, size):
            raise Failure(f"{show(path)} does not come through unharmed", "try another cable")
        return content

    def write(self, path: bytes, content: bytes, progress: Progress = _quiet) -> None:
        """Write a file where its folder is; `progress` is told how many bytes have gone."""
        stream = self._repl.stream
        if isinstance(stream, Uploader) and len(content) > _FEW and len(path) < _LONG:
            stream.upload(path, content, progress)
            if self.holds(path, content):
                return
            # WebREPL loses a byte now and then: the slow way does not.
        self._repl.run(f"f=open({path!r},'wb')")
        for at in range(0, len(content), _CHUNK):
            piece = b64encode(content[at : at + _CHUNK])
            self._repl.run(f"f.write(A({piece!r}));gc.collect()")
            progress(min(at + _CHUNK, len(content)))
        self._repl.run("f.close()")
        self._check(path, content)

    def put(self, path: bytes, content: bytes, progress: Progress = _quiet) -> None:
        """Write a file atomically, and make the folders it lies in."""
        self.folder(path.rpartition(b"/")[0])
        self.write(_PART, content, progress)
        self.rename(_PART, path)

    def copy(self, path: bytes, target: bytes, content: bytes) -> None:
        """Copy a file, whose content is known, on the board."""
        self._repl.run(f"C({path!r},{target!r})", _PATIENCE + len(content) / _SLOWEST)
        self._check(target, content)

    def _check(self, path: bytes, content: bytes) -> None:
        if not self.holds(path, content):
            raise Failure(f"{show(path)} was not written as it should be", "run it again")

    def folder(self, path: bytes) -> None:
        """Make a folder, and those it lies in."""
        if not path:
            return
        at = path.find(b"/", 1)
        while at > 0:
            self._make(path[:at])
            at = path.find(b"/", at + 1)
        self._make(path)

    def _make(self, path: bytes) -> None:
        self._repl.run(f"D({path!r})")

    def rename(self, path: bytes, target: bytes) -> None:
        """Put a file in another one's place, in one step."""
        self._repl.run(f"os.rename({path!r},{target!r})")

    def remove(self, path: bytes) -> None:
        """Delete a file."""
        self._repl.run(f"os.remove({path!r})")

    def remove_folder(self, path: bytes) -> None:
        """Delete an empty folder."""
        self._repl.run(f"os.rmdir({path!r})")


def show(path: bytes) -> str:
    """A path for people."""
    return path.decode("utf-8", "backslashreplace")
