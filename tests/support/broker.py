"""A real Mosquitto for the tests, a client that watches it, and a line to it that can be cut."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import boards, loopback

BINARY = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
SECONDS = 60


def available() -> bool:
    """Whether Debian's package is installed."""
    return os.access(BINARY, os.X_OK)


def wait(holds: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Wait until `holds()` is true; False when it was not in time.

    Where boards with clocks of their own run, their time passes meanwhile, an hour of it at most.
    """
    board = next((board for board in boards.running if board.clock == "own"), None)
    if board:
        return board.wait(lambda _: bool(holds()), step=0.5)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


class Broker:
    """Mosquitto on a port of 127.0.0.1; `extra` are lines of its configuration."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true\n") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = loopback.port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nuser {os.environ.get('USER', 'root')}\n"
            f"max_queued_messages 0\n{extra}"
        )
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)  # also where a script forgets it
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, "-c", str(self._config), "-v"], stdout=log, stderr=log
            )
        assert wait(self._answers), (self.folder / "log").read_text()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def signal(self, number: int) -> None:
        """Send the process a signal; wait for its end where that kills it."""
        assert self._process
        self._process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait()

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _packet(kind: int, body: bytes) -> bytes:
    length, n = b"", len(body)
    while True:
        n, digit = n >> 7, n & 127
        length += bytes([digit | (128 if n else 0)])
        if not n:
            return bytes([kind]) + length + body


def _text(text: str) -> bytes:
    return struct.pack("!H", len(text.encode())) + text.encode()


class Client:
    """Subscribes to all there is, keeps every message as (topic, payload, retained)."""

    def __init__(self, port: int, name: str = "watcher") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._s = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._s.settimeout(None)
        self._file = self._s.makefile("rb")
        self._ready = threading.Event()
        self._id = 1
        flags = b"\x04MQTT\x04\x02\0\0"
        self._s.sendall(_packet(0x10, struct.pack("!H", 4) + flags[1:] + _text(name)))
        self._s.sendall(_packet(0x82, b"\0\1" + _text("#") + b"\1"))
        threading.Thread(target=self._run, daemon=True).start()
        assert self._ready.wait(SECONDS)

    def _run(self) -> None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            while True:
                kind = self._file.read(1)[0]
                n = shift = 0
                while True:
                    digit = self._file.read(1)[0]
                    n |= (digit & 127) << shift
                    shift += 7
                    if digit < 128:
                        break
                self._take(kind, self._file.read(n))

    def _take(self, kind: int, body: bytes) -> None:
        if kind == 0x90:
            self._ready.set()
        elif kind & 0xF0 == 0x30:
            end = 2 + struct.unpack_from("!H", body)[0]
            topic, at = body[2:end].decode(), end
            if kind & 6:
                self._s.sendall(_packet(0x40, body[end : end + 2]))
                at += 2
            self.messages.append((topic, body[at:], bool(kind & 1)))

    def publish(self, topic: str, payload: str | bytes, qos: int = 0, retain: bool = False) -> None:
        payload = payload.encode() if isinstance(payload, str) else payload
        number = b""
        if qos:
            self._id = self._id % 65535 + 1
            number = struct.pack("!H", self._id)
        self._s.sendall(_packet(0x30 | qos << 1 | retain, _text(topic) + number + payload))

    @property
    def topics(self) -> set[str]:
        """Of all that came."""
        return {topic for topic, _, _ in self.messages}

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in self.messages if name == topic]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._s.shutdown(socket.SHUT_RDWR)
        self._s.close()


class Line:
    """A TCP proxy in front of `target`, and what may happen on the way.

    `open`: whether new connections get through (else they are closed at once). `pause`: seconds
    before each piece is passed on, of `piece` bytes. `cut(after)` ends all connections when so many
    more bytes have gone to the board; `mute` swallows everything and says nothing.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.open = True
        self.mute = False
        self.pause = 0.0
        self.piece = 4096
        self._left: int | None = None
        self._ends: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                if not self.open:
                    peer.close()
                    continue
                try:
                    broker = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    peer.close()
                    continue
                broker.settimeout(None)
                for s in (peer, broker):
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends |= {peer, broker}
                for ends in ((peer, broker, False), (broker, peer, True)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, down: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                if self.pause:
                    time.sleep(self.pause)
                if self.mute:
                    continue
                if down and self._left is not None:
                    data, self._left = data[: self._left], self._left - len(data)
                    to.sendall(data)
                    if self._left <= 0:
                        break
                else:
                    to.sendall(data)
        if down and self._left is not None and self._left <= 0:
            self._left = None
        self._end(source, to)

    def _end(self, *ends: socket.socket) -> None:
        for s in ends:
            self._ends.discard(s)
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    @property
    def whole(self) -> bool:
        """Whether no cut is still to come."""
        return self._left is None

    def cut(self, after: int = 0) -> None:
        if after:
            self._left = after
        else:
            self._end(*list(self._ends))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
