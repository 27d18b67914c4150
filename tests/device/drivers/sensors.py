"""Sensors: the data sheets' worked numbers, and what a sensor can do wrong."""

import struct
from machine import ADC, Pin, SoftI2C

import _bus
from fakes import Bme280, Bmp180, Thermometers, Turns, crc8, near

from drivers import bme280, bmp180
from drivers.analog import Analog
from drivers.dht22 import Dht11, Dht22
from drivers.ds18b20 import Ds18b20

NOBODY = "[Errno 19] ENODEV"
bus = SoftI2C(scl=Pin(5), sda=Pin(4))


def bmp180_example():
    """Data sheet, figure 4: every number of the example that it prints."""
    c = (408, -72, -14383, 32741, 32757, 23153, 6190, 4, -32768, -8711, 2868)
    b5 = bmp180.temperature(c, 27898)
    assert b5 == 2399 and b5 + 8 >> 4 == 150, b5
    assert bmp180.pressure(c, b5, 23843, 0) == 69964
    # The other oversamplings: the same voltage in more bits.
    for oss in (1, 2, 3):
        near(bmp180.pressure(c, b5, 23843 << oss, oss), 69964, 3)

    chip = Bmp180(calibration=struct.pack(">hhhHHHhhhhh", *c))
    chip.up = 23843 << 3
    driver = bmp180.Bmp180(bus)
    loop = Turns(driver)
    assert loop.turn() == NOBODY
    _bus.i2c[0x77] = chip
    assert loop.turn(3) == ["", "", ""]
    assert driver.temperature == 15.0
    near(driver.pressure, 699.64, 0.03)
    # A power cut in mid-run: no number of its registers' reset values comes through.
    chip.off()
    assert loop.turn() == "no measurement" and driver.pressure is None
    assert loop.turn(3) == [""] * 3 and driver.temperature == 15.0
    del _bus.i2c[0x77]
    assert loop.turn(5) == [NOBODY] * 5 and driver.temperature is None
    _bus.i2c[0x77] = chip
    assert loop.turn(4)[1:] == [""] * 3 and driver.temperature == 15.0
    chip.up = 1
    assert loop.turn(3)[2].startswith("out of range") and driver.pressure is None
    del _bus.i2c[0x77]
    assert loop.turn(3) == [NOBODY] * 3
    _bus.i2c[0x77] = chip
    chip.table[0xD0] = 0x56
    assert loop.turn() == "no BMP180"
    chip.table[0xD0] = 0x55
    chip.table[0xAA:0xAC] = b"\xff\xff"
    assert loop.turn() == "bad calibration"
    del _bus.i2c[0x77]


T = (27504, 26435, -1000)
P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
H = (75, 362, 0, 313, 50, 30)


def calibration(t, p, h):
    """The registers of data sheet table 16."""
    h1, h2, h3, h4, h5, h6 = h
    first = struct.pack("<HhhHhhhhhhhhBB", *(t + p), 0, h1)
    h4 &= 0xFFF
    h5 &= 0xFFF
    mixed = bytes((h4 >> 4, h4 & 15 | (h5 & 15) << 4, h5 >> 4))
    return first, struct.pack("<hB", h2, h3) + mixed + struct.pack("b", h6)


