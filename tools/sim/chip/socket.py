# Sockets of one board: from its own address, only while it has a link, every byte counted.
# Where the clock is the wall's, timeouts are in real seconds whatever the board's speed: what
# answers lives in real time.
import errno
import io

import _event
import network
import uselect
import usocket
import utime
from _clock import ticks_ms
from _page import ADDRESS, ESP32, OWN, SILENT, SPEED, page
from _wait import moved, wait

AF_INET = 2
SOCK_STREAM = 1
SOCK_DGRAM = 2
IPPROTO_TCP = 6
IPPROTO_UDP = 17
SOL_SOCKET = 1
SO_REUSEADDR = 2
SO_BROADCAST = 6
_TCP_NODELAY = 1
_CALLBACK = 20  # a function to call when something has arrived
# Ports below 1024 need root on the host.
_PRIVILEGED = 1024
_SHIFT = 8000
# Behind tools/sim/air.py, which has the same numbers.
_WEBREPL = 8266
_BEHIND = 10000


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    if not _numeric(host):
        if not network.linked():
            raise OSError(-2)
        if page.dns:
            # An ESP32 waits in one go, while no callback runs, no timer's either.
            wait(None, utime.ticks_add(ticks_ms(), page.dns * 1000), ESP32)
            raise OSError(-202 if ESP32 else -2)
        host = _ip(usocket.getaddrinfo(host, port)[0][4])[0]
    return [(AF_INET, type or SOCK_STREAM, proto, "", (host, port))]


def _numeric(host):
    return host == "" or host.replace(".", "").isdigit()


def _ip(sockaddr):
    _, raw, port = usocket.sockaddr(sockaddr)[:3]
    return ".".join(str(n) for n in raw), port


def _sockaddr(address):
    host, port = address[0], address[1]
    if host == "255.255.255.255":
        host = "127.255.255.255"
    return usocket.getaddrinfo(host, port)[0][4]


