# The chip's own parts.
import struct

import time
import utime
from _page import (
    ADDRESS,
    DEEPSLEEP as _DEEPSLEEP,
    ESP32,
    LEVEL_IN,
    LEVEL_OUT,
    OWN,
    RESET,
    RTC as _RTC,
    SOFT_RESET as _SOFT,
    SPEED,
    die,
    libc,
    memory,
    page,
)
import _bus
import _clock
import _tick

# Frozen into every image, so they must be here before the host's files go away.
import dht
import ds18x20
import neopixel
import onewire

PWRON_RESET = 1 if ESP32 else 0
HARD_RESET = 2 if ESP32 else 6
WDT_RESET = 3 if ESP32 else 1
DEEPSLEEP_RESET = 4 if ESP32 else 5
SOFT_RESET = 5 if ESP32 else 4
IDLE = 0
SLEEP = 1
DEEPSLEEP = 2 if not ESP32 else 4

# What really happened (board.py: power, reset, watchdog, deep sleep, soft reset, button) in the
# number that the chip reads back. The ESP8266's watchdog gives 3, for which it has no constant.
_CAUSES = (1, 2, 3, 4, 5, 1) if ESP32 else (0, 4, 3, 5, 4, 6)
_freq = [160000000 if ESP32 else 80000000]
_alarm = [0]


def reset_cause():
    return _CAUSES[page.cause]


def reset():
    die(RESET)


def soft_reset():
    if ESP32:
        die(_SOFT)
    raise SystemExit


def deepsleep(ms=None):
    page.sleep = _alarm[0] if ms is None else ms
    die(_DEEPSLEEP)


def lightsleep(ms=0):
    time.sleep_ms(ms)


def idle():
    time.sleep_ms(1)


def freq(hz=None):
    if hz is None:
        return _freq[0]
    _freq[0] = hz
    return None


def unique_id():
    parts = [int(n) for n in ADDRESS.split(".")]
    if ESP32:
        return bytes([2, 0] + parts)
    return bytes([parts[3], parts[2], parts[1], 0])


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


class RTC:
    ALARM0 = 0
    _SIZE = 2048 if ESP32 else 492

    def __init__(self, id=0):
        pass

    def memory(self, data=None):
        if data is None:
            return bytes(memory[_RTC : _RTC + page.rtc])
        if len(data) > self._SIZE:
            raise ValueError("buffer too long")
        memory[_RTC : _RTC + len(data)] = data
        page.rtc = len(data)
        return None

    def datetime(self, fields=None):
        if fields is None:
            y, mo, d, h, mi, s, wd, _ = time.gmtime()
            return (y, mo, d, wd, h, mi, s, 0)
        y, mo, d, _, h, mi, s, _ = fields
        page.clock = time.mktime((y, mo, d, h, mi, s, 0, 0)) - time.uptime_s()
        return None

    def alarm(self, id, ms):
        _alarm[0] = ms

    def irq(self, *, trigger=0, wake=0):
        pass


class Timer:
    ONE_SHOT = 0
    PERIODIC = 1

    def __init__(self, id=-1, **kw):
        if id < -1 or id > 3 or (id >= 0 and not ESP32):
            raise ValueError("invalid Timer number")
        self._n = None
        if kw:
            self.init(**kw)

    def init(self, *, mode=PERIODIC, period=-1, freq=0, callback=None, tick_hz=1000, hard=None):
        self.deinit()
        ms = int(1000 / freq) if freq else period
        if callback and ms >= 0:
            periodic = mode == self.PERIODIC
            self._n = _tick.claim(lambda: callback(self), ms, periodic)

    def deinit(self):
        if self._n is not None:
            _tick.release(self._n)
            self._n = None


_setitimer = libc.func("i", "setitimer", "ipp")


