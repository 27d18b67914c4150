"""The ROM loader of a chip on a pseudo-terminal, for the real esptool to talk to.

    python -m tests.support.rom CHIP FLASH_MB FOLDER

In FOLDER appear `port`, a link to the terminal, and, whenever a client that has changed the flash
hangs up, `flash.bin`, what the chip holds, and `wire`, the bytes that went each way so far. That is
the chip's reset: from then on whatever is appended to `console` is what the board prints, until a
client speaks to the loader again. While there is a file `worn`, the flash keeps wrong bits.

The loader is esp32-mock-bootloader's with two of its values set: as it is, it takes a pause within
a read for the client's end, and hangs up three seconds after the first of several images. Its two
loops over every byte are replaced: megabytes go through here, on small machines.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import threading
import time
from pathlib import Path

from esp32_mock_bootloader import protocol, registers, server

server._CLIENT_RECV_TIMEOUT = 1.0
server._FLASH_END_IDLE_SEC = 1e9

PAUSE = 0.02
LISTENING = 0.3
"""A client that has opened the port throws away what is there already, and then listens."""


class Line:
    """The loader's end of the terminal; between its clients the board's own console."""

    def __init__(self, folder: Path) -> None:
        self._master, slave = pty.openpty()
        self._console = folder / "console"
        self._console.touch()
        self._printed = 0
        self._since = time.monotonic()
        self._talked = False
        self.booted = False
        self.up = self.down = 0
        (folder / "port").symlink_to(os.ttyname(slave))
        os.close(slave)  # else it cannot be seen when a client hangs up

    def set_timeout(self, seconds: float) -> None:
        """Part of a transport; this one always waits for `PAUSE`, and counts for itself."""

    def ignore_eof_for_disconnect(self) -> bool:
        """Part of a transport: an end is an end."""
        return False

    def recv(self, size: int) -> bytes:
        """What the client says, nothing when it has hung up; raises socket.timeout in between."""
        end = time.monotonic() + server._CLIENT_RECV_TIMEOUT
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        while time.monotonic() < end:
            events = dict(poll.poll(PAUSE * 1000)).get(self._master, 0)
            if events & select.POLLIN:
                self._talked, self.booted = True, False
                data = os.read(self._master, size)
                self.up += len(data)
                return data
            if not events & select.POLLHUP:
                self._print()
                continue
            self._since = time.monotonic()
            if self._talked:
                self._talked = False
                return b""
            # Not slept through: a board's clock takes who sleeps for one that is about to act.
            select.select([], [], [], PAUSE)
        raise TimeoutError

    def sendall(self, data: bytes) -> None:
        """All of it: the terminal takes some kilobytes at a time."""
        self.down += len(data)
        while data:
            data = data[os.write(self._master, data) :]

    def close(self) -> None:
        """Stays open: the next client comes to the same terminal."""

    def _print(self) -> None:
        if self.booted and time.monotonic() - self._since > LISTENING:
            text = self._console.read_bytes()[self._printed :]
            self.sendall(text)
            self._printed += len(text)


class Flash(server.FlashImage):
    """The flash chip, written a block at a time; damaged while `worn` exists."""

    def __init__(self, worn: Path) -> None:
        super().__init__()
        self._worn = worn

    def write_defl_block(self, payload: bytes) -> None:
        """A compressed block, at the place where the one before ended."""
        assert self._decompressor
        content = self._decompressor.decompress(payload[16:])
        self.data[self._defl_offset : self._defl_offset + len(content)] = content
        if content and self._worn.exists():
            self.data[self._defl_offset] ^= 1
        self._defl_offset += len(content)


def _framed(data: bytes) -> bytes:
    """A SLIP frame (RFC 1055)."""
    return b"\xc0" + data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def _frames(raw: bytes) -> list[bytes]:
    """The whole frames in `raw`."""
    parts = raw[: raw.rfind(b"\xc0") + 1].split(b"\xc0")
    return [
        part.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb") for part in parts if part
    ]


server.slip_encode = _framed
server.slip_decode_frames = _frames


def main(chip: str, megabytes: int, folder: Path) -> None:
    """Serve until killed."""
    protocol.FLASH_MOCK_SIZE = megabytes << 20
    # The third byte of a flash chip's id is the logarithm of its size (JEDEC).
    protocol.MOCK_FLASH_ID = protocol.MOCK_FLASH_ID & 0xFFFF | (19 + megabytes.bit_length()) << 16
    if chip == "esp32c3":
        # Of the third revision, which stock firmware needs (efuse block 1, word 3).
        registers.rom_profile(chip)[0x60008850] = 3 << 18
    line, flash = Line(folder), Flash(folder / "worn")
    known = bytes(flash.data)
    while True:
        talk = server.BootloaderConnection(pty=line)  # pyright: ignore[reportArgumentType]
        server.handle_client(talk, threading.Event(), chip, flash=flash)
        if flash.data != known:
            known = bytes(flash.data)
            part = folder / "flash.part"
            part.write_bytes(known)
            (folder / "wire").write_text(f"{line.up} {line.down}")
            part.rename(folder / "flash.bin")
            line.booted = True


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
