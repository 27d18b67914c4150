"""A board's label: who it is, its passwords, and a QR code that joins its portal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import console
from ..console import Failure
from ..files import failed, write
from . import enrol, sticker


def show(record: enrol.Record) -> None:
    """Print the label: its text and its code."""
    facts = of(record)
    console.show({key: value for key, value in facts.items() if key != "code"}, as_json=False)
    _code(facts).terminal(compact=True)


def save(record: enrol.Record, out: Path) -> None:
    """Write the label as a picture.

    Raises:
        Failure: it is to be of another kind, or cannot be written.
    """
    if out.suffix not in sticker.KINDS:
        raise Failure(f"{out} is neither .svg nor .png", "choose one of them", 2)
    facts = of(record)
    lines = [
        facts["board"],
        facts["class"],  # tells boards apart that look alike: of 1 MB of flash, and of more
        f"Wi-Fi {facts['portal']}",
        f"password {facts['portal password']}",
        f"WebREPL {facts['WebREPL password']}",
    ]
    picture = sticker.picture(out.suffix, _code(facts).matrix, lines)
    try:
        write(out, picture, 0o600)  # passwords are in there
    except OSError as problem:
        raise failed(f"cannot write {out}", problem, "name another") from problem


def _code(facts: dict[str, Any]) -> Any:
    import segno

    return segno.make(facts["code"], micro=False)


def of(record: enrol.Record) -> dict[str, Any]:
    """A label's lines; "code" is what its QR code says."""
    board = record.board
    network = access_point(board.name or board.id)
    return {
        "board": board.name or board.id,
        "id": board.id,
        "app": board.app,
        "class": board.cls,
        "portal": network,
        "portal password": board.portal or "none",
        "WebREPL password": board.webrepl or "none",
        "code": f"WIFI:T:WPA;S:{network};P:{board.portal};;",
    }


def access_point(name: str) -> str:
    """The access point that the portal of a board opens (bootloader/portal.py)."""
    return f"mipy-{name}"[:32]
