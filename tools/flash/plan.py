"""What one board gets: release, files, file system, and where all of it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...signing import bundle, manifest
from ...signing.board_file import Board
from ...signing.reasons import Refused
from .. import console
from ..console import Failure
from ..files import failed
from ..keys import store as keys
from . import builds, image, layout, provision, wiring
from .firmware import Firmware
from .layout import BadLayout, Place

if TYPE_CHECKING:
    from ...signing.rsa import PublicKey

_HEAD = 2 * layout.BLOCK
"""LittleFS has its superblock in the first two blocks."""


@dataclass(frozen=True)
class Plan:
    """One board's flash."""

    board: Board
    firmware: Firmware
    flash: int
    place: Place
    files: Mapping[str, bytes]
    system: bytes

    @property
    def parts(self) -> list[tuple[int, bytes]]:
        """What has to be written to an erased chip, in this order: (offset, content).

        The superblock comes last: a file system that mounts was written to its end.
        """
        start = self.place.offset
        rest = b"\xff" * _HEAD + self.system[_HEAD:]
        found = [(self.firmware.offset, self.firmware.data)]
        found += [(start + at, part) for at, part in layout.runs(rest)]
        return [*found, (start, self.system[:_HEAD])]

    @property
    def whole(self) -> bytes:
        """The whole flash."""
        flash = bytearray(b"\xff" * self.flash)
        for offset, content in self.parts:
            flash[offset : offset + len(content)] = content
        return bytes(flash)


def class_of(firmware: Firmware) -> str:
    """The class of boards that runs a stock build, as MicroPython calls it."""
    if not firmware.build:
        raise Failure(f"no class is known for the {firmware.chip}", "name it with --class CLASS")
    return builds.class_of(firmware.build)


def dev_key() -> PublicKey:
    """The fleet's dev key.

    Raises:
        Failure: none found, or several.
    """
    from ...signing.rsa import PublicKey

    return PublicKey.of(keys.private(keys.find(None, ("dev",))))


def release_for(board: Board, path: Path | None) -> bytes:
    """The signed release that a new board starts with: the file `path`, else one of the server's.

    That is the newest which no board of this class has gone back from.

    Raises:
        Failure: there is none for its class, or it is not what the board would accept.
    """
    raw = _read(path) if path else _offered(board)
    try:
        text, files = bundle.read(raw)
        found = manifest.verify(text, keys.trust(), board.dev).manifest
        bundle.check(found, files)
        for what, is_, wanted in (
            ("app", found.app, board.app),
            ("class", found.cls, board.cls),
        ):
            if is_ != wanted:
                raise Refused(what, f"it is for the {what} '{is_}', the board has '{wanted}'")
    except Refused as refused:
        raise Failure(
            f"the board would refuse this release ({refused.code}): {refused}",
            f"publish one with `mipy release --class {board.cls}` in the folder of {board.app}, "
            "or name another with --release",
        ) from refused
    return raw


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "see where it is") from problem


def _offered(board: Board) -> bytes:
    from ..fleet import pick
    from ..fleet.client import connect

    try:
        server = connect()
        offered = [
            one
            for one in server.releases()
            if (one["app"], one["class"]) == (board.app, board.cls) and not one["withdrawn"]
        ]
        left = pick.left(server.search(app=board.app), board.cls) if offered else {}
    except Failure as failure:
        raise Failure(
            f"no release to start with: {failure.text}",
            "start the server with `mipy serve`, or give a signed release with --release FILE",
        ) from failure
    if offered:
        return server.bundle(_unrejected(offered, left)["digest"])
    raise Failure(
        f"there is no release of '{board.app}' for the class {board.cls}",
        f"publish one in its folder with `mipy release --class {board.cls}`, or name another app "
        "with --app, another class with --class",
    )


def _unrejected(offered: Iterable[Mapping[str, Any]], left: Mapping[str, str]) -> Mapping[str, Any]:
    """The newest release that no board has gone back from; says which ones are passed over.

    Args:
        offered: the releases for the board.
        left: first half of a release's digest -> name of a board that has gone back from it.
    """
    from ..fleet import pick

    for one in sorted(offered, key=lambda one: one["seq"], reverse=True):
        who = left.get(one["digest"][:32])
        if who is None:
            return one
        console.note(f"the release {pick.title(one)} is passed over: {who} has gone back from it")
    raise Failure(
        "boards have gone back from every release of this class",
        "publish one that works, or name one with --release FILE",
    )


def make(
    board: Board,
    firmware: Firmware,
    flash: int,
    release: bytes,
    *,
    wifi: Mapping[str, str] | None = None,
    pins: bytes | None = None,
    kept: Mapping[str, bytes] | None = None,
) -> Plan:
    """Put a board's flash together.

    Args:
        flash: its size in bytes.
        wifi: networks, SSID -> password.
        pins: its wiring.
        kept: files of its former life, by path.

    Raises:
        Failure: firmware, flash and release do not go together.
    """
    try:
        firmware = firmware.on(flash)
        place = firmware.place(flash)
    except BadLayout as refused:
        raise Failure(
            f"{firmware.text} does not go onto {flash // 1024} KB of flash: {refused}",
            "take the firmware that micropython.org has for this board and flash size",
        ) from refused
    every = keys.trust_files()
    files = provision.board_files(board, every[0], release, wifi)
    for copy in "01":
        # The boot stage carries version 1; what has been revoked since counts from the start.
        files[f"/trust/{copy}/trust"] = every[-1]
    files |= kept or {}
    if pins is not None:
        files[wiring.PATH] = pins
    return Plan(board, firmware, flash, place, files, _system(files, place))


def _system(files: Mapping[str, bytes], place: Place) -> bytes:
    from littlefs import LittleFSError

    try:
        return image.build(files, place.blocks)
    except LittleFSError as problem:
        size = sum(map(len, files.values()))
        raise Failure(
            f"{size} bytes of files do not fit into a file system of {place.size} bytes",
            "leave out what the board does not need, or take a board with more flash",
        ) from problem
