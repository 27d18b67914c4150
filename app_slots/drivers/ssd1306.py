"""A monochrome OLED of 128x64 or 128x32 with an SSD1306.

Source: Solomon Systech, "SSD1306" data sheet, rev. 1.1: section 8.1.5 (I2C: a byte 0x00 leads in
commands, 0x40 data), 9 and 10 (commands), and its application note, section 3 (charge pump).
Used on every image alike; the firmware's `ssd1306`, which some ESP8266 have, is there only
together with a display that answers.
"""

import framebuf

from runtime.driver import Driver

_SETUP = (
    b"\x00\xae"  # commands; off
    b"\xd5\x80\xd3\x00\x40"  # clock, no offset, first line 0
    b"\x8d\x14"  # charge pump on
    b"\x20\x00\xa1\xc8"  # row by row, the connector above
    b"\x81\xcf\xd9\xf1"  # contrast, precharge
    b"\xa4\xa6"  # show the memory, lit pixels are 1
)


class Ssd1306(Driver):
    """A display on the bus `i2c`. Draw into `frame`, a framebuf.FrameBuffer, then call `show`.

    It keeps the loop for 25 to 50 ms when the frame has changed (128x64).
    """

    period = 200

    def __init__(self, i2c, height=64, address=0x3C):
        self._i2c = i2c
        self._address = address
        self._height = height
        self._buffer = bytearray(height * 16)
        self._set = self._fresh = False
        self.frame = framebuf.FrameBuffer(self._buffer, 128, height, framebuf.MONO_VLSB)

    def start(self):
        self._set = False

    def show(self):
        """Have the next poll send the frame."""
        self._fresh = True

    def poll(self):
        done, self._set = self._set, False
        if not done:  # at the start, or it did not answer last time and may have lost its power
            height = self._height
            pins = 0x12 if height == 64 else 0x02
            self._i2c.writeto(self._address, _SETUP + bytes((0xA8, height - 1, 0xDA, pins)))
        if self._fresh or not done:
            window = b"\x00\x21\x00\x7f\x22\x00" + bytes((self._height // 8 - 1,))
            self._i2c.writeto(self._address, window)
            self._i2c.writevto(self._address, (b"\x40", self._buffer))
            self._fresh = False
        self._i2c.writeto(self._address, b"\x00\xaf")  # on; also asks whether it is there
        self._set = True

    def stop(self):
        self._i2c.writeto(self._address, b"\x00\xae")
