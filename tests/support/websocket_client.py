"""A WebREPL client that can be as rude as a test wants: frames by hand over a socket."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
from types import TracebackType

PORT = 8266
TEXT, BINARY, CLOSE = 1, 2, 8
SECONDS = 30
HEAD = (
    b"GET / HTTP/1.1\r\nHost: board\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(bytes(range(16)))
    + b"\r\n\r\n"
)


class Client:
    """A connection to `address`; `answer` is the head of the board's answer to ours."""

    def __init__(self, address: str, head: bytes = HEAD, port: int = PORT) -> None:
        self._socket = socket.create_connection((address, port), SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(head)
        self.answer = b""
        with contextlib.suppress(ConnectionError):
            while head.endswith(b"\r\n\r\n") and not self.answer.endswith(b"\r\n\r\n"):
                line = self._file.readline()
                if not line:
                    return
                self.answer += line

    def send(self, *data: bytes | str, kind: int = TEXT) -> None:
        """Send each as a masked frame, all at once."""
        self._socket.sendall(b"".join(_masked(one, kind) for one in data))

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """The next frame's kind and content; (0, b"") at the end."""
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return 0, b""
            size = head[1] & 127
            if size == 126:
                (size,) = struct.unpack(">H", self._file.read(2))
            return head[0] & 15, self._file.read(size)
        except ConnectionError:
            return 0, b""

    def until(self, mark: str) -> str:
        """All text up to `mark`, which must come."""
        text = ""
        while mark not in text:
            kind, data = self.frame()
            assert kind, f"closed after {text!r}"
            text += data.decode(errors="replace")
        return text

    def rest(self) -> str:
        """All text until the board closes the connection."""
        text = ""
        while True:
            kind, data = self.frame()
            if not kind:
                return text
            if kind != CLOSE:
                text += data.decode(errors="replace")

    def login(self, password: str) -> str:
        """Give the password; what the board says to it."""
        assert self.until(": ").endswith("Password: ")
        self.send(password + "\r")
        return self.until("\n> "[0] + ">>> ") if password else self.rest()

    def exactly(self, count: int) -> bytes:
        """So many bytes of binary frames; text between them is passed over."""
        got = b""
        while len(got) < count:
            kind, data = self.frame()
            assert kind, f"closed after {got!r}"
            if kind == BINARY:
                got += data
        return got

    def ask(self, operation: int, name: str = "", size: int = 0) -> None:
        """The head of a file operation: 1 puts, 2 gets, 3 asks for the version."""
        raw = name.encode()
        head = struct.pack("<2sBBQLH64s", b"WA", operation, 0, 0, size, len(raw), raw)
        self.send(head, kind=BINARY)

    def put(self, name: str, content: bytes, chunk: int = 1024) -> None:
        """Write a file."""
        self.ask(1, name, len(content))
        assert self.exactly(4) == b"WB\0\0"
        for start in range(0, len(content), chunk):
            self.send(content[start : start + chunk], kind=BINARY)
        assert self.exactly(4) == b"WB\0\0"

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _masked(data: bytes | str, kind: int) -> bytes:
    """A client's frame (RFC 6455, 5.2)."""
    data = data.encode() if isinstance(data, str) else data
    size = len(data)
    head = bytes([0x80 | kind, 0x80 | min(size, 126)])
    if size > 125:
        head += struct.pack(">H", size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[n & 3] for n, byte in enumerate(data))
