"""Temperature and humidity by DHT22 (AM2302) and DHT11, over the firmware's `dht`.

Sources: Aosong, "AM2302 Product Manual", section 7 (the 40 bits; the top bit of the temperature is
its sign); "DHT11 Product Manual" V1.3, section 5 (second byte of each value: tenths).
"""

from machine import Pin

import dht

from runtime.driver import Driver


class Dht22(Driver):
    """A DHT22 on pin number `pin`. A reading keeps the loop for 5 ms (DHT11: 25 ms).

    `temperature` (-40 to 80 °C) and `humidity` (0 to 100 %) are None when the last reading failed.
    """

    period = 2000  # the sensor measures no faster
    temperature = humidity = None
    _low = -40
    _high = 80

    def __init__(self, pin):
        self._number = pin
        self._bus = None

    def start(self):
        self._bus = dht.DHTBase(Pin(self._number))

    def _decode(self, a, b, c, d):
        t = (c & 0x7F) << 8 | d
        return (a << 8 | b) / 10, (-t if c & 0x80 else t) / 10

    def poll(self):
        self.temperature = self.humidity = None
        self._bus.measure()
        frame = self._bus.buf
        humidity, temperature = self._decode(*frame[:4])
        # A line that is held low reads as zeros, whose checksum is right.
        if not any(frame) or humidity > 100 or not self._low <= temperature <= self._high:
            raise OSError("out of range: %s C, %s %%" % (temperature, humidity))
        self.humidity = humidity
        self.temperature = temperature

    def stop(self):
        self.temperature = self.humidity = None


class Dht11(Dht22):
    """A DHT11 on pin number `pin`: -20 to 60 °C, in whole degrees and percents by older ones."""

    _low = -20
    _high = 60

    def _decode(self, a, b, c, d):
        t = c + (d & 0x7F) / 10
        return a + b / 10, -t if d & 0x80 else t
