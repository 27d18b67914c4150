"""Whether the portal comes before the app: asked for, the button, or two resets."""

import machine
import sys
import time
from micropython import const

from bootloader import board, pins, rtc

_HALF_HOUR = const(96)  # rtc.READY: three times ten minutes of WebREPL
_PRESS = const(3)  # s after the LED lights


def run(life, end, want, ready):
    """Decide. If so, what the next life is to find is stored; `end` is how the last one ended."""
    if not (want & rtc.PORTAL or life[rtc.PRESSES] > 1 or _cold() and _pressed()):
        return False
    try:
        if "portal" not in board.load():
            print("portal: the board file names no password for it; use the cable or WebREPL")
            return False
    except OSError as e:
        print("portal:", e)
        return False
    life[rtc.END] = end
    life[rtc.WANT] = want & ~rtc.PORTAL
    life[rtc.READY] |= ready | rtc.OFFLINE
    if not want & rtc.PORTAL:
        # By hand: whoever can press a button may debug, for half an hour.
        life[rtc.READY] |= _HALF_HOUR
    life[rtc.PRESSES] = 0
    life[rtc.PORTALS] = min(life[rtc.PORTALS] + 1, 200)
    rtc.save(life)
    return True


def _cold():
    return machine.reset_cause() in ((0, 6) if sys.platform == "esp8266" else (1,))


def _pressed():
    if not pins.button:
        return False
    from bootloader.led import led

    lamp = led()
    if lamp:
        lamp.on()
    button = machine.Pin(int(pins.button[1]), machine.Pin.IN, machine.Pin.PULL_UP)
    pressed = False
    for _ in range(_PRESS * 20):
        pressed = pressed or not button.value()
        time.sleep_ms(50)
    if lamp:
        lamp.off()
    return pressed
