"""What a driver takes of the heap: its module, and one object of it at work.

A module's share has its names in it. The table of names grows in steps of some kilobytes, which
are charged to the driver that happens to need the next one.
"""

import gc
import sys
from machine import ADC, Pin, SoftI2C

import _bus
from fakes import Bme280, Bmp180, Digits, Oled, Thermometers, Turns, crc8

import runtime.driver  # noqa: F401

bus = SoftI2C(scl=Pin(5), sda=Pin(4))
rom = b"\x28\1\0\0\0\0\0"
_bus.onewire[14] = Thermometers([rom + bytes((crc8(rom),))])
_bus.i2c[0x76] = Bme280()
_bus.i2c[0x77] = Bmp180(calibration=bytes(range(1, 23)))
oled = _bus.i2c[0x3C] = Oled()
digits = Digits(12, 13)

MAKE = (
    ("analog", lambda m: m.Analog(ADC(0), 0, 1)),
    ("bme280", lambda m: m.Bme280(bus)),
    ("bmp180", lambda m: m.Bmp180(bus)),
    ("button", lambda m: m.Button(0, print)),
    ("dht22", lambda m: m.Dht22(2)),
    ("ds18b20", lambda m: m.Ds18b20(14)),
    ("led", lambda m: m.Led(2)),
    ("pir", lambda m: m.Pir(2)),
    ("pixels", lambda m: m.Pixels(2, 8)),
    ("pwmled", lambda m: m.PwmLed(15)),
    ("relay", lambda m: m.Relay(15)),
    ("ssd1306", lambda m: m.Ssd1306(bus)),
    ("tm1637", lambda m: m.Tm1637(12, 13)),
)


def free():
    gc.collect()
    return gc.mem_free()


def measure(name, make):
    before = free()
    __import__("drivers." + name)
    loaded = free()
    driver = make(sys.modules["drivers." + name])
    loop = Turns(driver)
    said = loop.turn()
    at_work = free()
    print("heap", name, before - loaded, loaded - at_work, said)
    return loop


loops = [measure(name, make) for name, make in MAKE]
_bus.dht[2] = b"\x02\x8c\x01\x5f\xee"
loops = [loop for loop in loops if "" in loop.turn(2)]  # not what has no sensible calibration
digits.messages.clear()
oled.commands = b""
before = free()
for loop in loops:
    loop.turn(50)
digits.messages.clear()
oled.commands = b""
print("kept", before - free(), "bytes after 50 polls each of", len(loops))
