"""The chip on the other end of the cable, through esptool as a program of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import console
from ..console import Failure
from . import port as ports

FAST, SLOW = 460800, 115200
"""Bits per second; the slow one is what bad cables still carry."""

_CHIP = re.compile(r"Detecting chip type\.\.\. (\S+)|Connected to (\S+) on ")
_FACTS = {
    "text": re.compile(r"Chip type:\s+(.+)"),
    "mac": re.compile(r"MAC:\s+([0-9a-f:]{17})\s*$"),
    "flash": re.compile(r"Detected flash size: (\d+)(KB|MB)"),
}
_UNITS = {"KB": 1024, "MB": 1024 * 1024}
_PERCENT = re.compile(r"^(?:Writing at|Reading from) .*?([\d.]+)% ")
_DONE = re.compile(r"^Wrote \d+ bytes")
_FATAL = re.compile(r"fatal error occurred: (.*)")

_NO_ANSWER = (
    "the board does not answer as one in download mode",
    "hold its BOOT (or FLASH) button, press reset, let go, and run it again; try another cable",
)
_FAILURES = (
    (re.compile(r"Failed to connect|Wrong boot mode|No serial data|Invalid head of"), *_NO_ANSWER),
    (
        re.compile(r"MD5 of file does not match|verif\w+ failed", re.IGNORECASE),
        "the flash does not hold what was written to it",
        "try another cable or power supply; if it stays, the flash chip is worn out",
    ),
    (
        re.compile(r"requires chip revision"),
        "this chip is of a revision that the firmware does not run on",
        "take a newer board, or firmware that was built for older chips",
    ),
    (
        re.compile(r"port is busy|exclusively lock|device disconnected|readiness to read"),
        "the board went away from its port",
        "plug it in again, close other programs that use the port, and run it again",
    ),
)


@dataclass(frozen=True)
class Chip:
    """What esptool finds out: kind is its own word (esp8266, esp32c3), flash in bytes."""

    kind: str
    text: str
    mac: str
    flash: int


def identify(port: str) -> Chip:
    """Ask the chip on `port` what it is; it stays in its ROM loader.

    Raises:
        Failure: it does not answer, or says nothing of its flash.
    """
    output = _esptool(port, SLOW, "--after", "no-reset", "flash-id")
    kind = _CHIP.search(output)
    found = {name: pattern.search(output, re.M) for name, pattern in _FACTS.items()}
    found["mac"] = re.search(_FACTS["mac"].pattern, output, re.M)
    text, mac, flash = found["text"], found["mac"], found["flash"]
    if not (kind and text and mac):
        raise Failure("esptool does not know this chip", "see `esptool -p PORT chip-id`")
    if not flash:
        raise Failure(
            "the size of the board's flash cannot be told", "see `esptool -p PORT flash-id`"
        )
    return Chip(
        kind=re.sub(r"[^a-z0-9]", "", (kind[1] or kind[2]).lower()),
        text=text[1].strip(),
        mac=mac[1],
        flash=int(flash[1]) * _UNITS[flash[2]],
    )


def restart(port: str) -> None:
    """Have the chip leave its ROM loader.

    Raises:
        Failure: it does not answer.
    """
    _esptool(port, SLOW, "--after", "hard-reset", "--no-stub", "chip-id")


@contextlib.contextmanager
def held(port: str, *, stay: bool) -> Iterator[Chip]:
    """The chip on `port`, held in its ROM loader.

    Args:
        stay: there, when the block ends well; however else it ends, the board starts again.
    """
    ports.check(port)
    with console.busy(f"asking the board on {port} what it is"):
        chip = identify(port)
    console.note(f"{chip.text}, {chip.flash // 1024} KB of flash, {chip.mac}")
    well = False
    try:
        yield chip
        well = True
    finally:
        if not (well and stay):
            with contextlib.suppress(Failure):  # unplugged, it starts when it has power again
                restart(port)


@contextlib.contextmanager
def bar(text: str, parts: Iterable[tuple[int, bytes]]) -> Iterator[Callable[[int], None]]:
    """A progress bar in KB for `write`; the function it gives takes the bytes done so far."""
    with console.progress() as shown:
        size = sum(len(content) for _, content in parts)
        task = shown.add_task(text, total=size // 1024)

        def report(done: int) -> None:
            shown.update(task, completed=done // 1024)

        yield report


def write(
    port: str,
    parts: Iterable[tuple[int, bytes]],
    progress: Callable[[int], None],
    *,
    erase: bool = True,
) -> None:
    """Write `parts` (offset, content), verify them, start the board.

    Args:
        progress: is told how many bytes are written so far.
        erase: the whole flash first; else nothing but the 4 KB sectors that `parts` touch changes.

    Raises:
        Failure: the flash is not what it should be.
    """
    parts = list(parts)
    with tempfile.TemporaryDirectory() as folder:  # 0700: the device key is in there
        words = []
        for number, (offset, content) in enumerate(parts):
            path = Path(folder, f"{number}.bin")
            path.write_bytes(content)
            words += [hex(offset), str(path)]
        sizes = [len(content) for _, content in parts]
        done = 0

        def heard(line: str) -> None:
            nonlocal done
            if _DONE.match(line):
                done += 1
                progress(sum(sizes[:done]))
            elif (percent := _PERCENT.match(line)) and done < len(sizes):
                progress(sum(sizes[:done]) + int(sizes[done] * float(percent[1]) / 100))

        def again() -> None:
            nonlocal done
            done = 0
            progress(0)

        all_first = ["--erase-all"] if erase else []
        command = ("write-flash", "--flash-size", "keep", *all_first, *words)
        _fast_or_slowly(port, *command, heard=heard, again=again)


def read(port: str, offset: int, size: int) -> bytes:
    """Read a part of the flash; leaves the chip in its ROM loader.

    Raises:
        Failure: it does not come through.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "flash.bin")
        words = ("read-flash", hex(offset), hex(size), str(path))
        _fast_or_slowly(port, "--after", "no-reset", *words)
        return path.read_bytes()


def _fast_or_slowly(
    port: str,
    *words: str,
    heard: Callable[[str], None] = lambda line: None,
    again: Callable[[], None] = lambda: None,
) -> None:
    """Run esptool at full speed and, when the cable does not carry that, once more slowly."""
    try:
        _esptool(port, FAST, *words, heard=heard)
    except Failure as first:
        if first.text == _NO_ANSWER[0]:
            raise
        again()
        _esptool(port, SLOW, *words, heard=heard)


def _esptool(
    port: str, baud: int, *words: str, heard: Callable[[str], None] = lambda line: None
) -> str:
    """Run esptool, give each line to `heard`, return all it printed."""
    command = [sys.executable, "-m", "esptool", "--port", port, "--baud", str(baud), *words]
    lines = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            heard(line)
    output = "".join(lines)
    if process.returncode:
        raise _failure(output)
    return output


def _failure(output: str) -> Failure:
    fatal = _FATAL.search(output)
    for pattern, what, hint in _FAILURES:
        if pattern.search(fatal[1] if fatal else output):
            return Failure(what, hint)
    said = fatal[1] if fatal else (output.strip().splitlines() or ["nothing"])[-1]
    return Failure(f"esptool: {said}", "see docs/first-flash.md, or run esptool by hand")
