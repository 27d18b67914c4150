"""Noticing that a board has gone.

One that resets, or loses power or Wi-Fi, does not tell its peers: whoever only listens would wait
for ever. TCP's own probes find out. A board's network stack answers them even while its app is
busy, and after a reset it denies the connection. MicroPython answers no WebSocket's ping.
"""

import socket

SECONDS = 10
"""A board that has gone is noticed within so long."""
_OPTIONS = {
    "TCP_KEEPIDLE": 4,  # seconds of silence before the first probe
    "TCP_KEEPINTVL": 2,  # between two
    "TCP_KEEPCNT": 3,  # unanswered ones
    "TCP_USER_TIMEOUT": 1000 * SECONDS,  # ms; for what was sent and is not acknowledged (RFC 5482)
}


def probe(connection: socket.socket) -> None:
    """Have a TCP connection probed from now on, as far as this system can."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
