"""The status LED: what the boot stage is doing, told by blinking."""

import machine
import sys
from micropython import const

from bootloader import pins

_STEP = const(125)  # ms for each of a pattern's 16 bits, the lowest first
CONNECTING = const(0x0F0F)  # twice in two seconds
PORTAL = const(0x00FF)  # slowly: a second on, a second off
INSTALLING = const(0x5555)  # fast
RECOVERY = const(0x0015)  # three short flashes, a pause


def light(on):
    """Switch it on or off, where there is one."""
    if pins.led:
        pin, lit = pins.led
        machine.Pin(pin, machine.Pin.OUT).value(lit if on else 1 - lit)


def show(pattern):
    """Blink until the next reset."""
    if not pins.led:
        return
    step = 0

    def blink(_):
        nonlocal step
        light(pattern >> step & 1)
        step = (step + 1) & 15

    number = -1 if sys.platform == "esp8266" else 1
    machine.Timer(number).init(period=_STEP, mode=machine.Timer.PERIODIC, callback=blink)
