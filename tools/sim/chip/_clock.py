# The board's time; the rules by which it passes stand in tools/sim/clock.py. A clock of its own
# counts what the device code computes (CPU time of this thread, times SPEED) and what `put` adds
# for what it waits for. The wall's counts SPEED times as fast as real time.
import struct
import uctypes
import utime
from array import array

from _page import OWN, SPEED, libc, page

MASK = utime.ticks_add(0, -1)
_ALARM = 14
_WORD = struct.calcsize("l")
_LONG = uctypes.INT32 if _WORD == 4 else uctypes.INT64
_me = libc.func("i", "getpid", "")()
_cpu = (~_me << 3) | 6  # the clock of the thread with this number (pthread_getcpuclockid)
_read = libc.func("i", "clock_gettime", "ip")
_kill = libc.func("i", "kill", "ii")
_second = 1000 * SPEED
_add = array("l", [0, 0])  # ms, us
_dog = array("l", [0, 0])  # ms that the watchdog waits, 0: there is none; when it bites
_start = utime.ticks_ms()


def _reading():
    # Each thread has a place of its own for what the kernel says, and nothing here allocates.
    raw = bytearray(2 * _WORD)
    at = uctypes.addressof(raw)
    kept.append(raw)
    return raw, uctypes.struct(at, {"s": _LONG, "ns": _WORD | _LONG}, uctypes.NATIVE)


kept = []
_raw, _main = _reading()
_other_raw, _other = _reading()


def _own():
    _read(_cpu, _raw)
    us = _main.ns // 1000 * SPEED + _add[1]
    return (_main.s * _second + us // 1000 + _add[0]) & MASK


def seen():
    """The time, for the other thread."""
    _read(_cpu, _other_raw)
    us = _other.ns // 1000 * SPEED + _add[1]
    return (_other.s * _second + us // 1000 + _add[0]) & MASK


def put(now):
    """Let it be `now`, whatever has been computed since."""
    _read(_cpu, _raw)
    us = _main.ns // 1000 * SPEED
    _add[0] = utime.ticks_diff(now, (_main.s * _second + us // 1000 + 1) & MASK)
    _add[1] = 1000 - us % 1000
    page.now = now & 0x3FFFFFFF


def _own_us():
    _read(_cpu, _raw)
    ms = _main.s * _second + _add[0]
    return (ms * 1000 + _main.ns // 1000 * SPEED + _add[1]) & MASK


# Counted from the start, so that the products stay small integers for long.
def _wall():
    return (((utime.ticks_ms() - _start) & MASK) * SPEED) & MASK


def _wall_us():
    return (utime.ticks_us() * SPEED) & MASK


if OWN:
    ticks_ms, ticks_us = _own, _own_us
elif SPEED > 1:
    ticks_ms, ticks_us = _wall, _wall_us
else:
    ticks_ms, ticks_us = utime.ticks_ms, utime.ticks_us


# --- the watchdog


def watch(ms):
    """Let the watchdog bite in so many ms."""
    _dog[1] = utime.ticks_add(ticks_ms(), ms)
    _dog[0] = ms


def left(now):
    """ms until it bites; None: there is no watchdog."""
    return utime.ticks_diff(_dog[1], now) if _dog[0] else None


def bite():
    # The reset: nobody handles the signal.
    _kill(_me, _ALARM)


_up = [0, 0, ticks_ms()]  # s, ms, when that was


def begin():
    """The board starts: what the simulator has done so far took no time."""
    if OWN:
        put(0)
    _up[2] = ticks_ms()


def uptime_s():
    now = ticks_ms()
    ms = _up[1] + utime.ticks_diff(now, _up[2])
    _up[:] = (_up[0] + ms // 1000, ms % 1000, now)
    return _up[0]
