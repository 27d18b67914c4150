"""No slot boots, or the app keeps crashing, or the server said so: stay reachable.

Signed updates are still taken; the app, if one is whole, is tried again after 5, 10 ... 60 minutes.
"""

import machine
import time
from micropython import const

from bootloader import board, install, record, rtc, wifi
from bootloader.poll import Poll
from bootloader.refused import Refused

_ROUND = const(5)  # minutes, growing
_MOST = const(60)
_PAUSE = const(15)  # seconds between two polls, growing


def run(r, m, life):
    """Poll and install until something can run; then reset. `m` is the Manifest that could run."""
    print("recovery")
    rounds = min(life[rtc.ROUNDS] + 1, _MOST // _ROUND)
    life[rtc.ROUNDS] = rounds
    rtc.save(life)
    b = board.load()
    end = time.ticks_add(time.ticks_ms(), rounds * _ROUND * 60000)
    pause = _PAUSE
    target = 1 - r.active if m else _broken(r)
    while not m or time.ticks_diff(end, time.ticks_ms()) > 0:
        try:
            if wifi.connect():
                _round(b, r, m, target)
                pause = _PAUSE
        except (OSError, ValueError, MemoryError, Refused) as e:
            print("recovery:", repr(e))
        time.sleep(pause)
        pause = min(pause * 2, 300)
    machine.reset()


def _broken(r):
    """The slot to overwrite: the one that is not confirmed, else the one that is not active."""
    return r.active if r.good[r.active] == record.ZERO else 1 - r.active


def _round(b, r, m, target):
    digest = r.good[r.active] if m else None
    poll = Poll(b, r, "recovery", m.seq if m else 0, digest)
    try:
        done = install.once(poll, b, r, target, 1 - target, install.fetch)
    finally:
        poll.close()
    if done:
        machine.reset()
