"""Pressure and temperature by BMP180 and BMP085.

Source: Bosch Sensortec, "BMP180" data sheet BST-BMP180-DS000-09, rev. 2.5: sections 3.3 (order and
times), 3.5 (formulas; `>>` and `//` round down, as its example does), 4 (registers).
"""

import struct
from micropython import const

from runtime.driver import Driver

_ADDRESS = const(0x77)
_CONTROL = const(0xF4)  # MSB, LSB and XLSB of a result follow at 0xF6
_TEMPERATURE = const(0x2E)
_PRESSURE = const(0xF4)  # oversampling 8 times (oss 3): 25.5 ms, noise 3 Pa
_OSS = const(3)
_CONVERTING = const(0x20)


def temperature(c, ut):
    """Return B5 of the data sheet for the raw `ut`; (B5 + 8) >> 4 is in 0.1 °C."""
    x1 = (ut - c[5]) * c[4] >> 15
    return x1 + (c[9] << 11) // (x1 + c[10])


def pressure(c, b5, up, oss):
    """Return Pa for the raw `up`. Some of its numbers exceed 31 bits: about 200 bytes of heap."""
    b6 = b5 - 4000
    square = b6 * b6 >> 12
    b3 = (((c[0] * 4 + (c[7] * square >> 11) + (c[1] * b6 >> 11)) << oss) + 2) // 4
    x3 = ((c[2] * b6 >> 13) + (c[6] * square >> 16) + 2) >> 2
    p = (up - b3) * (50000 >> oss) * 2 // (c[3] * (x3 + 32768) >> 15)
    return p + (((p >> 8) * (p >> 8) * 3038 >> 16) + (-7357 * p >> 16) + 3791 >> 4)


class Bmp180(Driver):
    """A BMP180 on the bus `i2c`.

    `temperature` (-40 to 85 °C) and `pressure` (300 to 1100 hPa) are new every second poll; None
    when the last measurement failed.
    """

    period = 500
    temperature = pressure = None

    def __init__(self, i2c):
        self._i2c = i2c
        self._c = None  # AC1 AC2 AC3 AC4 AC5 AC6 B1 B2 MB MC MD
        self._raw = bytearray(5)
        self._asked = 0
        self._b5 = 0

    def start(self):
        if self._i2c.readfrom_mem(_ADDRESS, 0xD0, 1) != b"\x55":
            raise OSError("no BMP180")
        c = struct.unpack(">hhhHHHhhhhh", self._i2c.readfrom_mem(_ADDRESS, 0xAA, 22))
        if 0 in c or -1 in c or 65535 in c:
            raise OSError("bad calibration")
        self._c = c
        self._asked = 0

    def poll(self):
        # Of a measurement that failed nothing is used: the next poll begins anew.
        asked, self._asked = self._asked, 0
        ask = _TEMPERATURE
        if asked:
            try:
                self._read(asked)
            except Exception:
                self.temperature = self.pressure = None
                raise
            if asked == _TEMPERATURE:
                ask = _PRESSURE
        self._i2c.writeto(_ADDRESS, bytes((_CONTROL, ask)))
        self._asked = ask

    def _read(self, asked):
        raw = self._raw
        self._i2c.readfrom_mem_into(_ADDRESS, _CONTROL, raw)
        if raw[0] & _CONVERTING or not raw[0]:
            raise OSError("no measurement")  # 0 there: it lost its power
        if asked == _TEMPERATURE:
            self._b5 = temperature(self._c, raw[2] << 8 | raw[3])
            return
        up = (raw[2] << 16 | raw[3] << 8 | raw[4]) >> 8 - _OSS
        p = pressure(self._c, self._b5, up, _OSS)
        t = self._b5 + 8 >> 4
        if not (-400 <= t <= 850 and 30000 <= p <= 110000):
            raise OSError("out of range: %d Pa, %d dC" % (p, t))
        self.temperature = t / 10
        self.pressure = p / 100

    def stop(self):
        self.temperature = self.pressure = None
