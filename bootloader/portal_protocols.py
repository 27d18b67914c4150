"""What phones say to the portal: HTTP requests, and DNS, in which every name is this board.

A peer may be slow, huge or mad, so nothing here waits.
"""

import time
from binascii import unhexlify
from micropython import const

_HEAD = const(4096)  # bytes in all; of a line only the beginning is kept
_LINE = const(64)
_BODY = const(1024)
_WAIT = const(8000)  # ms for request and answer
_QUERY = const(300)


class Client:
    """A peer. `answer` is the iterator that gives the answer's parts, once there is one."""

    def __init__(self, s):
        s.setblocking(False)
        self.socket = s
        self.end = time.ticks_add(time.ticks_ms(), _WAIT)
        self.post = False
        self.path = self.host = b""
        self.body = None  # while the head is read
        self.answer = None
        self._line = b""
        self._left = _HEAD
        self._rest = b""

    def receive(self):
        """Take what is there; True when the request is whole.

        Raises OSError when the peer is gone, ValueError when it asks for too much.
        """
        data = self.socket.recv(256)
        if not data:
            raise OSError
        while data and self.body is None:
            i = data.find(b"\n")
            part = data if i < 0 else data[:i]
            self._left -= len(part) + 1
            if self._left < 0:
                raise ValueError
            self._line = (self._line + part)[:_LINE]
            if i < 0:
                return False
            data = data[i + 1 :]
            self._head(self._line.rstrip(b"\r"))
            self._line = b""
        if self.body is None:
            return False
        self.body += data[: self._left - len(self.body)]
        return len(self.body) == self._left

    def _head(self, line):
        if not self.path:
            words = line.split(b" ")
            if len(words) < 2 or words[0] not in (b"GET", b"POST"):
                raise ValueError
            self.post = words[0] == b"POST"
            self.path = words[1]
            self._length = 0
        elif line[:15].lower() == b"content-length:":
            self._length = int(line[15:])
            if not 0 <= self._length <= _BODY:
                raise ValueError
        elif line[:5].lower() == b"host:":
            self.host = line[5:].strip()
        elif not line:
            self._left = self._length
            self.body = b""

    def send(self):
        """Send what the peer takes; True when it has all. Raises OSError when it is gone."""
        if not self._rest:
            self._rest = next(self.answer, b"")
            if not self._rest:
                return True
        self._rest = self._rest[self.socket.send(self._rest) :]
        return False


def fields(body, names):
    """Return the values of a form's fields (application/x-www-form-urlencoded), b"" for none.

    Raises ValueError if malformed.
    """
    found = [b""] * len(names)
    for field in body.split(b"&"):
        i = field.find(b"=")
        if field[:i] in names:
            parts = field[i + 1 :].replace(b"+", b" ").split(b"%")
            value = parts[0]
            for part in parts[1:]:
                value += unhexlify(part[:2]) + part[2:]
            found[names.index(field[:i])] = value
    return found


def dns_answer(query, address):
    """Return the answer to the bytes `query`, or None when it is no single question (RFC 1035).

    `address` is four bytes. Types other than A have no answer, so that a phone goes on with A.
    """
    if not 17 <= len(query) <= _QUERY or query[2] & 0xF8 or query[4:6] != b"\0\1":
        return None
    i = 12
    while query[i]:
        if query[i] > 63:
            return None
        i += query[i] + 1
        if i > len(query) - 5:
            return None
    question = query[12 : i + 5]
    found = question[-4:] in (b"\0\1\0\1", b"\0\xff\0\1")
    head = query[:2] + b"\x84\0\0\1\0" + bytes((found, 0, 0, 0, 0))
    if found:
        # The name is the question's; a minute to live.
        question += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address
    return head + question
