"""Serial ports: which one, whether it can be used, and what the board says on it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import Failure

if TYPE_CHECKING:
    from serial import Serial

BAUD = 115200
"""MicroPython's on every board."""
UP_SECONDS = 90.0
"""A first start checks every hash, and may wait for Wi-Fi and the server before the app."""
SILENT_SECONDS = 8.0
_POLL = 0.1

_STARTED = re.compile(r"ota: \S+ \d+ (\S+)$")
"""What the boot stage prints in every life, before anything else runs: slot, seq, entry.

Not only at the start of a line: an ESP8266's ROM speaks at another speed, and leaves its noise.
"""
_PROMPT = b">>> "
_MEMORY = 1
"""Linux's number for /dev/null and its kind, which every process has open."""
_TROUBLE = (
    (
        re.compile(r"filesystem appears to be corrupted|looks corrupt"),
        "the firmware does not mount its file system",
        "run it again with the stock firmware: leave --firmware out",
    ),
    (
        re.compile(r"invalid header: 0x|csum err|flash read err|invalid segment length"),
        "the chip finds no firmware that it can start",
        "run it again; if that does not help, the flash chip is worn or the firmware is wrong",
    ),
    (
        re.compile(r"waiting for download|DOWNLOAD\(|DOWNLOAD_BOOT"),
        "the board is still in download mode",
        "let go of its BOOT or FLASH button and press reset",
    ),
    (re.compile(r"^>>> "), "the board stopped at its prompt", "see what it printed above"),
)


def find() -> list[str]:
    """The USB serial ports, by name."""
    from serial.tools import list_ports

    return sorted(port.device for port in list_ports.comports() if port.vid is not None)


def choose(ports: list[str]) -> str:
    """The one port there is.

    Raises:
        Failure: none or several.
    """
    if not ports:
        raise Failure(
            "there is no board on a USB port",
            "plug it in with a cable that carries data; if it is, name its port",
        )
    if len(ports) > 1:
        raise Failure(
            f"there are boards on several ports: {', '.join(ports)}",
            f"name the one that is meant, like {ports[0]}",
        )
    return ports[0]


def check(port: str) -> None:
    """Make sure that `port` can be opened and is nobody else's.

    Raises:
        Failure: it cannot, with the reason.
    """
    import serial

    with contextlib.suppress(OSError):
        if os.major(os.stat(port).st_rdev) == _MEMORY:
            raise _failure(port, errno.ENOTTY, "it is a device of the system")
    holders = list(_holders(port))
    if holders:
        raise _busy(port, f" by {', '.join(holders)}")
    try:
        serial.Serial(port, BAUD, exclusive=True).close()
    except (OSError, ValueError) as problem:
        # pyserial puts the system's number into its own exception where there was one.
        raise _failure(port, getattr(problem, "errno", None), str(problem)) from problem


def _failure(port: str, number: int | None, text: str) -> Failure:
    if number == errno.ENOENT:
        there = ", ".join(find())
        return Failure(
            f"there is no port {port}",
            f"there is {there}" if there else "plug the board in; see `ls /dev/tty*`",
        )
    if number in (errno.EACCES, errno.EPERM):
        group = _group(port)
        return Failure(
            f"no permission to use {port}",
            f"`sudo usermod -a -G {group} $USER`, then log out and in again",
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        return _busy(port, "")
    return Failure(f"{port} is no serial port: {text}", "name the port that the board is on")


def _busy(port: str, by: str) -> Failure:
    return Failure(f"{port} is in use{by}", "close the terminal or editor that has it open")


def _group(port: str) -> str:
    import grp

    try:
        return grp.getgrgid(os.stat(port).st_gid).gr_name
    except (OSError, KeyError):
        return "dialout"


def _holders(port: str) -> Iterator[str]:
    """Other processes of this user that have the port open (Linux; elsewhere none are seen)."""
    real = os.path.realpath(port)
    ours = Path("/proc/self/cmdline").read_bytes() if Path("/proc/self").exists() else b""
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        # A process may end, or be another user's, while it is looked at.
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes() == ours:
                continue  # a child of ours, which has yet to become another program
            if any(os.path.realpath(fd) == real for fd in (folder / "fd").iterdir()):
                yield f"{(folder / 'comm').read_text().strip()} (process {folder.name})"


def follow(port: str, heard: Callable[[str], None], seconds: float = UP_SECONDS) -> None:
    """Read what the board prints until it has started its app.

    Args:
        port: where it is; it may vanish and come back, as a chip's own USB does at a reset.
        heard: is given every line.
        seconds: how long to wait.

    Raises:
        Failure: it did not start, with what it said as the reason.
    """
    said = False
    for line in _lines(port, seconds):
        said = True
        heard(line)
        if started(line):
            return
    raise Failure(
        "the flash is written and verified, but the board "
        + ("did not get as far as its app" if said else "says nothing"),
        "press its reset button and see `mipy boards`; if it stays silent, check its power",
    )


def started(line: str) -> bool:
    """Whether a line of the console says that the app starts now.

    Raises:
        Failure: it says that none will.
    """
    for pattern, what, hint in _TROUBLE:
        if pattern.search(line):
            raise Failure(what, hint)
    found = _STARTED.search(line)
    if found and found[1] == "/recovery":
        raise Failure(
            "the board has nothing to start, and waits for a release",
            "publish one for its class: `mipy release`",
        )
    return found is not None and not found[1].startswith("/")


def _lines(port: str, seconds: float) -> Iterator[str]:
    """The board's lines for so many seconds; a board that is silent at first is reset once."""
    end = time.monotonic() + seconds
    nudge = time.monotonic() + SILENT_SECONDS
    rest = b""
    while time.monotonic() < end:
        # The port may go away at any time; then it is opened anew.
        with _opened(port, end) as line, contextlib.suppress(OSError):
            while time.monotonic() < end:
                rest += line.read(1024)
                if rest:
                    nudge = end
                elif time.monotonic() > nudge:
                    nudge = end
                    _reset(line)
                *whole, rest = rest.replace(b"\r", b"").split(b"\n")
                if rest.startswith(_PROMPT):
                    whole, rest = [*whole, rest], b""
                yield from (raw.decode("ascii", "ignore") for raw in whole if raw.strip())
        time.sleep(_POLL)


@contextlib.contextmanager
def _opened(port: str, end: float) -> Iterator[Serial]:
    """The open port, waiting until `end` for it to be there; its lines at rest, or it resets."""
    import serial

    line = serial.Serial(None, BAUD, timeout=_POLL)
    line.port = port
    line.dtr = line.rts = False
    while not line.is_open:
        try:
            line.open()
        except OSError as problem:
            if time.monotonic() > end:
                raise Failure(
                    f"the board has gone from {port}", "plug it in again; see `mipy boards`"
                ) from problem
            time.sleep(_POLL)
    with line:
        yield line


def _reset(line: Serial) -> None:
    # A pseudo-terminal has no such lines; then the board is left as it is.
    with contextlib.suppress(OSError):
        line.rts = True
        time.sleep(0.1)
        line.rts = False
