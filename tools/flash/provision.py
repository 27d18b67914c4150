"""What is on a board's flash before its first start: boot stage, trust, board file, first release.

The same files for a virtual board and for one that is flashed over USB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256

from ...signing import board_file, bundle, manifest
from ...signing.manifest import stem
from .. import places
from ..app import build, bytecode, names

SOURCE_FILES = ("boot.py", "main.py")
"""Run by the firmware by name, as source; everything else of the boot stage is bytecode."""

_RECORD = struct.Struct("<4sIBBBBBBBBII16s16s16s")
_NO_SLOT = 255


@cache
def boot_stage() -> Mapping[str, bytes]:
    """The boot stage as it lies on the flash: absolute path -> content."""
    folder = places.sources("bootloader")
    return compiled_stage(stage_sources()) | {
        f"/bootloader/{path.name}": path.read_bytes() for path in folder.glob("*.html")
    }


def stage_sources() -> dict[str, str]:
    """Name in bootloader/ -> text, of the boot stage's modules."""
    folder = places.sources("bootloader")
    return {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}


def readable(trace: str) -> str:
    """A board's traceback, with the project's functions called what they are in its sources."""
    return names.restored(trace, *_our_sources())


@cache
def _our_sources() -> tuple[Mapping[str, str], ...]:
    """Runtime and boot stage, read once: a server makes tracebacks readable at every report."""
    stage = {f"bootloader/{name}": text for name, text in stage_sources().items()}
    return build.our_sources(), stage


def short_stage(sources: Mapping[str, str], beside: Iterable[bytes] = ()) -> dict[str, str]:
    """Path -> text of the boot stage's modules, with names that every firmware has (names.py).

    Args:
        sources: name in bootloader/ -> text, as `stage_sources()` has them.
        beside: further modules; what they use of it keeps its names, as does what the runtime uses.
    """
    modules = {f"bootloader/{name}": text for name, text in sources.items()}
    others = [*beside, *(modules.pop(f"bootloader/{name}").encode() for name in SOURCE_FILES)]
    others += [path.read_bytes() for path in places.sources("app_slots").glob("*/*.py")]
    return names.short(names.without_constants(modules), others)


def compiled_stage(sources: Mapping[str, str], beside: Iterable[bytes] = ()) -> dict[str, bytes]:
    """The boot stage made of `sources`, as it lies on the flash; see `short_stage`."""
    modules = short_stage(sources, beside)
    return {
        **{f"/{name}": sources[name].encode() for name in SOURCE_FILES},
        **{f"/{stem(file)}.mpy": bytecode.compiled(text.encode(), file)
           for file, text in sorted(modules.items())},
    }  # fmt: skip


def record(
    digest: str | None, seq: int = 0, floor: int = 0, *, number: int = 1, slot: int = 0
) -> bytes:
    """The A/B record with `slot` active and its release `digest` (hex) confirmed.

    The layout is bootloader/record.py's (docs/architecture.md, "The record").
    """
    good = [bytes(16), bytes(16)]
    if digest:
        good[slot] = bytes.fromhex(digest)[:16]
    body = _RECORD.pack(
        b"OTA1", number, slot, _NO_SLOT, 0, 0, 0, 0, 0, 0, seq, floor, *good, bytes(16)
    )
    return body + sha256(body).digest()[:4]


def board_files(
    board: board_file.Board,
    trust: bytes,
    release: bytes | None = None,
    wifi: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """Every file of a new board.

    Args:
        board: who it is.
        trust: the trust file, version 1.
        release: the signed bundle that slot a holds, recorded confirmed; without one the board
            starts in recovery and takes what the server offers.
        wifi: known networks, SSID -> password.

    Raises:
        Refused: `release` is not a whole bundle.
    """
    raw = board.encode()
    files = dict(boot_stage())
    files["/bootloader/trust"] = trust
    for copy in "01":
        files[f"/trust/{copy}/trust"] = trust
        files[f"/trust/{copy}/board"] = raw
    digest, seq, floor = None, 0, 0
    if release is not None:
        text, contents = bundle.read(release)
        head = manifest.parse(text)
        digest, seq, floor = head.digest, head.seq, head.floor
        files["/app_slots/a/manifest"] = text
        for name, content in contents.items():
            files[f"/app_slots/a/{name}"] = content
    files["/state/0/r"] = record(digest, seq, floor, number=1)
    files["/state/1/r"] = record(digest, seq, floor, number=2)
    files["/data/.keep"] = b""
    if board.dev:
        files["/open"] = b""  # WebREPL, always (docs/webrepl.md)
    if wifi:
        files["/wifi.json"] = json.dumps(dict(wifi)).encode()
    return files
