# The stock firmware's frozen `onewire`, down to bytes: a search finds the devices at once.
import _bus


class OneWireError(Exception):
    pass


class OneWire:
    SEARCH_ROM = 0xF0
    MATCH_ROM = 0x55
    SKIP_ROM = 0xCC

    def __init__(self, pin):
        self.pin = pin
        pin.init(pin.OPEN_DRAIN, pin.PULL_UP)

    def reset(self, required=False):
        wire = _bus.onewire.get(self.pin.id)
        present = bool(wire and wire.roms)
        if present:
            wire.reset()
        elif required:
            raise OneWireError
        return present

    def readbit(self):
        wire = _bus.onewire.get(self.pin.id)
        return wire.bit() if wire else 1

    def readbyte(self):
        wire = _bus.onewire.get(self.pin.id)
        return wire.read() if wire else 0xFF

    def readinto(self, buf):
        for i in range(len(buf)):
            buf[i] = self.readbyte()

    def writebyte(self, value):
        wire = _bus.onewire.get(self.pin.id)
        if wire:
            wire.write(value)

    def write(self, buf):
        for byte in buf:
            self.writebyte(byte)

    def select_rom(self, rom):
        self.reset()
        self.writebyte(self.MATCH_ROM)
        self.write(rom)

    def scan(self):
        return [bytearray(rom) for rom in _bus.onewire[self.pin.id].roms] if self.reset() else []

    def crc8(self, data):
        crc = 0
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x8C if crc & 1 else 0)
        return crc
