# The C module behind WebREPL (extmod/modwebrepl.c): password, then text frames for the REPL and
# binary ones for files, over a websocket, which the interpreter has itself.
import io

import usys
import utime
from _clock import ticks_ms
from _page import ESP32
from _wait import wait

_HEADER = 82  # <2sBBQLH64s: signature, operation, flags, offset, size, length of the name, name
_PUT, _GET, _VERSION = 1, 2, 3
_GET_OPTIONS, _SET_OPTIONS = 8, 9
_TEXT, _BINARY = 1, 2
_PASSWORD, _NORMAL = 0, 1
_DELAY = 0 if ESP32 else 20  # ms after each chunk
_password = [b""]
# One connection at a time, so its buffers can be made once, at nobody's cost.
_header = bytearray(_HEADER)
_typed = bytearray(11)
_chunk = bytearray(512)
_view = memoryview(_chunk)
_part = memoryview(_header)
_out = bytearray(258)


def password(text):
    raw = text.encode() if isinstance(text, str) else bytes(text)
    if len(raw) > 9:
        raise ValueError
    _password[0] = raw


class _webrepl(io.IOBase):
    def __init__(self, socket, _=None):
        self._socket = socket
        self._state = _PASSWORD
        self._header = _HEADER  # bytes of it to come
        self._data = 0  # bytes of the file, or of the password so far
        self._file = None
        socket.write(b"Password: ")

    def readinto(self, into, size=None):
        # dupterm asks for one byte at a time.
        while True:
            n = self._step(into)
            if n != -2:
                return n

    def read(self, size=1):
        into = bytearray(1)
        n = self.readinto(into)
        return bytes(into[:n]) if n is not None else None

    def _step(self, into):
        socket = self._socket
        n = socket.readinto(into)
        if not n:
            return n
        if self._state == _PASSWORD:
            return self._login(into[0])
        if socket.ioctl(_GET_OPTIONS, 0) == _TEXT:
            return n
        if self._header:
            _header[_HEADER - self._header] = into[0]
            self._header -= 1
            if self._header:
                n = socket.readinto(_part[_HEADER - self._header :])
                if n is None:
                    return None
                self._header -= n
            if not self._header:
                self._begin()
        elif self._data:
            n = self._take(into[0])
            if n is None:
                return None
            if _DELAY:
                wait(None, utime.ticks_add(ticks_ms(), _DELAY), True)
        return -2

    def _login(self, c):
        if c not in b"\r\n":
            if self._data < 10:
                _typed[self._data] = c
                self._data += 1
            return -2
        said = bytes(_typed[: self._data])
        self._data = 0
        if said.split(b"\0")[0] != _password[0]:
            self._socket.write(b"\r\nAccess denied\r\n")
            return 0
        self._state = _NORMAL
        self._socket.write(b"\r\nWebREPL connected\r\n>>> ")
        return -2

    def _begin(self):
        kind = _header[2]
        if kind == _VERSION:
            self._binary(bytes(usys.implementation.version[:3]))
            self._header = _HEADER
            return
        name = bytes(_header[18:]).split(b"\0")[0].decode()
        self._file = open(name, "wb" if kind == _PUT else "rb")
        self._answer()
        if kind == _PUT:
            size = _header[12:16]
            self._data = size[0] | size[1] << 8 | size[2] << 16 | size[3] << 24
            self._finish()
        elif kind == _GET:
            self._data = 1

    def _take(self, first):
        _chunk[0] = first
        self._data -= 1
        size = 1
        if self._data:
            n = self._socket.readinto(_view[1 : 1 + min(511, self._data)])
            if n is None:
                return None  # and the byte before is lost: as it is in the C module
            self._data -= n
            size += n
        if _header[2] == _PUT:
            try:
                self._file.write(_view[:size])
            except OSError:
                pass  # a full disk goes unnoticed there
        elif self._send():
            self._data = 1
        self._finish()
        return size

    def _send(self):
        n = self._file.readinto(_view[:256])
        _out[0] = n & 255
        _out[1] = n >> 8
        _out[2 : 2 + n] = _view[:n]
        self._binary(memoryview(_out)[: 2 + n])
        return n

    def _finish(self):
        if not self._data:
            self._file.close()
            self._header = _HEADER
            self._answer()

    def _answer(self):
        self._binary(b"WB\0\0")

    def _binary(self, data):
        before = self._socket.ioctl(_SET_OPTIONS, _BINARY)
        self._socket.write(data)
        self._socket.ioctl(_SET_OPTIONS, before)

    def write(self, data):
        # Nothing of the app before the password.
        return self._socket.write(data) if self._state == _NORMAL else len(data)

    def ioctl(self, request, argument):
        if request == 4:
            self._socket.close()
            return 0
        return -22

    def close(self):
        self._socket.close()
