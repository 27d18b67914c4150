"""The log over the network: one UDP packet a line, as RFC 5424 has it.

Nobody says whether a packet arrives. The time is left to the server (the RFC's NILVALUE), which
knows it better.
"""

# config: SYSLOG_HOST = ""
# config: SYSLOG_PORT = 0  #: 0..65535

import socket
from micropython import const

import config
from runtime import log

_PORT = const(514)
_MOST = const(480)  # bytes; 6.1: every receiver takes that much
_SEVERITY = b"\x07\x06\x04\x03"  # 6.2.1, of debug, info, warning, error
_USER = const(8)  # facility 1
_AGAIN = const(300)  # s between two attempts to find the server, which may stop the board


class Syslog:
    """Sends the log to `config.SYSLOG_HOST` (best an address: a name is looked up, which waits)."""

    def __init__(self, app):
        self._wifi = app.wifi
        self._name = app.wifi.board["id"]
        self._address = None
        self._socket = None
        self._due = 0
        self._host = config.SYSLOG_HOST  # pyright: ignore
        if self._host:
            log.sinks.append(self._send)

    def _send(self, n, line):
        if not self._wifi.up:
            return
        if not self._socket:
            if log.up < self._due:
                return
            self._due = log.up + _AGAIN
            port = getattr(config, "SYSLOG_PORT", 0) or _PORT
            address = socket.getaddrinfo(self._host, port, 0, socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(*address[:3])
            self._address = address[-1]
        head = "<%d>1 - %s mipy - - - " % (_USER + _SEVERITY[n], self._name)
        self._socket.sendto((head + line).encode()[:_MOST], self._address)
