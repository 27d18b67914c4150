# Real time times SPEED; epoch 2000; the clock stands at 2000-01-01 after a power-on.
import utime
from utime import *  # noqa: F403

from _event import idle
from _page import SPEED, check, page

_EPOCH = 946684800
_MASK = utime.ticks_add(0, -1)
_SLICE = 20  # real milliseconds after which a sleeper looks for Ctrl-C
_start = utime.ticks_ms()

if SPEED > 1:
    _ms = utime.ticks_ms
    _us = utime.ticks_us

    # Counted from the start, so that the products stay small integers for long.
    def ticks_ms():
        return (((_ms() - _start) & _MASK) * SPEED) & _MASK

    def ticks_us():
        return (_us() * SPEED) & _MASK

    def sleep_us(us):
        utime.sleep_us(us // SPEED)


def sleep_ms(ms):
    check()
    if ms < SPEED:
        utime.sleep_us(max(0, ms) * 1000 // SPEED)
        return
    start, ms = utime.ticks_ms(), ms // SPEED
    while True:
        left = ms - utime.ticks_diff(utime.ticks_ms(), start)
        if left <= 0:
            return
        utime.sleep_ms(min(left, _SLICE))
        idle()
        check()


def sleep(seconds):
    # Not utime.sleep: that runs no scheduled callback before it ends.
    sleep_ms(int(seconds * 1000))


def uptime_s():
    return ((utime.ticks_ms() - _start) & _MASK) * SPEED // 1000


def time():
    return page.clock + uptime_s()


def time_ns():
    return time() * 1000000000


def gmtime(seconds=None):
    return utime.gmtime((time() if seconds is None else seconds) + _EPOCH)[:8]


localtime = gmtime


def mktime(fields):
    return utime.mktime(tuple(fields[:8]) + (0,)) - _EPOCH


del clock
