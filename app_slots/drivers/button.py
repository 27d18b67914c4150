"""A button or switch between a pin and ground, or the supply voltage."""

from machine import Pin
from micropython import const
from time import ticks_diff, ticks_ms

from runtime.driver import Driver

_STABLE = const(30)  # ms; contacts bounce for less, and disturbances on the wire are shorter
_HOLD = const(1000)  # ms


class Button(Driver):
    """Calls `press()` when the button was pressed and let go, `hold()` when it is down for 1 s.

    Both are called from the loop. A press that was held is no `press`; without `hold` each is one,
    however long. `on` is the pin's level when pressed; with 0 the chip's pull-up is on. What lasts
    less than 30 ms is ignored, when it is down as when it is up. A press while the loop is busy is
    noticed by interrupt; GPIO16 of the ESP8266, which has none, is polled alone, and needs `on=1`
    as it has no pull-up. `pressed` tells whether it is down now.
    """

    period = 20

    def __init__(self, pin, press, hold=None, on=0):
        self._number = pin
        self._press = press
        self._hold = hold
        self._on = on
        self._pin = None
        self._quick = False  # has an interrupt
        self._busy = False
        self._raw = False  # by the pin, since `_at`
        self._at = 0
        self.pressed = False  # when it has settled, since `_since`
        self._since = 0
        self._held = False
        # One is counted by _edge alone, the other by poll alone: neither undoes the other's work.
        self._presses = self._told = 0

    def start(self):
        self._raw = self.pressed = False
        self._quick = True
        self._pin = pin = Pin(self._number, Pin.IN, None if self._on else Pin.PULL_UP)
        try:
            pin.irq(self._edge, Pin.IRQ_RISING | Pin.IRQ_FALLING)
        except OSError:
            self._quick = False

    def _edge(self, pin):
        # The interrupt's handler too: it allocates nothing, and stands back while poll is in here.
        if self._busy:
            return
        self._busy = True
        now = ticks_ms()
        pressed = self._raw
        if pressed != self.pressed and ticks_diff(now, self._at) >= _STABLE:
            self.pressed = pressed
            if pressed:
                self._since = self._at
                self._held = False
            elif not self._held:
                self._presses += 1
        if (pin.value() == self._on) != pressed:
            self._raw = not pressed
            self._at = now
        self._busy = False

    def poll(self):
        self._edge(self._pin)
        if (
            self._hold
            and self.pressed
            and self._raw
            and not self._held
            and ticks_diff(ticks_ms(), self._since) >= _HOLD
        ):
            self._held = True
            self._hold()
        while self._told != self._presses:
            self._told += 1
            self._press()

    def stop(self):
        if self._quick:
            self._pin.irq(None)
