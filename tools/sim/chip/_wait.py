# Waiting: for a socket, a key or a time. All that device code waits for goes through `wait`, which
# lets timers and Ctrl-C have their turn and the clock go on (tools/sim/clock.py).
import uos
import utime

import _clock
import _event
import _tick
from _page import OWN, SPEED, check, libc, page, shut

_STEP = 5000  # real microseconds between two looks round
_CLOSE = 1000  # where time may skip as soon as the host says so
_PACE = 1 if OWN else SPEED
_LASTS = 50  # real milliseconds for which the world counts as at rest
_FIONREAD = 0x541B
_CONSOLE = 1
_TCP = 6
_QUICKACK = 12
_tell = int(uos.getenv("SIM_TELL"))
_ioctl = libc.func("i", "ioctl", "iip")
_write = libc.func("i", "write", "ipi")
_usleep = libc.func("i", "usleep", "I")
_setsockopt = libc.func("i", "setsockopt", "iiipi")
_on = b"\1\0\0\0"
_sockets = bytearray(64)  # by number, whether something has moved there
_unread = bytearray(4)
_rest = [0]  # microseconds spent that are no millisecond yet
_asked = [0, 0]  # the last question's number, real ms when it was put
_stir = bytearray(2)  # something has gone to or come from outside; the host knows that time is up
_NOTHING = memoryview(b"!")


def moved(fd):
    """Something has gone to the world outside, or come from there, by this socket."""
    _stir[0] = 1
    if fd < len(_sockets):
        _sockets[fd] = 1


def glance():
    """Where device code looks without waiting, Ctrl-C and an ESP32's sockets have their turn."""
    _event.idle()
    check()


def wait(poll, end, quiet=False):  # noqa: C901 (each call would cost the board time)
    """Wait until `poll` has something (true) or it is `end` (false); None: neither.

    quiet: as in a call that blocks the chip, no callback runs.
    """
    check()
    now = _clock.ticks_ms()
    rest = 0  # real microseconds that are no millisecond yet
    seen = utime.ticks_us()
    _tick.waits(1)
    try:
        while True:
            if not quiet:
                if _tick.due(now):
                    _clock.put(now)
                    _tick.act()
                    now = _clock.ticks_ms()
                    seen = utime.ticks_us()
                _event.idle()
                check()
            left = None if end is None else utime.ticks_diff(end, now)
            over = left is not None and left <= 0
            if not (quiet or shut[0]):
                left = _sooner(left, _tick.left(now))
            skip = 0
            if OWN and not over:
                bites = _clock.left(now)
                if bites is not None and bites <= 0:
                    _clock.bite()
                left = _sooner(left, bites)
                skip = _skips(now, left)
            # After the host has said that the world is at rest: what it sent before is here.
            if poll and _has(poll, 0):
                return True
            if over:
                return False
            if skip:
                now = utime.ticks_add(now, skip)
                _clock.put(now)
                seen = utime.ticks_us()
                continue
            us = _CLOSE if OWN and page.lease else _STEP
            if left is not None and left < us * _PACE // 1000:
                us = max(left, 1) * 1000 // _PACE or 1
            if poll and us >= 1000:
                _has(poll, us // 1000)
            else:
                _usleep(us)
            if OWN:
                real = utime.ticks_us()
                rest += utime.ticks_diff(real, seen)
                seen = real
                now = utime.ticks_add(now, rest // 1000)
                rest %= 1000
                _clock.put(now)
            else:
                now = _clock.ticks_ms()
    finally:
        if OWN:
            _clock.put(now)
        _tick.waits(-1)


def spend(us):
    """Let microseconds go by, as a loop does that counts."""
    if not OWN:
        utime.sleep_us(us // SPEED)
        return
    _rest[0] += us
    if _rest[0] >= 1000:
        _clock.put(utime.ticks_add(_clock.ticks_ms(), _rest[0] // 1000))
        _rest[0] %= 1000


def _has(poll, ms):
    for _ in poll.ipoll(ms):
        return True
    return False


def _sooner(a, b):
    return b if a is None else a if b is None else min(a, b)


def _skips(now, left):
    """How many ms the clock may go ahead at once."""
    if not page.lease:
        return 0
    far = _behind(page.far, now)
    if far <= 0:
        if not _stir[1]:
            _stir[1] = 1
            _write(_tell, _NOTHING, 1)
        return 0
    _stir[1] = 0
    _ioctl(_CONSOLE, _FIONREAD, _unread)
    if any(_unread) or page.held or _event.pending():
        return 0
    real = utime.ticks_ms()
    if _stir[0] or utime.ticks_diff(real, _asked[1]) > _LASTS:
        if _stir[0]:
            _hurry()
        _asked[0] += 1
        _asked[1] = real
        page.asked = _asked[0]
        _write(_tell, _NOTHING, 1)
    if page.rest != _asked[0]:
        return 0
    return far if left is None else max(0, min(left, far))


def _hurry():
    # What peers hold back until they have an acknowledgement is to come at once.
    _stir[0] = 0
    for fd in range(len(_sockets)):
        if _sockets[fd]:
            _sockets[fd] = 0
            _setsockopt(fd, _TCP, _QUICKACK, _on, 4)


def _behind(far, now):
    return ((far - now + 0x20000000) & 0x3FFFFFFF) - 0x20000000
