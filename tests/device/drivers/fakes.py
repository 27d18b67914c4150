"""Devices for the buses of a virtual board, and a loop that runs one driver."""

import _bus

from runtime.driver import Runner


class Registers:
    """An I2C device that is a table of 256 bytes with a pointer that moves on."""

    def __init__(self, content):
        self.table = bytearray(256)
        for address, data in content.items():
            self.table[address : address + len(data)] = data
        self.at = 0

    def write(self, data):
        self.at = data[0]
        for i in range(1, len(data), 2):  # pairs of register and value, as Bosch's sensors have it
            self.set(data[i - 1], data[i])

    def set(self, register, value):
        self.table[register] = value

    def read(self, count):
        self.at += count
        return bytes(self.table[self.at - count : self.at])


class Bme280(Registers):
    """Has a measurement in its registers as soon as it was asked for one; `raw` is P, T, H."""

    def __init__(self, chip=0x60, calibration=(bytes(26), bytes(7))):
        super().__init__({0xD0: bytes((chip,)), 0x88: calibration[0], 0xE1: calibration[1]})
        self.raw = (415148, 519888, 30000)
        self.off()

    def off(self):
        self.table[0xF2:0xFF] = b"\0\0\0\0\0\x80\0\0\x80\0\0\x80\0"

    def set(self, register, value):
        super().set(register, value)
        if register == 0xF4 and value & 3:
            p, t, h = self.raw
            self.table[0xF4] = value & 0xFC
            self.table[0xF7:0xFD] = (p << 4).to_bytes(3, "big") + (t << 4).to_bytes(3, "big")
            self.table[0xFD:0xFF] = h.to_bytes(2, "big") if self.table[0xF2] & 7 else b"\x80\0"


class Bmp180(Registers):
    """Converts at once; `ut` 16 bits, `up` 16 to 19 bits by the oversampling it is asked for."""

    def __init__(self, chip=0x55, calibration=bytes(22)):
        super().__init__({0xD0: bytes((chip,)), 0xAA: calibration})
        self.ut, self.up = 27898, 23843
        self.off()

    def off(self):
        self.table[0xF4:0xF9] = b"\0\0\x80\0\0"

    def set(self, register, value):
        super().set(register, value & ~0x20)
        if register == 0xF4:
            oss = value >> 6
            raw = self.ut << 8 if value & 0x1F == 0x0E else self.up << 8 - oss
            self.table[0xF6:0xF9] = raw.to_bytes(3, "big")


class Oled:
    """The SSD1306's memory, written in its horizontal mode; `on` and the commands it got."""

    def __init__(self):
        self.pixels = bytearray(b"\xa5" * 1024)
        self.commands = b""
        self.on = False

    def write(self, data):
        if data[0] == 0x40:
            assert len(data) - 1 <= len(self.pixels)
            self.pixels[: len(data) - 1] = data[1:]
        else:
            self.commands += data[1:]
            self.on = data[-1] == 0xAF or (self.on and data[-1] != 0xAE)


class Thermometers:
    """A 1-Wire bus with DS18B20s: `roms`, and by ROM the scratchpad and the next conversion."""

    EEPROM = b"\x4b\x46\x7f"

    def __init__(self, roms):
        self.roms = list(roms)
        self.next = {rom: 0x0191 for rom in roms}
        self.pads = {}
        self.spoilt = None
        self.converting = 0  # so many looks at the bus find a conversion under way
        for rom in roms:
            self.off(rom)
        self.reset()

    def off(self, rom):
        self.pads[rom] = bytearray(b"\x50\x05" + self.EEPROM + b"\xff\x0c\x10")

    def reset(self):
        self._heard = b""
        self._out = b""

    def write(self, byte):
        self._heard += bytes((byte,))
        heard = self._heard
        if heard == b"\xcc\x44":
            for rom in self.roms:
                self.pads[rom][:2] = self.next[rom].to_bytes(2, "little")
        elif heard[:1] == b"\x55" and heard[1:9] in self.roms:
            rom = heard[1:9]
            if heard[9:] == b"\xbe":
                pad = bytes(self.pads[rom])
                self._out = pad + bytes((crc8(pad) ^ (rom == self.spoilt),))
            elif heard[9:10] == b"\x4e" and len(heard) == 13:
                self.pads[rom][2:5] = heard[10:]

    def bit(self):
        self.converting = max(self.converting - 1, -1)
        return int(self.converting < 0)

    def read(self):
        if not self._out:
            return 0xFF
        byte, self._out = self._out[0], self._out[1:]
        return byte


def crc8(data):
    """Bit by bit by the polynomial x^8 + x^5 + x^4 + 1, from the other end than onewire's."""
    crc = 0
    for byte in data:
        for k in range(8):
            bit = (byte >> k & 1) ^ (crc >> 7)
            crc = crc << 1 & 0xFF ^ (0x31 if bit else 0)
    return sum((crc >> k & 1) << 7 - k for k in range(8))


class Digits:
    """A TM1637 on two pins: decodes what they do into messages, and acknowledges each byte."""

    def __init__(self, clk, dio):
        self.messages = []
        self.plugged = True
        self._dio_pin = dio
        self._clk = self._dio = 1
        self._bits = None
        self._message = b""
        _bus.watch[clk] = self._clock
        _bus.watch[dio] = self._data

    def _data(self, level):
        if self._clk and level != self._dio:
            if level == 0:
                self._bits = []
                self._message = b""
            elif self._bits is not None:
                assert len(self._bits) <= 1, "stopped inside a byte"
                self._bits = None
                self.messages.append(self._message)
        self._dio = level

    def _clock(self, level):
        bits = self._bits
        if level and not self._clk and bits is not None:
            bits.append(self._dio)
        elif self._clk and not level and bits is not None:
            if len(bits) == 8 and self.plugged:
                _bus.drive(self._dio_pin, 0)
            elif len(bits) == 9:
                self._message += bytes((sum(bits[k] << k for k in range(8)),))
                bits.clear()
                _bus.drive(self._dio_pin, None)
        self._clk = level


class Turns:
    """Runs a driver as the loop does; each `turn` returns "" or what was raised."""

    def __init__(self, driver):
        self._run = Runner(driver)

    def turn(self, count=1):
        said = []
        for _ in range(count):
            try:
                self._run()
                said.append("")
            except Exception as e:
                said.append(str(e) or type(e).__name__)
        return said[0] if count == 1 else said

    def stop(self):
        self._run.stop()


def near(a, b, by):
    assert a is not None and abs(a - b) <= by, (a, b)
