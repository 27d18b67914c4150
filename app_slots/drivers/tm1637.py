"""Four 7-segment digits with a TM1637.

Source: Titan Micro Electronics, "TM1637" data sheet V2.4: "Interface interpretation" (bits go low
one first; the chip pulls DIO low in the ninth clock), "Data command" 0x40, "Address command" 0xC0,
"Display control" 0x88 with the brightness, 0x80 dark.
"""

from machine import Pin
from micropython import const
from time import sleep_us

from runtime.driver import Driver

_CHARS = "0123456789-_*AbCcdEFGHhIiJLnOoPqrStUuy"
_SEGMENTS = (
    b"\x3f\x06\x5b\x4f\x66\x6d\x7d\x07\x7f\x6f\x40\x08\x63"
    b"\x77\x7c\x39\x58\x5e\x79\x71\x3d\x76\x74\x30\x10\x1e"
    b"\x38\x54\x3f\x5c\x73\x67\x50\x6d\x78\x3e\x1c\x6e"
)
_HALF = const(50)  # us of a clock; modules have capacitors on both lines


class Tm1637(Driver):
    """Digits on pin numbers `clk` and `dio`, in one of eight brightnesses, 0 to 7.

    They are sent twice a second, 7 ms each time: a module that was unplugged shows them again.
    """

    period = 500

    def __init__(self, clk, dio, brightness=7):
        self._numbers = (clk, dio)
        self._clk = self._dio = None
        self._data = bytearray(4)
        self.brightness = brightness

    def start(self):
        clk, dio = self._numbers
        self._clk = Pin(clk, Pin.OUT, value=1)
        self._dio = Pin(dio, Pin.OPEN_DRAIN, value=1)

    def show(self, text):
        """Show up to four characters and colons from the next poll on: "12:34", "-5.5" as "-5 5".

        Digits, "-", "_", "*" (a degree sign) and all letters but k m v w x z are known, in the one
        case that seven segments have where they have not both; the rest is dark.
        """
        data = self._data
        n = 0
        for c in text:
            if c == ":":
                if n:
                    data[n - 1] |= 0x80
            elif n < 4:
                data[n] = 0
                for case in (c.upper(), c.lower(), c):
                    i = _CHARS.find(case)
                    if i >= 0:
                        data[n] = _SEGMENTS[i]
                n += 1
        while n < 4:
            data[n] = 0
            n += 1

    def poll(self):
        self._send(b"\x40")
        self._send(b"\xc0", self._data)
        self._send(bytes((0x88 | self.brightness,)))

    def _send(self, command, data=b""):
        clk = self._clk.value
        dio = self._dio.value
        dio(1)
        clk(1)
        dio(0)
        silent = 0
        for part in (command, data):
            for byte in part:
                for _ in range(9):
                    clk(0)
                    dio(byte & 1)
                    sleep_us(_HALF)
                    clk(1)
                    sleep_us(_HALF)
                    byte = byte >> 1 | 0x80  # the ninth bit lets go of the line
                silent |= dio()
        clk(0)
        dio(0)
        clk(1)
        dio(1)
        if silent:
            raise OSError("no TM1637")

    def stop(self):
        self._send(b"\x80")
