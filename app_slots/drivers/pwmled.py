"""A dimmable LED on a pin."""

from machine import PWM, Pin

from runtime.driver import Driver


class PwmLed(Driver):
    """An LED on pin number `pin`, lit at level `on` (0 or 1), dimmed at `freq` Hz.

    All PWM pins of an ESP8266 share one frequency of at most 1000 Hz; GPIO16 has none.
    """

    period = 40

    def __init__(self, pin, on=1, freq=1000):
        self._number = pin
        self._on = on
        self._freq = freq
        self._pwm = None
        self._level = self._to = 0
        self._steps = 1

    def start(self):
        # Not duty_u16: firmware 1.22 has none on the ESP8266. Given here, lest it flashes.
        dark = 0 if self._on else 1023
        self._pwm = PWM(Pin(self._number), freq=self._freq, duty=dark)  # pyright: ignore[reportCallIssue]
        self._steps = self._steps or 1

    def fade(self, level, ms=0):
        """Go to brightness `level`, 0 (dark) to 255, within `ms` milliseconds."""
        self._to = min(max(level, 0), 255)
        self._steps = ms // self.period or 1

    def poll(self):
        steps = self._steps
        if steps:
            self._steps = steps - 1
            self._level += (self._to - self._level) / steps
            # The eye sees steps of the root of the light's power; 255 comes out as 1023.
            duty = int(self._level * (self._level + 2) * 1023 / 65535 + 0.5)
            self._pwm.duty(duty if self._on else 1023 - duty)

    def stop(self):
        self._pwm.deinit()
        Pin(self._number, Pin.OUT, value=1 - self._on)
