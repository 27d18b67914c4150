# The board's time; epoch 2000; the clock stands at 2000-01-01 after a power-on.
import utime
from utime import *  # noqa: F403

from _clock import ticks_ms, ticks_us, uptime_s
from _page import OWN, SPEED, page
from _wait import spend, wait

_EPOCH = 946684800

if OWN or SPEED > 1:

    def sleep_us(us):
        spend(us)


def sleep_ms(ms):
    wait(None, utime.ticks_add(ticks_ms(), max(ms, 0)))


def sleep(seconds):
    # Not utime.sleep: that runs no scheduled callback before it ends.
    sleep_ms(int(seconds * 1000))


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
