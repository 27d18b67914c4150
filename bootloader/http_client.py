"""A blocking HTTP/1.1 client that keeps its connection, and makes a new one where it was closed.

Everything is bounded: heads, bodies, and the time for them, however slowly a peer sends. The rules
are those of runtime/poll.py (docs/protocol.md, "Boards and server").
"""

import socket
import time
from errno import ECONNRESET, ETIMEDOUT
from micropython import const

import ota
from bootloader.manifest import Rejected

_HEAD = const(4096)  # bytes: what proxies add is read, and skipped
_LINE = const(96)  # bytes of a line that are kept
_BODY = const(1024)
_PIECE = const(64)  # bytes read at once
_SILENCE = const(10)  # s
_ANSWER = const(20)  # s for a head, and for a poll's body


class Connection:
    """A connection to `url` (http://host:port); `timeout` is in s for an answer.

    Raises OSError if it cannot be made.
    """

    def __init__(self, url, timeout=_ANSWER):
        self._timeout = timeout * 1000
        self._url = url
        self._s = None
        self._connect()

    def _connect(self):
        self.close()
        scheme, _, host = self._url.split("/")[:3]
        if scheme != "http:":
            raise ValueError(scheme)
        host, port = (host + ":80").split(":")[:2]
        address = socket.getaddrinfo(host, int(port), 0, socket.SOCK_STREAM)[0][-1]
        self.left = 0  # bytes of the last body that were not read
        s = socket.socket()
        try:
            s.settimeout(_SILENCE)
            s.connect(address)
        except OSError:
            s.close()
            raise
        self._s = s

    def close(self):
        """Close it; it is made anew for the next request."""
        if self._s:
            self._s.close()
            self._s = None

    def ask(self, what, head="", body=b""):
        """Send a request; return (content length, value of ota-mac). Raises Rejected("http")."""
        host = self._url.split("/")[2]
        head = "%s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (what, host, head)
        kept = self._s and not self.left
        while True:
            if not kept:
                self._connect()
            try:
                self._s.write(head)
                if body:
                    self._s.write(body)
                return self._head()
            except OSError as e:
                # Proxies close a connection after some time, or after each answer.
                if not kept or e.args[0] == ETIMEDOUT:
                    raise
                kept = False

    def _head(self):
        self._piece = b""
        self._at = 0
        self.end = time.ticks_add(time.ticks_ms(), self._timeout)
        status = length = None
        text = mac = b"-"
        line = bytearray()
        for _ in range(_HEAD):
            byte = self.byte()
            if byte != 10:
                if len(line) < _LINE:
                    line.append(byte)
                continue
            text = bytes(line).strip().lower()
            if not text:
                break
            if status is None:
                status = text[8:12]
            elif text.startswith(b"content-length:"):
                length = int(text[15:])
            elif text.startswith(b"ota-mac:"):
                mac = text[8:].strip()
            line = bytearray()
        if text or status != b" 200" or length is None:
            print("http", status)
            raise Rejected("http")
        self.left = length
        return length, mac

    def byte(self):
        if self._at == len(self._piece):
            if time.ticks_diff(self.end, time.ticks_ms()) < 0:
                raise OSError(ETIMEDOUT)
            ota.feed()  # a wait with an end is no hang
            self._piece = self._s.recv(_PIECE)
            self._at = 0
            if not self._piece:
                raise OSError(ECONNRESET)
        self._at += 1
        return self._piece[self._at - 1]

    def post(self, path, body, mac):
        """Return (body, mac) of the reply to `body` (bytes) sent with `mac` (hex)."""
        head = "content-length: %d\r\nota-mac: %s\r\n" % (len(body), mac)
        length, mac = self.ask("POST " + path, head, body)
        if length > _BODY:
            raise Rejected("size")
        reply = bytearray()
        while len(reply) < length:
            reply.append(self.byte())
        self.left = 0
        return bytes(reply), mac
