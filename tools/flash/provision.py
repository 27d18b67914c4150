"""What is on a board's flash before its first start: boot stage, trust, board file, first release.

The same files for a virtual board and for one that is flashed over USB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from hashlib import sha256

from ...signing import board_file, bundle, manifest
from ..app.compile import boot_stage

_RECORD = struct.Struct("<4sIBBBBBBBBII16s16s16s")
_NO_SLOT = 255


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
    files = dict(boot_stage.files())
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
