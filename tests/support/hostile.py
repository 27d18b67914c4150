"""A server that lies: it stands between a board and its real server and changes what it likes.

It knows the board's key where an attack needs that (a stolen server does), but no private key.
Plain sockets, one thread a connection, every wait bounded.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import apps
from tests.support.fake_board import connect, talk

POLL = "/d/v1/poll"
_SECONDS = 10.0  # of silence on a connection
_ENDLESS = 8 << 20  # bytes after which an endless body ends, should nobody hang up


@dataclass(frozen=True)
class Exchange:
    """A poll as the board sent it and as the real server answered: whole messages."""

    request: bytes
    reply: bytes

    @property
    def asked(self) -> dict[str, Any]:
        """The poll's JSON."""
        return json.loads(self.request.partition(b"\r\n\r\n")[2])


Bend = Callable[[Exchange], bytes | Iterable[bytes]]


class Hostile:
    """Listens at `url` and passes everything on to `upstream`, but for what is set here.

    Attributes:
        key: of the board, for replies that are to be believed.
        offer: goes into every reply to a poll, under a MAC that is right.
        content: path -> plain content, sent as the protocol wants it.
        whole: path -> whole answer, head and all, sent as it is.
        bend: makes the answer to a poll from the exchange; None is "add the offer".
        polls: what was exchanged with the real server.
        asked: paths of all requests.
        header: a line, with its end, that a proxy adds to each answer's head.
        closes: each connection after one answer, as some proxies do.
        alters: gets each path and the plain content behind it, gives what is sent instead; None
            sends what the real server has.
        pause: is called between two bytes of what `trickles` names by its path.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.key = b""
        self.polls: list[Exchange] = []
        self.asked: list[str] = []
        self.reset()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Honest again, with empty lists."""
        self.offer: dict[str, Any] = {}
        self.content: dict[str, bytes] = {}
        self.whole: dict[str, bytes | Iterable[bytes]] = {}
        self.bend: Bend | None = None
        self.header = b""
        self.closes = False
        self.alters: Callable[[str, bytes], bytes | None] | None = None
        self.trickles: Callable[[str], bool] | None = None
        self.pause: Callable[[], None] = lambda: time.sleep(0.1)
        self.polls.clear()
        self.asked.clear()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # accept() in another thread wakes up by shutdown(), not by close().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(_SECONDS)
        # The board hangs up whenever it has seen enough.
        with peer, contextlib.suppress(OSError):
            while request := _request(peer):
                answer = self._on_its_way(request, self._answer(request))
                for part in [answer] if isinstance(answer, bytes) else answer:
                    peer.sendall(part)
                if self.closes or not isinstance(answer, bytes):
                    return

    def _on_its_way(
        self, request: bytes, answer: bytes | Iterable[bytes]
    ) -> bytes | Iterable[bytes]:
        """What a proxy makes of an answer."""
        if not isinstance(answer, bytes):
            return answer
        if self.header:
            status, _, rest = answer.partition(b"\r\n")
            answer = status + b"\r\n" + self.header + rest
        if self.trickles and self.trickles(request.split(b" ", 2)[1].decode()):
            return self._drops(answer)
        return answer

    def _drops(self, answer: bytes) -> Iterator[bytes]:
        head, end, body = answer.partition(b"\r\n\r\n")
        yield head + end
        for byte in body:
            self.pause()
            yield bytes((byte,))

    def _answer(self, request: bytes) -> bytes | Iterable[bytes]:
        path = request.split(b" ", 2)[1].decode()
        self.asked.append(path)
        if path in self.whole:
            return self.whole[path]
        if path in self.content:
            return answer(deflated(self.content[path]))
        reply = self._forward(request)
        if path != POLL:
            return self._altered(path, reply)
        exchange = Exchange(request, reply)
        self.polls.append(exchange)
        return self.bend(exchange) if self.bend else self.sealed(exchange, self.offer)

    def _altered(self, path: str, reply: bytes) -> bytes:
        if not self.alters or b" 200" not in reply[:16]:
            return reply
        plain = zlib.decompress(reply.partition(b"\r\n\r\n")[2], -10)
        altered = self.alters(path, plain)
        return reply if altered is None else answer(deflated(altered))

    def _forward(self, request: bytes) -> bytes:
        with connect(self.upstream) as connection:
            got = talk(connection, request)
        return got.head + b"\r\n\r\n" + got.body

    def sealed(self, exchange: Exchange, offer: dict[str, Any]) -> bytes:
        """The reply of an exchange with `offer` in it, and a MAC that is right."""
        reply = json.loads(exchange.reply.partition(b"\r\n\r\n")[2]) | offer
        body = json.dumps(reply, separators=(",", ":")).encode()
        sealed = b"reply1\0" + exchange.asked["n"].encode() + body
        return answer(body, ("ota-mac", hmac.digest(self.key, sealed, "sha256").hex()))


def _request(peer: socket.socket) -> bytes:
    """One whole request; empty when the peer has hung up."""
    got = b""
    while b"\r\n\r\n" not in got:
        data = peer.recv(4096)
        if not data:
            return b""
        got += data
    head, _, body = got.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    while len(body) < sum(lengths):
        body += peer.recv(4096)
    return head + b"\r\n\r\n" + body


def answer(body: bytes, *headers: tuple[str, str], status: str = "200 OK") -> bytes:
    """A whole HTTP answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    return head.encode() + body


def deflated(plain: bytes) -> bytes:
    """Raw deflate with the window the protocol fixes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -10)
    return packer.compress(plain) + packer.flush()


def cut_short(plain: bytes) -> Iterator[bytes]:
    """The answer with `plain` as its content, whose connection breaks in the last bytes."""
    yield answer(deflated(plain))[:-4]


def endless() -> Iterator[bytes]:
    """An answer that claims to be small and never ends: stored blocks without a last one."""
    yield b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"
    block = secrets.token_bytes(1024)
    framed = b"\0" + len(block).to_bytes(2, "little")
    framed += (len(block) ^ 0xFFFF).to_bytes(2, "little") + block
    for _ in range(_ENDLESS // len(framed)):
        yield framed


@contextlib.contextmanager
def behind(
    folder: Path,
    first: str | Mapping[str, str | bytes] = apps.GOOD,
    through: Callable[[str], str] | None = None,
    **options: Any,
) -> Iterator[tuple[apps.Story, Hostile]]:
    """A story whose board reaches its server by this way only, or as `through` says."""
    with contextlib.ExitStack() as stack:
        ways: list[Hostile] = []

        def way(url: str) -> str:
            ways.append(stack.enter_context(Hostile(url)))
            return through(url) if through else ways[0].url

        it = stack.enter_context(apps.story(folder, first, through=way, **options))
        ways[0].key = it.who.key
        yield it, ways[0]
