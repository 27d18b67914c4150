"""Temperature, pressure and humidity by BME280.

Source: Bosch Sensortec, "BME280" data sheet BST-BME280-DS002-15, rev. 1.6: sections 3.5.1 (weather
monitoring: forced mode, no oversampling), 4.2.2 (calibration), 4.2.3 (temperature and humidity in
32 bits), 5.4 (registers), 8.2 (pressure in 32 bits, within 1 Pa typically).
"""

import struct
from micropython import const

from runtime.driver import Driver

_STATUS = const(0xF3)  # control, configuration, and the raw values follow
_MEASURING = const(8)
_ONCE = b"\xf2\x01\xf4\x25"  # all three values, one measurement of 9.3 ms at most


def temperature(c, adc):
    """Return t_fine of the data sheet; (t_fine * 5 + 128) >> 8 is in 0.01 °C."""
    x = (adc >> 4) - c[0]
    return (((adc >> 3) - (c[0] << 1)) * c[1] >> 11) + ((x * x >> 12) * c[2] >> 14)


def pressure(c, fine, adc):
    """Return Pa. Some of its numbers exceed 31 bits: a measurement takes 400 bytes of heap."""
    a = (fine >> 1) - 64000
    square = (a >> 2) * (a >> 2)
    b = (square >> 11) * c[8] + (a * c[7] << 1)
    b = (b >> 2) + (c[6] << 16)
    a = ((c[5] * (square >> 13) >> 3) + (c[4] * a >> 1)) >> 18
    a = (32768 + a) * c[3] >> 15
    if a <= 0:
        raise OSError("bad calibration")
    p = (1048576 - adc - (b >> 12)) * 3125 * 2 // a
    a = c[11] * ((p >> 3) * (p >> 3) >> 13) >> 12
    return p + (a + ((p >> 2) * c[10] >> 13) + c[9] >> 4)


def humidity(c, fine, adc):
    """Return 1/1024 %, within 0 and 100 %."""
    x = fine - 76800
    a = ((adc << 14) - (c[16] << 20) - c[17] * x + 16384) >> 15
    b = (x * c[18] >> 10) * ((x * c[15] >> 11) + 32768) >> 10
    x = a * ((b + 2097152) * c[14] + 8192 >> 14)
    x -= ((x >> 15) * (x >> 15) >> 7) * c[13] >> 4
    return min(max(x, 0), 419430400) >> 12


class Bme280(Driver):
    """A BME280 on the bus `i2c`, at address 0x76 or 0x77 (pin SDO low or high).

    `temperature` (-40 to 85 °C), `pressure` (300 to 1100 hPa) and `humidity` (0 to 100 %) are None
    when the last measurement failed. Values are a period old: each poll reads the measurement that
    the last one asked for, so that the sensor heats itself no more than needed.
    """

    temperature = pressure = humidity = None

    def __init__(self, i2c, address=0x76):
        self._i2c = i2c
        self._address = address
        self._c = None  # T1-T3, P1-P9, unused, H1, H2, H3, H4, H5, H6
        self._raw = bytearray(12)
        self._asked = False

    def start(self):
        read = self._i2c.readfrom_mem
        if read(self._address, 0xD0, 1) != b"\x60":
            raise OSError("no BME280")
        more = read(self._address, 0xE1, 7)
        h2, h3, a, _, b, h6 = struct.unpack("<hBbBbb", more)
        first = struct.unpack("<HhhHhhhhhhhhBB", read(self._address, 0x88, 26))
        self._c = first + (h2, h3, a << 4 | more[4] & 15, b << 4 | more[4] >> 4, h6)
        self._asked = False

    def poll(self):
        self.temperature = self.pressure = self.humidity = None
        raw = self._raw
        self._i2c.readfrom_mem_into(self._address, _STATUS, raw)
        self._i2c.writeto(self._address, _ONCE)
        asked, self._asked = self._asked, True
        if not asked:
            return
        if raw[0] & _MEASURING or raw[1] != _ONCE[3] & 0xFC:
            raise OSError("no measurement")  # 0 in control: it lost its power
        c = self._c
        fine = temperature(c, raw[7] << 12 | raw[8] << 4 | raw[9] >> 4)
        p = pressure(c, fine, raw[4] << 12 | raw[5] << 4 | raw[6] >> 4)
        t = fine * 5 + 128 >> 8
        if not (-4000 <= t <= 8500 and 30000 <= p <= 110000):
            raise OSError("out of range: %d Pa, %d cC" % (p, t))
        self.temperature = t / 100
        self.pressure = p / 100
        self.humidity = humidity(c, fine, raw[10] << 8 | raw[11]) / 1024

    def stop(self):
        self.temperature = self.pressure = self.humidity = None
