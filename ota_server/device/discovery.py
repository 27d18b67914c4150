"""Answers boards that call for their server on the local network (docs/protocol.md).

Only an enrolled board's call is answered, and the answer is sealed with that board's key: nobody
else can make use of either.
"""

import asyncio
import hmac
import logging
import re
import socket
from typing import Any

from ..storage.base import Storage, StorageError

PORT = 8266
"""Where boards call, whatever the server's own port."""
ANSWERING = 100
"""Calls under way; more are not answered, and boards call again."""

_CALL = re.compile(rb"find1 ([!-~]{1,64}) ([0-9a-f]{16}) ([0-9a-f]{64})")
log = logging.getLogger(__name__)


class Responder(asyncio.DatagramProtocol):
    """Tells boards where the server is.

    Args:
        storage: who is enrolled.
        port: of the server's HTTP side.
    """

    def __init__(self, storage: Storage, port: int) -> None:
        self._storage = storage
        self._port = port
        self._transport: Any = None
        self._answering: set[asyncio.Future[None]] = set()

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a genuine call; stay silent on all else."""
        if len(self._answering) < ANSWERING:
            task = asyncio.ensure_future(self._answer(data, addr))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, data: bytes, peer: tuple[str, int]) -> None:
        try:
            reply = await self.reply(data, peer)
        except (StorageError, OSError) as problem:
            log.warning("cannot answer a board's call: %s", problem)
            return
        if reply and self._transport:
            self._transport.sendto(reply, peer)

    async def reply(self, data: bytes, peer: tuple[str, int]) -> bytes | None:
        """The answer to the datagram `data` of `peer`; None when it is not a board's."""
        call = _CALL.fullmatch(data)
        board = await self._storage.board(call[1].decode()) if call else None
        if not call or not board:
            return None
        right = hmac.digest(board.key, b"find1\0%s %s" % (call[1], call[2]), "sha256")
        if not hmac.compare_digest(right.hex().encode(), call[3]):
            return None
        url = f"http://{_own_address(peer)}:{self._port}".encode()
        seal = hmac.digest(board.key, b"here1\0%s %s" % (call[2], url), "sha256")
        return b"here1 %s %s" % (url, seal.hex().encode())


def _own_address(peer: tuple[str, int]) -> str:
    """This machine's address on the way to `peer`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)  # sends nothing: asks the routing table
        return probe.getsockname()[0]


async def listen(storage: Storage, port: int) -> asyncio.DatagramTransport | None:
    """Answer calls until the transport is closed; None when nobody can listen here.

    Args:
        storage, port: see `Responder`.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # A broadcast reaches each server of this machine.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", PORT))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: Responder(storage, port), sock=listener
        )
    except OSError as problem:
        listener.close()
        log.warning("boards cannot find this server by calling: UDP port %d: %s", PORT, problem)
        return None
    return transport
