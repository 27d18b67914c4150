"""A motion sensor with a digital output, as HC-SR501 or AM312."""

from machine import Pin

from runtime.driver import Driver


class Pir(Driver):
    """`motion` is True while the pin is high; `changed(motion)` is called when that changes.

    `motion` is None for the first `warm_up` seconds, in which the sensor settles and sees what is
    not there (HC-SR501: up to a minute). Outputs stay high for two seconds and more, so none is
    missed between two polls.
    """

    period = 200

    def __init__(self, pin, changed=None, warm_up=60):
        self._number = pin
        self._changed = changed
        self._warm_up = warm_up
        self._pin = None
        self._left = 0
        self.motion = None

    def start(self):
        self._pin = Pin(self._number, Pin.IN)
        self._left = self._warm_up * 1000 // self.period
        self.motion = None

    def poll(self):
        if self._left:
            self._left -= 1
            return
        motion = bool(self._pin.value())
        if motion != self.motion:
            self.motion = motion
            if self._changed:
                self._changed(motion)

    def stop(self):
        self.motion = None
