"""A relay, valve or contactor on a pin."""

from machine import Pin

from runtime.driver import Driver


class Relay(Driver):
    """A relay on pin number `pin`, on at level `on` (0 or 1).

    Off is the safe state: it is off from the start, and whenever the driver stops. What it drives
    stays on for `min_on` and off for `min_off` seconds at least, as a compressor needs it; after a
    start it stays off for `min_off`, since nobody knows when it was last on.
    """

    def __init__(self, pin, on=1, min_on=0, min_off=0):
        self._number = pin
        self._level = on
        self._least = (min_off, min_on)
        self._pin = None
        self._wait = 0  # polls before it may switch
        self._wanted = False
        self.on = False

    def start(self):
        self._pin = Pin(self._number, Pin.OUT, value=1 - self._level)
        self.on = False
        self._rest()

    def _rest(self):
        least = self._least[self.on]
        self._wait = least + 1 if least else 0  # the first poll may follow at once

    def set(self, on):
        """Switch on or off: now, or as soon as the minimum time is over."""
        self._wanted = bool(on)
        if self._pin:
            self._switch()

    def _switch(self):
        if self._wanted != self.on and not self._wait:
            self.on = self._wanted
            self._pin.value(self._level if self.on else 1 - self._level)
            self._rest()

    def poll(self):
        if self._wait:
            self._wait -= 1
        self._switch()

    def stop(self):
        self._pin.value(1 - self._level)
        self._pin = None
        self.on = False
