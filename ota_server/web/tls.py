"""People by TLS, on a port of its own. Boards keep theirs: their messages prove themselves."""

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

from uvicorn import Config, Server

HANDSHAKE_SECONDS = 10.0


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server proves itself with.

    Args:
        certificate: in PEM, with those that lead to its authority.
        key: in PEM, without a passphrase.

    Raises:
        OSError: a file cannot be read; `ssl.SSLError` when the two do not fit or are none.
    """
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate, key, password=lambda: "")
    return made


class TlsServer(Server):
    """uvicorn's server, with one more listener that speaks TLS.

    Args:
        listener: bound already.
    """

    def __init__(self, config: Config, listener: socket.socket, tls: ssl.SSLContext) -> None:
        super().__init__(config)
        self._listener = listener
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        protocol: Any = self.config.http_protocol_class
        server = await asyncio.get_running_loop().create_server(
            lambda: protocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            ),
            sock=self._listener,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        self.servers.append(server)


def in_clear(scope: dict[str, Any]) -> bool:
    """Whether a request has crossed a network in clear."""
    client = scope.get("client")
    if scope["scheme"] in ("https", "wss") or not client:
        return False
    try:
        return not ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return True
