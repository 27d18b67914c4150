"""Protection against clients that send too much, too slowly, or nothing at all."""

import asyncio
import socket
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 8192
"""A browser's head with its cookies fits; boards are held to 1 KB (device.api)."""
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75
"""How long an idle connection is kept: a board pauses for some time between two files."""


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a limit to the size and the duration of a request's head."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A body must not wait for the acknowledgement of its head (40 ms). asyncio sees to that
        # only for sockets that were made with the protocol's number.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)
        # uvicorn leaves this timer running after a reset, which would keep the connection's memory.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_bytes > HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _head_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        self._deadline = None
        self.transport.close()


def refuse(status: int, **headers: str) -> HTTPException:
    """An empty answer that also ends the connection, since the request was not read to its end."""
    return HTTPException(status, headers={"connection": "close", **headers})


async def read_body(request: Request, limit: int, seconds: float, sink: Any) -> None:
    """Hand a request's body to `sink`, chunk by chunk.

    Args:
        limit: bytes; more is refused at once when announced, else as soon as it is exceeded.
        seconds: for the whole body.

    Raises:
        HTTPException: 411, 413 or 408.
    """
    announced = request.headers.get("content-length")
    if announced is None:
        raise refuse(411)
    if int(announced) > limit:
        raise refuse(413)
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                sink(chunk)
    except TimeoutError as problem:
        raise refuse(408) from problem