def bme280_faults():
    """The example in the BMP280's data sheet (BST-BMP280-DS001, 3.12: same formulas); faults."""
    chip = Bme280(calibration=calibration(T, P, H))
    driver = bme280.Bme280(bus)
    loop = Turns(driver)
    assert loop.turn() == NOBODY
    _bus.i2c[0x76] = chip
    assert loop.turn(2) == ["", ""]
    assert driver.temperature == 25.08
    near(driver.pressure, 1006.53, 0.03)
    assert 0 < driver.humidity < 100
    assert bme280.temperature(driver._c, 519888) == 128422
    for h in ((255, -362, 255, -2048, -2048, -128), (0, 0, 0, 2047, 2047, 127)):
        _bus.i2c[0x77] = Bme280(calibration=calibration(T, P, h))
        other = bme280.Bme280(bus, 0x77)
        other.start()
        assert other._c == T + P + (0,) + h, other._c
    del _bus.i2c[0x77]
    chip.off()
    assert loop.turn() == "no measurement" and driver.humidity is None
    assert loop.turn() == "" and driver.temperature == 25.08
    del _bus.i2c[0x76]
    assert loop.turn(5) == [NOBODY] * 5 and driver.temperature is None
    chip.off()
    _bus.i2c[0x76] = chip
    assert loop.turn(3)[1:] == ["", ""] and driver.temperature == 25.08
    chip.raw = (415148, 900000, 30000)
    assert loop.turn(2)[1].startswith("out of range") and driver.pressure is None
    chip.raw = (0xFFFFF, 519888, 30000)
    assert loop.turn(2)[1].startswith("out of range")
    for p, t in ((500_000, 716_000), (300_000, 305_000)):  # 86 and -42 °C at pressures within range
        fine = bme280.temperature(driver._c, t)
        assert 30000 <= bme280.pressure(driver._c, fine, p) <= 110000
        chip.raw = (p, t, 30000)
        assert loop.turn(2)[1].startswith("out of range"), fine * 5 >> 8
    chip.raw = (415148, 519888, 0)
    loop.turn(2)
    assert driver.humidity == 0
    chip.raw = (415148, 519888, 65535)
    loop.turn(2)
    assert driver.humidity == 100
    chip.table[0xF3] = 8
    assert loop.turn() == "no measurement" and driver.temperature is None
    chip.table[0xF3] = 0
    for stuck in (b"\0", b"\xff"):
        chip.read = lambda n, stuck=stuck: stuck * n
        assert loop.turn() == "no measurement"
    chip.read = lambda n: b"\x58" * n
    assert "no BME280" in loop.turn(4)
    del _bus.i2c[0x76]


def dht():
    """The manuals' frames: 65.2 %, 35.1 °C; minus 10.1 °C; 53 %, 24 °C."""
    driver = Dht22(14)
    loop = Turns(driver)
    assert loop.turn() == "[Errno 110] ETIMEDOUT"

    def frame(*b):
        _bus.dht[14] = bytes(b + (sum(b) & 0xFF,))
        return loop.turn()

    def read():
        return driver.temperature, driver.humidity

    assert frame(0x02, 0x8C, 0x01, 0x5F) == "" and read() == (35.1, 65.2)
    assert frame(0x02, 0x8C, 0x80, 0x65) == "" and read() == (-10.1, 65.2)
    assert frame(0x03, 0xE8, 0x81, 0x90) == "" and read() == (-40.0, 100.0)
    assert frame(0x00, 0x01, 0x03, 0x20) == "" and read() == (80.0, 0.1)
    for wrong in (
        (0, 0, 0, 0),  # the line held low
        (0xFF, 0xFF, 0xFF, 0xFF),
        (0x03, 0xE9, 0x00, 0xFA),  # 100.1 %
        (0x01, 0x00, 0x03, 0x21),  # 80.1 °C
        (0x01, 0x00, 0x81, 0x91),  # -40.1 °C
        (0x02, 0x20, 0x0F, 0xFF),  # clones that send two's complement
        (0x02, 0x20, 0xFF, 0xF6),
    ):
        assert frame(*wrong).startswith("out of range") and read() == (None, None), wrong
    assert frame(0x02, 0x8C, 0x01, 0x5F) == ""
    _bus.dht[14] = b"\x02\x8c\x01\x5f\xef"
    assert loop.turn() == "checksum error" and read() == (None, None)
    del _bus.dht[14]
    assert loop.turn(4) == ["[Errno 110] ETIMEDOUT"] * 4
    assert frame(0x02, 0x8C, 0x01, 0x5F) == "" and read() == (35.1, 65.2)
    loop.stop()
    assert read() == (None, None)

    driver = Dht11(14)
    loop = Turns(driver)
    assert frame(0x35, 0x00, 0x18, 0x00) == "" and read() == (24, 53)
    assert frame(0x35, 0x05, 0x18, 0x04) == ""
    near(driver.temperature, 24.4, 1e-5)
    near(driver.humidity, 53.5, 1e-5)
    assert frame(0x35, 0x00, 0x0A, 0x81) == ""
    near(driver.temperature, -10.1, 1e-5)
    assert frame(0x35, 0x00, 0x3D, 0x00).startswith("out of range")
    del _bus.dht[14]


def rom(serial, family=0x28):
    head = bytes((family, serial)) + bytes(5)
    return head + bytes((crc8(head),))


