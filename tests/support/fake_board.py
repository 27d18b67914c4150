"""A board as the server sees it: the protocol of docs/protocol.md on a plain socket."""

import hmac
import json
import secrets
import socket
import zlib
from dataclasses import dataclass, field
from typing import Any

from mipy_ota.signing import board_file
from tests.support import vectors


@dataclass
class Answer:
    """One HTTP answer, with its size on the wire."""

    status: int
    head: bytes
    headers: dict[str, str]
    body: bytes
    sent: int
    received: int

    @property
    def plain(self) -> bytes:
        """The body inflated."""
        return zlib.decompress(self.body, -10)


def talk(connection: socket.socket, request: bytes) -> Answer:
    """Send a request and read one answer by its Content-Length."""
    connection.sendall(request)
    return hear(connection, len(request))


def hear(connection: socket.socket, sent: int = 0) -> Answer:
    """Read one answer."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(connection)
    return Answer(int(status.split(" ")[1]), head, headers, body, sent, len(head) + 4 + len(body))


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def connect(url: str) -> socket.socket:
    """A connection to `http://host:port`."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@dataclass
class FakeBoard:
    """Polls as told; `report` is what it says each time."""

    url: str
    id: str = "sim-01"
    app: str = "weather"
    cls: str = "esp8266-generic"
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    dev: bool = False
    ticket: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.report = {
            "seq": 1, "m": "a1" * 16, "state": "ok", "heap": 21000, "up": 61, **self.report,
        }  # fmt: skip
        self._connection = connect(self.url)

    def file(self) -> bytes:
        """The board file."""
        return board_file.Board(vectors.FLEET, self.id, self.app, self.cls, self.key).encode()

    def facts(self) -> dict[str, Any]:
        """What is told once a boot."""
        return {
            "proto": 1, "app": self.app, "class": self.cls, "chip": "esp8266", "boot": 1,
            "fw": "1.26.1", "mpy": "6.3", "trust": 1, "addr": "127.0.0.2",
        }  # fmt: skip

    def message(self, **more: Any) -> bytes:
        """A poll's body."""
        self.nonce = secrets.token_hex(8)
        said = {"id": self.id, "n": self.nonce, "k": self.ticket, **self.report, **more}
        return json.dumps(said, separators=(",", ":")).encode()

    def request(self, body: bytes, key: bytes | None = None) -> bytes:
        """The whole request for a body."""
        mac = hmac.digest(key or self.key, b"poll1\0" + body, "sha256").hex()
        head = f"POST /d/v1/poll HTTP/1.1\r\nhost: {self.url[7:]}\r\ncontent-length: {len(body)}"
        return f"{head}\r\nota-mac: {mac}\r\n\r\n".encode() + body

    def send(self, body: bytes, key: bytes | None = None) -> Answer:
        """One poll with this body; answers other than 200 end the connection's use here."""
        return talk(self._connection, self.request(body, key))

    def poll(self, **more: Any) -> dict[str, Any]:
        """One poll; checks the reply's MAC and keeps the ticket."""
        answer = self.send(self.message(**more))
        assert answer.status == 200, answer
        return self.accept(answer)

    def accept(self, answer: Answer) -> dict[str, Any]:
        """Check a reply and keep its ticket."""
        sealed = b"reply1\0" + self.nonce.encode() + answer.body
        assert answer.headers["ota-mac"] == hmac.digest(self.key, sealed, "sha256").hex()
        reply: dict[str, Any] = json.loads(answer.body)
        self.ticket = reply["k"]
        return reply

    def boot(self, **more: Any) -> dict[str, Any]:
        """The first polls of a boot: one to get a ticket, one that counts."""
        self.ticket = ""
        assert self.poll(**self.facts(), **more)["stale"] == 1
        return self.poll(**self.facts(), **more)

    def get(self, path: str, **headers: str) -> Answer:
        """GET over the same connection."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {path} HTTP/1.1\r\nhost: {self.url[7:]}\r\n{lines}\r\n"
        return talk(self._connection, request.encode())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