class socket(io.IOBase):
    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0, *, _native=None):
        self._s = _native or usocket.socket(af, type)
        self._s.setblocking(False)
        self._timeout = None  # seconds; None waits for ever, 0 never
        self._bound = _native is not None
        self._poll = None
        self._open = True
        if _native and (OWN or SPEED > 1):
            self._hurry()

    def _hurry(self):
        # The 40 ms that an acknowledgement may take would be seconds of the board's time.
        self._s.setsockopt(IPPROTO_TCP, _TCP_NODELAY, 1)

    def _moved(self):
        if OWN:
            moved(self._s.fileno())

    # -- set-up
    def settimeout(self, seconds):
        self._timeout = seconds

    def setblocking(self, flag):
        self._timeout = None if flag else 0

    def setsockopt(self, level, option, value):
        if level == SOL_SOCKET and option == _CALLBACK:
            _event.call(self, self._s.fileno(), value)
        elif level == SOL_SOCKET and option in (SO_REUSEADDR, SO_BROADCAST):
            self._s.setsockopt(level, option, value)

    def bind(self, address):
        port = address[1]
        if 0 < port < _PRIVILEGED:
            port += _SHIFT
        elif SILENT and port == _WEBREPL:
            port += _BEHIND
        self._s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        self._s.bind(_sockaddr((ADDRESS, port)))
        self._bound = True

    def listen(self, backlog=2):
        self._s.listen(backlog)

    def accept(self):
        while True:
            self._wait(uselect.POLLIN)
            try:
                peer, address = self._s.accept()
                self._moved()
                return socket(_native=peer), _ip(address)
            except OSError as problem:
                if problem.errno != errno.EAGAIN or self._timeout == 0:
                    raise

    def _leave(self):
        if not network.linked():
            raise OSError(errno.EHOSTUNREACH)
        if not self._bound:
            self._s.bind(_sockaddr((ADDRESS, 0)))
            self._bound = True

    def connect(self, address):
        self._leave()
        if OWN or SPEED > 1:
            self._hurry()
        target = _sockaddr(address)
        self._moved()
        try:
            self._s.connect(target)
        except OSError as problem:
            if problem.errno != errno.EINPROGRESS or self._timeout == 0:
                raise
            self._wait(uselect.POLLOUT)
            self._s.connect(target)  # raises what the first attempt ended with

    def fileno(self):
        return self._s.fileno()

    def makefile(self, mode="rb", buffering=0):
        return self

    # -- bytes
    def _wait(self, event):
        if self._timeout == 0:
            return
        if self._poll is None:
            self._poll = uselect.poll()
            self._poll.register(self._s, event)
        else:
            self._poll.modify(self._s, event)
        end = None
        if self._timeout:
            ms = int(self._timeout * 1000)
            end = utime.ticks_add(ticks_ms(), ms if OWN else ms * SPEED)
        if not wait(self._poll, end):
            raise OSError(errno.ETIMEDOUT)

    def _taken(self, data):
        self._moved()
        if data:
            page.received += len(data)
        return data

    def recv(self, size):
        while True:
            try:
                return self._taken(self._s.recv(size))
            except OSError as problem:
                if problem.errno != errno.EAGAIN or self._timeout == 0:
                    raise
            self._wait(uselect.POLLIN)

    def recvfrom(self, size):
        while True:
            try:
                data, address = self._s.recvfrom(size)
                return self._taken(data), _ip(address)
            except OSError as problem:
                if problem.errno != errno.EAGAIN or self._timeout == 0:
                    raise
            self._wait(uselect.POLLIN)

    def readinto(self, buf, size=None):
        view = None
        got = 0
        size = len(buf) if size is None else size
        while True:
            n = self._s.readinto(view if view else buf, size - got)
            if n is None:
                if self._timeout == 0:
                    return got or None
                self._wait(uselect.POLLIN)
                continue
            got += n
            page.received += n
            self._moved()
            if n == 0 or got == size:
                return got
            view = memoryview(buf)[got:]

    def read(self, size=-1):
        if self._timeout == 0:
            return self._taken(self._s.read(size))
        whole = b""
        while size < 0 or len(whole) < size:
            part = self._s.read(size - len(whole)) if size >= 0 else self._s.read(256)
            if part is None:
                self._wait(uselect.POLLIN)
            elif part:
                whole += self._taken(part)
            else:
                break
        return whole

    def readline(self, size=-1):
        if self._timeout == 0:
            return self._taken(self._s.readline(size))
        whole = b""
        while not whole.endswith(b"\n") and len(whole) != size:
            part = self._s.readline(size if size < 0 else size - len(whole))
            if part is None:
                self._wait(uselect.POLLIN)
            elif part:
                whole += self._taken(part)
            else:
                break
        return whole

    def write(self, data, size=None):
        view = memoryview(data)
        if size is not None:
            view = view[:size]
        done = 0
        while done < len(view):
            n = self._s.write(view[done:] if done else view)
            if n is None:
                if self._timeout == 0:
                    return done or None
                self._wait(uselect.POLLOUT)
                continue
            done += n
            page.sent += n
            self._moved()
        return done

    def send(self, data):
        while True:
            try:
                n = self._s.send(data)
                page.sent += n
                self._moved()
                return n
            except OSError as problem:
                if problem.errno != errno.EAGAIN or self._timeout == 0:
                    raise
            self._wait(uselect.POLLOUT)

    def sendall(self, data):
        self.write(data)

    def sendto(self, data, address):
        self._leave()
        n = self._s.sendto(data, _sockaddr(address))
        page.sent += n
        self._moved()
        return n

    def close(self):
        if self._open:
            self._open = False
            _event.forget(self._s.fileno())
            self._moved()
            self._s.close()

    def ioctl(self, request, argument):
        if request == 10:  # MP_STREAM_GET_FILENO: the C side polls the host's own socket
            return self._s.fileno()
        if request == 4:  # MP_STREAM_CLOSE
            self.close()
            return 0
        return -errno.EINVAL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
