# What is wired to the chip: a test's code on the board puts its devices here, the stand-ins of the
# buses find them (docs/drivers.md). Nothing is connected otherwise.
from _page import LEVEL_IN, memory

i2c = {}  # address: device with write(bytes) and read(count) -> bytes
spi = {}  # bus number: function of the bytes that go out, returns as many
analog = {}  # pin number: raw value, 0 to 65535
dht = {}  # pin number: the sensor's five bytes
onewire = {}  # pin number: device with roms, a list, write(byte), read() -> byte, and reset()
strips = {}  # pin number: the last bytes a NeoPixel sent
watch = {}  # pin number: function of the level that the chip drives it to


def drive(pin, level):
    """Drive a pin from outside; None lets it go."""
    memory[LEVEL_IN + pin] = 0 if level is None else 1 + level


def device(address):
    """What answers at an I2C address; nobody is ENODEV."""
    if address not in i2c:
        raise OSError(19)
    return i2c[address]
