"""An LED on a pin."""

from machine import Pin

from runtime.driver import Driver


class Led(Driver):
    """An LED on pin number `pin`, lit at level `on` (0 or 1)."""

    period = 100

    def __init__(self, pin, on=1):
        self._number = pin
        self._on = on
        self.on = False
        self._pin = None
        self._left = 0

    def start(self):
        self._pin = Pin(self._number, Pin.OUT, value=1 - self._on)

    def set(self, on):
        """Light it, or put it out, from now on."""
        self.on = on
        self._left = 1

    def blink(self):
        """Change it for one period."""
        self._left = 2

    def poll(self):
        if self._left:
            self._left -= 1
            self._pin.value(self._on if bool(self.on) != bool(self._left) else 1 - self._on)

    def stop(self):
        self._pin.value(1 - self._on)