def ds18b20():
    """Data sheet, table 1: temperature and data."""
    one, two = rom(1), rom(2)
    driver = Ds18b20(12)
    loop = Turns(driver)
    assert loop.turn() == "no DS18B20 on pin 12"
    wire = _bus.onewire[12] = Thermometers([one])
    assert loop.turn() == "" and driver.temperature is None
    for raw, t in (
        (0x07D0, 125),
        (0x0550, 85),
        (0x0191, 25.0625),
        (0x00A2, 10.125),
        (0x0008, 0.5),
        (0x0000, 0),
        (0xFFF8, -0.5),
        (0xFF5E, -10.125),
        (0xFE6F, -25.0625),
        (0xFC90, -55),
    ):
        wire.next[one] = raw
        assert loop.turn(2) == ["", ""] and driver.temperature == t, (raw, driver.temperature)
    for raw in (0x07D1, 0xFC8F, 0x7FFF):
        wire.next[one] = raw
        assert loop.turn(2)[1].startswith("out of range") and driver.temperature is None
    wire.next[one] = 0x0191
    assert loop.turn(2)[1] == ""
    # 85 °C after a power cut is no measurement.
    wire.off(one)
    assert loop.turn() == "lost power" and driver.temperature is None
    assert loop.turn(2) == ["", ""] and driver.temperature == 25.0625
    wire.spoilt = one
    assert loop.turn() == "CRC error" and driver.temperature is None
    wire.spoilt = None
    assert loop.turn() == "" and driver.temperature == 25.0625
    # A poll that comes while it is still at it reads at the next one, and not 85 °C.
    wire.converting = 1
    assert loop.turn() == "" and driver.temperature == 25.0625
    assert wire.converting == 0
    wire.next[one] = 0x00A2
    driver._bus.convert_temp()
    assert loop.turn() == "" and driver.temperature == 10.125
    wire.converting = 9  # not for ever: something holds the line
    assert loop.turn(2) == ["", ""] and wire.converting == 8
    wire.converting = 0
    wire.next[one] = 0x0191
    assert loop.turn(2) == ["", ""] and driver.temperature == 25.0625
    # A bus that is held low has a right checksum too: nine zeros.
    wire.pads[one][:] = bytes(8)
    wire.next[one] = 0
    assert loop.turn() == "lost power"
    wire.next[one] = 0x0191
    wire.roms.clear()
    assert loop.turn(2) == ["OneWireError", "OneWireError"] and driver.temperature is None
    assert loop.turn(2)[1] == "no DS18B20 on pin 12"
    # Two of them, one of which fails; one of another family; one with a spoilt ROM.
    wire = _bus.onewire[12] = Thermometers([one, two, rom(3, 0x10), two[:7] + b"\0"])
    wire.next[two] = 0xFF5E
    assert loop.turn(2) == ["", ""]
    assert driver.temperatures == {one.hex(): 25.0625, two.hex(): -10.125}, driver.temperatures
    wire.spoilt = one
    assert loop.turn() == "CRC error"
    assert driver.temperatures == {one.hex(): None, two.hex(): -10.125}
    # One that is unplugged is missed, also by a new start, and works again when it is back.
    wire.spoilt = None
    wire.roms.remove(two)
    for _ in range(9):
        assert "CRC error" in loop.turn(2)
    assert driver.temperatures[two.hex()] is None
    wire.roms.append(two)
    loop.turn(6)
    assert loop.turn() == "" and driver.temperatures[two.hex()] == -10.125
    del _bus.onewire[12]


def analog():
    driver = Analog(ADC(0), 0, 1.0)
    loop = Turns(driver)
    for raw, value in ((0, 0), (65535, 1), (32768, 0.5)):
        _bus.analog[0] = raw
        assert loop.turn() == ""
        near(driver.value, value, 1e-4)
    driver = Analog(ADC(Pin(34), atten=ADC.ATTN_11DB), 100, -20, 16)
    loop = Turns(driver)
    _bus.analog[34] = 65535
    assert loop.turn() == ""
    near(driver.value, -20, 1e-3)
    values = [1000, 3000] * 8
    driver._adc.read_u16 = values.pop
    assert loop.turn() == ""
    near(driver.value, 100 - 120 * 2000 / 65535, 1e-3)
    assert not values


for part in (bmp180_example, bme280_faults, dht, ds18b20, analog):
    part()
    print("passed", part.__name__)
