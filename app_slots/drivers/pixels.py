"""NeoPixels (WS2812, SK6812), over the firmware's `neopixel`."""

from machine import Pin
from neopixel import NeoPixel

from runtime.driver import Driver


class Pixels(Driver):
    """`n` LEDs on pin number `pin`, of `bpp` colours: 3, or 4 with white.

    `strip[0] = (red, green, blue)` and `strip.fill(...)` with 0 to 255 each, then `show()`. Nothing
    comes back from an LED: one that is not there is not noticed. A LED takes 30 us of the loop.
    """

    period = 50

    def __init__(self, pin, n, bpp=3):
        self.strip = NeoPixel(Pin(pin), n, bpp)
        self._fresh = True

    def show(self):
        """Have the next poll send the colours."""
        self._fresh = True

    def start(self):
        self._fresh = True

    def poll(self):
        if self._fresh:
            self._fresh = False
            self.strip.write()

    def stop(self):
        self.strip.fill((0,) * self.strip.bpp)
        self.strip.write()
