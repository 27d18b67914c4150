# Sockets that call back (option 20, as the chips' own WebREPL uses it). The kernel tells of each
# arrival once, as lwIP tells the ESP8266: who leaves bytes unread is not called again for those.
# The second thread of _tick.py waits here; it must not allocate.
import uselect
import usys
from _page import ESP32, libc, shut

_MOST = 8
_IN = 1
_ONCE = 1 << 7  # of the event's last byte: EPOLLET
_ADD, _REMOVE, _MODIFY = 1, 2, 3
_control = libc.func("i", "epoll_ctl", "iiip")
_wait = libc.func("i", "epoll_wait", "ipii")
_epoll = libc.func("i", "epoll_create1", "i")(0)
_poll = uselect.poll()
_poll.register(_epoll, uselect.POLLIN)
# The number of the socket stands where any processor's layout of the event has it.
_event = bytearray(16)
_event[0] = _IN
_event[3] = _ONCE
_got = bytearray(16)
_fds = [-1] * _MOST
_calls = [None] * _MOST
_sockets = [None] * _MOST
_ready = bytearray(_MOST)
_count = bytearray(1)
# What arrived first is served first; the thread writes at one end, the device's at the other.
_queue = bytearray(2 * _MOST)
_ends = bytearray(2)


def call(socket, fd, callback):
    """Call `callback(socket)` when something arrives for it; None: no more."""
    forget(fd)
    if callback is None:
        return
    for n in range(_MOST):
        if _fds[n] < 0:
            _fds[n] = fd
            _calls[n] = callback
            _sockets[n] = socket
            _arm(_ADD, n)
            _count[0] += 1
            return
    raise OSError(12)


def _arm(how, n):
    _event[4] = _event[8] = n
    _control(_epoll, how, _fds[n], _event)


def forget(fd):
    """The socket is closed."""
    for n in range(_MOST):
        if _fds[n] == fd:
            _arm(_REMOVE, n)
            _fds[n] = -1
            _calls[n] = _sockets[n] = None
            _count[0] -= 1


def look():
    """Wait a millisecond; true when the device code has something to serve. For the thread."""
    n = _wait(_epoll, _got, 1, 1)
    if n == 1 and not _ready[_got[8]]:
        _ready[_got[8]] = 1
        _queue[_ends[1]] = _got[8]
        _ends[1] = (_ends[1] + 1) % len(_queue)
    return _ends[0] != _ends[1] and not ESP32


def waiting():
    return _count[0]


def pending():
    """Whether something has arrived that nobody has been called for."""
    if _ends[0] != _ends[1]:
        return True
    for _ in _poll.ipoll(0) if _count[0] else ():
        return True
    return False


def serve():
    """Call back for all that has arrived."""
    while _ends[0] != _ends[1]:
        n = _queue[_ends[0]]
        _ends[0] = (_ends[0] + 1) % len(_queue)
        _ready[n] = 0
        callback, socket = _calls[n], _sockets[n]
        try:
            if callback:
                callback(socket)
        except Exception as problem:
            usys.print_exception(problem)
        if ESP32 and callback and callback is _calls[n]:
            # The ESP32 asks select(): what is left unread counts the next time as well.
            _arm(_MODIFY, n)


def idle():
    """Where an ESP32 serves them: while it sleeps, polls or waits for a key, and nowhere else."""
    if ESP32 and _ends[0] != _ends[1] and not shut[0]:
        shut[0] += 1
        try:
            serve()
        finally:
            shut[0] -= 1
