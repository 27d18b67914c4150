"""No slot boots, or the app keeps crashing, or the server said so: stay reachable.

Signed updates are still taken; the app, if one is whole, is tried again after 5, 10 ... 60 minutes.
"""

import machine
import os
import time
from micropython import const

import ota
from bootloader import board, install, record, rtc
from bootloader.manifest import Rejected

_ROUND = const(5)  # minutes, growing
_MOST = const(60)
_LIMIT = const(4 * 3600)  # ticks of resident.py: an hour over the longest round
_PAUSE = const(15)  # seconds between two polls, growing


def run():
    """Poll and install until something can run; then reset."""
    print("recovery")
    r = record.load()
    life = rtc.load()
    if life[rtc.ROUNDS] == 255:
        ota.stage("unlock").run()
    ota.crashes = life[rtc.CRASHES]  # pyright: ignore # poll.py tells them
    life[rtc.CRASHES] = 0
    rounds = min(life[rtc.ROUNDS] + 1, _MOST // _ROUND)
    life[rtc.ROUNDS] = rounds
    shut = life[rtc.FAILS] == 255
    if shut:
        life[rtc.FAILS] = 0
    rtc.save(life)
    led = ota.stage("led")
    led.show(led.RECOVERY)
    end = time.ticks_add(time.ticks_ms(), rounds * _ROUND * 60000)
    pause = _PAUSE
    # A peer that trickles cannot hold the board.
    ota.alarms = [(_LIMIT, rtc.ROUNDS, rounds, True)]
    slot = ota.stage("install_slot").choose(r)
    over = False
    while not over or not (ota.slot or shut):
        over = time.ticks_diff(end, time.ticks_ms()) < 0
        try:
            b = board.load()
            if ota.stage("wifi").connect():
                if install.update(b, r, "recovery", slot, 1 - slot):
                    break
                pause = _PAUSE
            elif "portal" in b and (over or not ota.portal_rounds):
                # The portal, and then here again.
                ota.mark(rtc.WANT, rtc.PORTAL | (rtc.RECOVER if ota.slot else 0))
                break
        except (OSError, ValueError, MemoryError, Rejected) as e:
            print("recovery:", repr(e))
            if ota.poll_extra and isinstance(e, MemoryError):
                # WebREPL has taken the room: a round without it.
                ota.mark(rtc.FAILS, 255)
                ota.mark(rtc.WANT, rtc.RECOVER)
                break
        print("recovery: again in", pause, "s")
        # Jitter as poll_app.around() has it, which brings more than fits beside an open WebREPL.
        time.sleep(pause - pause // 4 + pause * os.urandom(1)[0] // 510)
        pause = min(pause * 2, 300)
    machine.reset()
