"""The status LED: what the boot stage is doing, told by blinking."""

import machine
import sys
from micropython import const

import ota

_STEP = const(125)  # ms for each of a pattern's 16 bits, the lowest first
CONNECTING = const(0x0F0F)  # every second
INSTALLING = const(0x5555)  # fast
RECOVERY = const(0x0015)  # three short flashes, a pause


def led():
    """Return the LED of /state/pins as a machine.Signal, or None."""
    try:
        f = open("/state/pins")
    except OSError:
        return None
    try:
        for line in f:
            words = line.split()
            if words[0] == "led":
                pin = machine.Pin(int(words[1]), machine.Pin.OUT)
                return machine.Signal(pin, invert=words[2] == "0")
    finally:
        f.close()


def show(pattern):
    """Blink until the next reset; once in a life."""
    lamp = led()
    if not lamp:
        return
    step = 0

    def blink(_):
        nonlocal step
        lamp.value(pattern >> step & 1)
        step = (step + 1) & 15

    # resident.py's tick has the other timer; the RISC-V chips have no more than two.
    number = -1
    if sys.platform != "esp8266":
        kind = sys.implementation._machine.split("ESP32")[-1]
        number = 1 if kind[:1] in ("C", "H") else 2
    # Kept by who stays: an ESP8266 lets the collector take a timer that nobody holds.
    ota.led_timer = timer = machine.Timer(number)  # pyright: ignore
    timer.init(period=_STEP, mode=machine.Timer.PERIODIC, callback=blink)
