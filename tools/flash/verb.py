"""`mipy flash`: from a bare board to one that is on the fleet's list."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from .. import console, options
from ..app import project
from ..console import Failure
from ..files import failed, write
from ..fleet import address, enrol, label
from ..fleet.enrol import Record
from ..keys import store as keys
from . import batch as rows
from . import chip as chips
from . import firmware as images
from . import former, renew, wiring
from . import plan as plans
from . import port as ports
from . import wifi as network
from .chip import Chip
from .firmware import Firmware
from .plan import Plan

_SIZES = {"1MB": 1, "2MB": 2, "4MB": 4, "8MB": 8, "16MB": 16}
_MB = 1024 * 1024


@dataclass(frozen=True)
class Wishes:
    """What the command line says about a board."""

    firmware: Path | None = None
    release: Path | None = None
    app: str | None = None
    cls: str | None = None
    name: str | None = None
    servers: tuple[str, ...] = ()
    wifi: dict[str, str] | None = None
    pins: bytes | None = None
    dev: bool = False
    yes: bool = False


def flash(
    port: Annotated[
        str | None, typer.Argument(metavar="[PORT]", help="Its serial port; the only one if not.")
    ] = None,
    firmware: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="MicroPython image; fetched from micropython.org if not."
        ),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Signed release to start with; the server's newest."),
    ] = None,
    app: options.AppName = None,
    cls: options.Class = None,
    name: options.Name = None,
    server: options.Servers = None,
    wifi: options.Wifi = None,
    wifi_password_file: options.WifiPasswordFile = None,
    pins: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its wiring: safe pin levels, LED, button."),
    ] = None,
    dev: options.Dev = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written where, and stop.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Make the whole flash as a file instead.")
    ] = None,
    flash_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Without a board: its flash, 1MB to 16MB."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="It is the board that an image was made for.")
    ] = False,
    batch: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="A board for each row, one after the other."),
    ] = None,
    firmware_only: Annotated[
        bool,
        typer.Option(
            "--firmware-only", help="Write the firmware alone; the board keeps all its files."
        ),
    ] = False,
) -> None:
    """Flash a board over USB: firmware, boot stage, keys, and a release to start with.

    Everything on the board is erased. A chip that was flashed from here before keeps its id,
    name, key, passwords, wiring and Wi-Fi; and its app and settings, unless this is done in the
    folder of another app. With --firmware-only every file stays.
    """
    if firmware_only:
        files = (release, app, cls, name, server, wifi, wifi_password_file, pins, dev)
        if any((*files, image, flash_size, batch)):
            raise Failure(
                "--firmware-only writes no files, so it goes with --firmware and --dry-run alone",
                "leave the other options out, or flash the board anew without it",
                2,
            )
        renew.renew(port or ports.choose(ports.find()), firmware, dry_run=dry_run)
        return
    keys.trust()
    wishes = Wishes(
        firmware,
        release,
        app,
        cls,
        name,
        address.reachable(server),
        network.networks(wifi, wifi_password_file),
        wiring.load(pins) if pins else None,
        dev,
        yes,
    )
    if batch:
        if name or image or dry_run:
            raise Failure("--batch takes the names from its file and flashes boards", "", 2)
        rows.run(batch, port, lambda at, row, done: _flash(at, replace(wishes, **row), done))
    elif image or dry_run:
        _without_writing(port, wishes, image, flash_size)
    else:
        if flash_size:
            raise Failure("a board knows its flash size itself", "leave --flash-size out", 2)
        _flash(port or ports.choose(ports.find()), wishes)


def _flash(port: str, wishes: Wishes, done: Collection[str] = ()) -> Record | None:
    """Flash the board on `port`; returns who it is now, None if that is one of `done`, by id."""
    with chips.held(port, stay=True) as chip:
        known = enrol.known(chip.mac)
        if known and known.board.id in done:
            chips.restart(port)
            return None
        record, plan, kept = _prepared(port, chip, wishes)
    address.warn_of_silence(record.board.servers)
    # Kept before it is written: no board ever has a key that nobody knows.
    path = enrol.keep(record)
    enrolled = enrol.tell_server(path)
    former.save(record, kept)
    with chips.bar(f"writing {_called(record)}", plan.parts) as progress:
        chips.write(port, plan.parts, progress)
    former.forget(record)
    with console.busy("verified; waiting for the board to start"):
        ports.follow(port, lambda line: console.note(f"  {line}"))
    console.say(f"{_called(record)} is up" + (" and on the fleet's list" if enrolled else ""))
    called = record.board.name or record.board.id
    if record.board.dev:
        console.note(f"its label: mipy label {called}")
    else:
        console.say(f"its label; to print it: mipy label {called} --out {called}.svg")
        label.show(record)
    return record


def _without_writing(port: str | None, wishes: Wishes, out: Path | None, size: str | None) -> None:
    if not (port or wishes.firmware) and (size or not ports.find()):
        raise Failure(
            "no firmware is named for this flash"
            if size
            else "no board is plugged in, and no firmware is named",
            "name it with --firmware FILE, or leave --flash-size out and plug the board in"
            if size
            else "plug the board in with a cable that carries data, or name the firmware of the "
            "board that is meant with --firmware FILE",
        )
    if port or not wishes.firmware:
        port = port or ports.choose(ports.find())
        with chips.held(port, stay=False) as chip:
            record, plan, _ = _prepared(port, chip, wishes)
    else:
        chip = _imagined(images.load(wishes.firmware), size)
        record, plan, _ = _prepared(None, chip, wishes)
    if not out:
        _describe(plan, chip, known=enrol.known(chip.mac) is not None)
        return
    path = enrol.keep(record)
    try:
        write(out, plan.whole, 0o600)  # the device key is in there
    except OSError as problem:
        raise failed(f"cannot write {out}", problem, "name another file") from problem
    enrol.tell_server(path)
    console.say(f"{out}: the whole flash of {_called(record)}, {len(plan.whole)} bytes")
    console.note(f"write it with: esptool write-flash 0 {out}")


def _imagined(firmware: Firmware, size: str | None) -> Chip:
    """The chip that a firmware is for, when there is none at hand."""
    size = size or ("1MB" if firmware.variant == "FLASH_1M" else "4MB")
    if size not in _SIZES:
        raise Failure(f"'{size}' is no flash size", f"choose from {', '.join(_SIZES)}", 2)
    return Chip(firmware.chip, "not connected", "", _SIZES[size] * _MB)


def _prepared(
    port: str | None, chip: Chip, wishes: Wishes
) -> tuple[Record, Plan, dict[str, bytes]]:
    """Who the board is, what is to be written, and what of that it has had before."""
    firmware = renew.firmware_for(chip, wishes.firmware)
    record, known = _record(chip, firmware, wishes)
    kept = _kept(port, chip, firmware, record) if port and known else {}
    if known and known.board.app != record.board.app:
        kept = former.without_settings(kept)
    release = plans.release_for(record.board, wishes.release)
    plan = plans.make(
        record.board,
        firmware,
        chip.flash,
        release,
        wifi=wishes.wifi,
        pins=wishes.pins,
        kept=kept,
    )
    return record, plan, kept


def _kept(port: str, chip: Chip, firmware: Firmware, record: Record) -> dict[str, bytes]:
    """The settings of a board that was flashed before."""
    with console.busy("reading its settings"):
        return former.take(
            record, firmware, chip.flash, lambda at, size: chips.read(port, at, size)
        )


def _record(chip: Chip, firmware: Firmware, wishes: Wishes) -> tuple[Record, Record | None]:
    """Who the board is: what its chip was before, else a new one; and what it was before."""
    cls = wishes.cls or plans.class_of(firmware)
    dev = plans.dev_key() if wishes.dev else None
    known = enrol.known(chip.mac) or _imagined_before(chip, wishes)
    if known:
        console.note(f"this is {_called(known)} of the fleet, and stays it")
        app = project.app_named(wishes.app)
        if app and app != known.board.app:
            console.note(f"its app was {known.board.app} and is {app} from now on")
        record = enrol.renewed(
            known, name=wishes.name, app=app, cls=wishes.cls, servers=wishes.servers or None
        )
        # Development is not a setting: it ends with a flash that does not ask for it.
        board = replace(record.board, dev=dev)
        return replace(record, board=board, mac=chip.mac, chip=chip.kind), known
    board = enrol.make(
        f"{chip.kind}-{chip.mac.replace(':', '') or secrets.token_hex(6)}",
        enrol.app_of_new(wishes.app),
        cls,
        name=wishes.name,
        servers=wishes.servers or (address.proposed_server(),),
        dev=dev,
    )
    return Record(board, chip.mac, chip.kind), None


def _imagined_before(chip: Chip, wishes: Wishes) -> Record | None:
    """The board of the wished name that an image was made for, when its chip was not at hand.

    Raises:
        Failure: not confirmed that this is the board the image was made for.
    """
    found = enrol.imagined(wishes.name)
    if found is None or found.chip != chip.kind:
        return None
    if chip.mac and not wishes.yes:
        asked = f"An image was made for '{wishes.name}'. Is this that board?"
        if not sys.stdin.isatty():
            raise Failure(
                f"an image was made for '{wishes.name}'; not confirmed that this is that board",
                "give --yes if it is, else choose another name with --name",
            )
        if not console.confirm(asked):
            raise Failure("it is another board, then", "choose another name with --name")
    return found


def _describe(plan: Plan, chip: Chip, known: bool) -> None:
    board, place = plan.board, plan.place
    console.show(
        {
            "chip": f"{chip.kind} ({chip.text}), {plan.flash // 1024} KB of flash",
            "board": f"{board.id}, {'known' if known else 'new'}",
            "name": board.name or "none",
            "app and class": f"{board.app}, {board.cls}",
            "server": ", ".join(board.servers) or "none",
            "kind": "development: dev key, WebREPL on" if board.dev else "production",
            "firmware": plan.firmware.text,
            "file system": f"{place.blocks} blocks of 4 KB from {place.offset:#x}",
        },
        as_json=False,
    )
    console.table(
        "",
        ("from", "to", "bytes", "what"),
        [
            (
                f"{offset:#x}",
                f"{offset + len(content):#x}",
                len(content),
                "firmware" if offset == plan.firmware.offset else "files",
            )
            for offset, content in plan.parts
        ],
    )
    console.table(
        "", ("file", "bytes"), [(path, len(data)) for path, data in sorted(plan.files.items())]
    )
    console.say("nothing was written")


def _called(record: Record) -> str:
    board = record.board
    return f"{board.name} ({board.id})" if board.name else board.id