class WDT:
    # By the wall's clock the kernel's alarm kills the process, which is the reset. Never below a
    # real second: a busy host is not a hung board.
    _ESP8266_MS = 3200

    def __init__(self, id=0, timeout=5000):
        if ESP32:
            if timeout <= 0:
                raise ValueError("WDT timeout too short")
        elif timeout != 5000:
            raise ValueError("timeout out of range")
        self._ms = timeout if ESP32 else self._ESP8266_MS
        real = max(1000, self._ms // SPEED)
        self._alarm = struct.pack("llll", 0, 0, real // 1000, real % 1000 * 1000)
        self.feed()

    def feed(self):
        if OWN:
            _clock.watch(self._ms)
        else:
            _setitimer(0, self._alarm, None)


class Pin:
    IN = 0
    OUT = 1 if not ESP32 else 3
    OPEN_DRAIN = 2 if not ESP32 else 7
    PULL_UP = 1 if not ESP32 else 2
    PULL_DOWN = 1
    IRQ_RISING = 1
    IRQ_FALLING = 2

    def __init__(self, id, mode=-1, pull=-1, value=None, **_):
        if not 0 <= id < 40:
            raise ValueError("invalid pin")
        self.id = id
        self.init(mode, pull, value=value)

    def init(self, mode=-1, pull=-1, *, value=None, **_):
        if mode == self.IN:
            memory[LEVEL_OUT + self.id] = 0
        if value is not None or (mode == self.OUT and not memory[LEVEL_OUT + self.id]):
            self.value(bool(value))
        self._idle = 1 if pull == self.PULL_UP else 0

    def value(self, level=None):
        if level is not None:
            memory[LEVEL_OUT + self.id] = 2 if level else 1
            if self.id in _bus.watch:
                _bus.watch[self.id](1 if level else 0)
            return None
        now = memory[LEVEL_IN + self.id] or memory[LEVEL_OUT + self.id]
        return now - 1 if now else self._idle

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def irq(self, handler=None, trigger=3, hard=False, **_):
        def call():
            edge = self.IRQ_RISING if self.value() else self.IRQ_FALLING
            if trigger & edge:
                handler(self)

        _tick.watch(self.id, call if handler else None)


class Signal:
    def __init__(self, pin, invert=False):
        self._pin = pin
        self._invert = invert

    def value(self, level=None):
        if level is None:
            return self._pin.value() ^ self._invert
        self._pin.value(bool(level) ^ self._invert)
        return None

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)


class PWM:
    # From outside the pin is high when it is so for half of the time or more.
    def __init__(self, pin, freq=500, duty=None, duty_u16=0):
        self._pin = pin
        self.init(freq, duty, duty_u16)

    def init(self, freq=None, duty=None, duty_u16=None):
        if freq is not None:
            self.freq(freq)
        if duty is not None:
            self.duty(duty)
        elif duty_u16 is not None:
            self.duty_u16(duty_u16)

    def freq(self, hz=None):
        if hz is None:
            return self._freq
        if not ESP32 and hz > 1000:
            raise ValueError("frequency must be 1-1000")
        self._freq = hz
        return None

    def duty(self, value=None):
        if value is None:
            return self._duty >> 6
        return self.duty_u16(value << 6 | value >> 4)

    def duty_u16(self, value=None):
        if value is None:
            return self._duty
        self._duty = value
        self._pin.value(value >= 32768)
        return None

    def deinit(self):
        self._pin.value(0)


class ADC:
    ATTN_11DB = 3

    def __init__(self, pin=0, **_):
        self._id = pin.id if isinstance(pin, Pin) else pin

    def read(self):
        return self.read_u16() >> (4 if ESP32 else 6)

    def read_u16(self):
        return _bus.analog.get(self._id, 32768)

    def atten(self, value):
        pass


class I2C:
    def __init__(self, id=-1, **_):
        pass

    def scan(self):
        return sorted(_bus.i2c)

    def writeto(self, address, data, stop=True):
        _bus.device(address).write(bytes(data))
        return len(data)

    def writevto(self, address, parts, stop=True):
        return self.writeto(address, b"".join(bytes(part) for part in parts))

    def readfrom(self, address, count, stop=True):
        return _bus.device(address).read(count)

    def readfrom_into(self, address, buf, stop=True):
        buf[:] = self.readfrom(address, len(buf))

    def readfrom_mem(self, address, register, count, *, addrsize=8):
        self.writeto(address, register.to_bytes(addrsize // 8, "big"))
        return self.readfrom(address, count)

    def readfrom_mem_into(self, address, register, buf, *, addrsize=8):
        buf[:] = self.readfrom_mem(address, register, len(buf), addrsize=addrsize)

    def writeto_mem(self, address, register, data, *, addrsize=8):
        self.writeto(address, register.to_bytes(addrsize // 8, "big") + bytes(data))


SoftI2C = I2C


class SPI:
    # Without a device the line stays high.
    def __init__(self, id=-1, **_):
        self._id = id

    def init(self, **_):
        pass

    def deinit(self):
        pass

    def write_readinto(self, out, into):
        device = _bus.spi.get(self._id)
        into[:] = device(bytes(out)) if device else b"\xff" * len(out)

    def write(self, out):
        self.write_readinto(out, bytearray(len(out)))

    def readinto(self, into, out=0):
        self.write_readinto(bytes((out,)) * len(into), into)

    def read(self, count, out=0):
        into = bytearray(count)
        self.readinto(into, out)
        return bytes(into)


SoftSPI = SPI
