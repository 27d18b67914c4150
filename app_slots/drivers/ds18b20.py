"""Temperature by DS18B20 and DS1822, any number on one pin, over the firmware's `onewire`.

Source: Maxim, "DS18B20" data sheet 19-7487, rev. 6: figure 4 and table 1 (temperature register,
1/16 °C), figure 9 (scratchpad), figure 10 (configuration). Power comes over the third wire:
parasite power needs a stronger pull-up than a chip's pin gives.
"""

from machine import Pin

from ds18x20 import DS18X20
from onewire import OneWire

from runtime.driver import Driver

# Alarm limits of our own, which nobody asks for. A sensor that lost its power has those of its
# EEPROM back, and shows 85 °C whatever it is; 0x7F: 12 bits, 750 ms.
_MARK = b"\x55\xaa\x7f"


class Ds18b20(Driver):
    """Sensors on pin number `pin`, which needs 4.7 kOhm to 3.3 V.

    `temperatures` is {address: °C}, -55 to 125, with None for one whose last reading failed;
    `temperature` is that of a single one. Values are a period old: each poll reads what the last
    one asked for. A sensor takes 14 ms of the loop.
    """

    temperature = None

    def __init__(self, pin):
        self._number = pin
        self._bus = None
        self._roms = ()
        self._asked = 0
        self.temperatures = {}

    def start(self):
        wire = OneWire(Pin(self._number))
        self._bus = DS18X20(wire)
        roms = [rom for rom in self._bus.scan() if rom[0] != 0x10 and not wire.crc8(rom)]
        if not roms:
            raise OSError("no DS18B20 on pin %d" % self._number)
        # One that is missing stays known: it may be plugged in again.
        self._roms = roms = roms + [rom for rom in self._roms if rom not in roms]
        self._asked = 0
        for rom in roms:
            self._bus.write_scratch(rom, _MARK)

    def poll(self):
        wrong = None
        asked, self._asked = self._asked, 0
        if asked == 1 and not self._bus.ow.readbit():
            self._asked = 2  # early, after a late poll; the next one reads in any case
            return
        for rom in self._roms:
            t = None
            if asked:
                try:
                    t = self._read(rom)
                except Exception as e:
                    wrong = e
            self.temperature = self.temperatures[bytes(rom).hex()] = t
        self._bus.convert_temp()
        self._asked = 1
        if wrong:
            raise wrong

    def _read(self, rom):
        pad = self._bus.read_scratch(rom)
        if bytes(pad[2:5]) != _MARK:
            self._bus.write_scratch(rom, _MARK)
            raise OSError("lost power")
        t = pad[1] << 8 | pad[0]
        t = (t - 65536 if t & 0x8000 else t) / 16
        if not -55 <= t <= 125:
            raise OSError("out of range: %s C" % t)
        return t

    def stop(self):
        self.temperature = None
        self.temperatures.clear()
