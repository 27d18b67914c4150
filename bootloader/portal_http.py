"""One HTTP request at a time from a peer that may be slow, huge or mad. Never waits."""

import time
from binascii import unhexlify
from micropython import const

_HEAD = const(4096)  # bytes in all; of a line only the beginning is kept
_LINE = const(64)
_BODY = const(1024)
_WAIT = const(8000)  # ms for request and answer


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
