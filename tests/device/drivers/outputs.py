"""Switches, lights, displays, buttons: what the pins and buses show of them."""

import micropython
import time
from machine import Pin, SoftI2C

import _bus
from _page import LEVEL_OUT, memory
from fakes import Digits, Oled, Turns

from drivers import button as button_module
from drivers.button import Button
from drivers.led import Led
from drivers.pir import Pir
from drivers.pixels import Pixels
from drivers.pwmled import PwmLed
from drivers.relay import Relay
from drivers.ssd1306 import Ssd1306
from drivers.tm1637 import Tm1637
from utilities import timer as timer_module
from utilities.timer import Timer

now = time.ticks_add(0, -500)  # the ticks wrap around soon


def level(pin):
    return memory[LEVEL_OUT + pin] - 1


def ticks_ms():
    return now


def passes(ms):
    global now
    now = time.ticks_add(now, ms)


for module in (button_module, timer_module):
    module.ticks_ms = ticks_ms


class Hand:
    """A finger on a button: what it does, and what the app is told of it."""

    def __init__(self, pin, quick, hold):
        self.told = []
        self._pin_number = pin
        self._quick = quick
        edge = Pin.irq
        if not quick:
            Pin.irq = _refuse
        held = (lambda: self.told.append("h")) if hold else None
        self.driver = Button(pin, lambda: self.told.append("p"), held)
        self.loop = Turns(self.driver)
        assert self.loop.turn() == ""
        Pin.irq = edge
        self._handler = self.driver._edge
        self._wire = self.driver._pin

    def wait(self, ms, poll=True):
        while ms > 0:
            step = min(ms, 20)
            passes(step)
            ms -= step
            if poll:
                assert self.loop.turn() == ""

    def put(self, value):
        _bus.drive(self._pin_number, value)
        if self._quick:  # as an interrupt, in which nothing can be allocated
            micropython.heap_lock()
            self._handler(self._wire)
            micropython.heap_unlock()

    def bounce(self, value):
        for _ in range(3):
            self.put(value)
            passes(1)
            self.put(1 - value)
            passes(2)
        self.put(value)

    def seen(self):
        got = "".join(self.told)
        self.told.clear()
        return got


def _refuse(*_):
    raise OSError("pin does not have IRQ capabilities")


def button():
    """Bounce, spikes, clicks, long presses, the ticks' wrap-around; by interrupt and polled."""
    for pin, quick, hold in ((0, True, True), (16, False, True), (4, True, False)):
        hand = Hand(pin, quick, hold)
        _clicks(hand, hold)
        _gaps(hand, hold)
        assert not hand.driver.pressed
        hand.put(0)
        hand.wait(980)
        assert hand.driver.pressed
        hand.put(1)  # let go before it is held
        hand.wait(100)
        assert hand.seen() == "p"
        if quick:
            _busy(hand)
        hand.loop.stop()
        hand.put(None)


def _clicks(hand, hold):
    hand.wait(100)
    assert hand.seen() == ""
    hand.bounce(0)
    hand.wait(200)
    hand.bounce(1)
    assert hand.seen() == ""
    hand.wait(100)
    assert hand.seen() == "p"
    hand.put(0)  # a spike
    passes(20)
    hand.put(1)
    hand.wait(100)
    assert hand.seen() == ""
    hand.bounce(0)
    hand.wait(2500)
    assert hand.seen() == ("h" if hold else "")
    hand.bounce(1)
    hand.wait(200)
    assert hand.seen() == ("" if hold else "p")


def _gaps(hand, hold):
    for before, after, wanted in ((400, 400, "p"), (1500, 300, "h"), (800, 800, "h")):
        hand.put(0)
        hand.wait(before)
        hand.put(1)  # a gap, while it is down
        passes(2)
        hand.put(0)
        hand.wait(after)
        hand.put(1)
        hand.wait(200)
        assert hand.seen() == (wanted if hold else "p"), (before, after)


def _busy(hand):
    """Three clicks while the loop is busy."""
    for _ in range(3):
        hand.bounce(0)
        hand.wait(100, poll=False)
        hand.bounce(1)
        hand.wait(100, poll=False)
    hand.wait(20)
    assert hand.seen() == "ppp"


def real_interrupt():
    """The interrupt itself, as the chip calls it."""
    told = []
    driver = Button(13, lambda: told.append("p"))
    loop = Turns(driver)
    loop.turn()
    for value in (0, 1):
        _bus.drive(13, value)
        for _ in range(200):
            time.sleep_ms(1)
            if driver._raw != bool(value):
                break
        passes(100)
    loop.turn()
    assert told == ["p"]
    loop.stop()


def interrupt_inside_poll():
    """An edge that comes while the loop looks at the pin is not counted twice."""

    class Wire:
        level = 1

        def value(self):
            driver._edge(self)
            return self.level

    told = []
    driver = Button(13, lambda: told.append("p"))
    loop = Turns(driver)
    loop.turn()
    driver._pin.irq(None)
    driver._pin, pin = Wire(), driver._pin
    for level in (0, 0, 1, 1):
        driver._pin.level = level
        passes(50)
        assert loop.turn() == ""
    assert told == ["p"]
    driver._pin = pin
    loop.stop()


def relay():
    driver = Relay(5)
    loop = Turns(driver)
    driver.set(True)  # before the start: remembered
    loop.turn()
    assert driver.on and level(5) == 1
    driver.set(False)
    assert not driver.on and level(5) == 0
    loop.stop()

    driver = Relay(12, 0, min_on=3, min_off=5)
    loop = Turns(driver)
    driver.set(True)
    states = []
    for n in range(20):
        loop.turn()
        states.append(level(12))
        if n == 7:
            driver.set(False)
        if n == 10:
            driver.set(True)
            driver.set(False)
            driver.set(True)
    # Off for 5 s from the start on, on for 3 s at least, off for 5 s at least.
    text = "".join(str(1 - s) for s in states)
    first = text.index("1")
    off = text.index("0", first)
    again = text.index("1", off)
    assert first >= 5 and off - first >= 3 and again - off >= 5, text
    loop.stop()
    assert level(12) == 1 and not driver.on
    driver.set(True)  # while stopped nothing moves
    assert level(12) == 1


def pir():
    told = []
    driver = Pir(14, told.append, warm_up=1)
    loop = Turns(driver)
    _bus.drive(14, 1)
    loop.turn(5)
    assert driver.motion is None and not told
    for value in (1, 1, 0, 0, 1):
        _bus.drive(14, value)
        loop.turn()
    assert told == [True, False, True] and driver.motion is True
    loop.stop()
    assert driver.motion is None
    _bus.drive(14, None)


def leds():
    led = Led(2, 0)
    loop = Turns(led)
    loop.turn()
    assert level(2) == 1
    led.blink()
    loop.turn()
    assert level(2) == 0
    loop.turn()
    assert level(2) == 1
    led.set(True)
    for _ in range(2):
        loop.turn()
        assert level(2) == 0 and led.on
    led.blink()  # the other way round
    loop.turn()
    assert level(2) == 1
    loop.turn()
    assert level(2) == 0
    led.set(False)
    loop.turn()
    assert level(2) == 1

    for on in (1, 0):
        led = PwmLed(15, on)
        loop = Turns(led)
        loop.turn()

        def duty(led=led, on=on):
            return led._pwm.duty() if on else 1023 - led._pwm.duty()

        assert duty() == 0
        led.fade(255)
        loop.turn()
        assert duty() == 1023
        led.fade(0, 400)
        seen = []
        for _ in range(12):
            loop.turn()
            seen.append(duty())
        assert seen == sorted(seen, reverse=True) and len(set(seen)) == 10, seen
        assert seen[8] > 0 and seen[9:] == [0, 0, 0]
        led.fade(999)
        loop.turn()
        assert duty() == 1023
        led.fade(10, 1000)
        loop.turn(7)
        led.fade(128, 200)  # another wish on the way
        loop.turn(5)
        assert duty() == 260
        loop.stop()
        assert level(15) == 1 - on


def digits():
    """Command bytes of the data sheet; no acknowledge is an error."""
    chip = Digits(12, 13)
    driver = Tm1637(12, 13)
    loop = Turns(driver)
    driver.show("12:34")
    assert loop.turn() == ""
    assert chip.messages == [b"\x40", b"\xc0\x06\xdb\x4f\x66", b"\x8f"], chip.messages
    for text, segments in (
        ("8888", b"\x7f\x7f\x7f\x7f"),
        (" -5?", b"\x00\x40\x6d\x00"),
        ("12345", b"\x06\x5b\x4f\x66"),
        (":", b"\0\0\0\0"),
        ("Err", b"\x79\x50\x50\x00"),
        ("OFF", b"\x3f\x71\x71\x00"),
        ("On c", b"\x3f\x54\x00\x58"),
        ("21*C", b"\x5b\x06\x63\x39"),
        ("WXpo", b"\x00\x00\x73\x5c"),
    ):
        chip.messages.clear()
        driver.show(text)
        driver.brightness = 0
        assert loop.turn() == ""
        assert chip.messages == [b"\x40", b"\xc0" + segments, b"\x88"], (text, chip.messages)
    chip.plugged = False
    assert loop.turn(2) == ["no TM1637"] * 2
    chip.plugged = True
    assert loop.turn() == ""
    chip.messages.clear()
    loop.stop()
    assert chip.messages == [b"\x80"]


def oled():
    bus = SoftI2C(scl=Pin(5), sda=Pin(4))
    driver = Ssd1306(bus)
    loop = Turns(driver)
    driver.frame.pixel(0, 0, 1)  # drawn before it answers
    driver.frame.pixel(127, 63, 1)
    assert loop.turn() == "[Errno 19] ENODEV"
    panel = _bus.i2c[0x3C] = Oled()
    assert loop.turn() == "" and panel.on
    wanted = b"\x01" + bytes(1022) + b"\x80"
    assert bytes(panel.pixels) == wanted
    for command in (b"\x8d\x14", b"\x20\x00", b"\xa8\x3f\xda\x12", b"\x21\x00\x7f\x22\x00\x07"):
        assert command in panel.commands
    driver.frame.fill(1)
    loop.turn()
    assert bytes(panel.pixels) == wanted  # not before it is asked for
    driver.show()
    loop.turn()
    assert bytes(panel.pixels) == b"\xff" * 1024
    panel.pixels[0] = 0
    loop.turn()
    assert panel.pixels[0] == 0  # sent once
    # Unplugged for a moment: set up and drawn anew, without a show().
    del _bus.i2c[0x3C]
    assert loop.turn() == "[Errno 19] ENODEV"
    panel = _bus.i2c[0x3C] = Oled()
    assert loop.turn() == "" and panel.on and bytes(panel.pixels) == b"\xff" * 1024
    loop.stop()
    assert not panel.on
    _bus.i2c[0x3C] = panel = Oled()
    assert Turns(Ssd1306(bus, 32)).turn() == ""
    assert b"\xa8\x1f\xda\x02" in panel.commands and panel.commands[-2:] == b"\x03\xaf"
    assert bytes(panel.pixels) == bytes(512) + b"\xa5" * 512


def pixels():
    driver = Pixels(4, 3)
    loop = Turns(driver)
    driver.strip[0] = (1, 2, 3)
    driver.strip[2] = (255, 128, 0)
    assert loop.turn() == "" and _bus.strips[4] == bytes((2, 1, 3, 0, 0, 0, 128, 255, 0))
    driver.strip.fill((9, 9, 9))
    loop.turn()
    assert _bus.strips[4][0] == 2
    driver.show()
    loop.turn()
    assert _bus.strips[4] == bytes((9,)) * 9
    loop.stop()
    assert _bus.strips[4] == bytes(9)
    driver = Pixels(4, 1, 4)
    driver.strip[0] = (1, 2, 3, 4)
    Turns(driver).turn()
    assert _bus.strips[4] == bytes((2, 1, 3, 4))


def timer():
    t = Timer(1000)
    assert t.left() is None and not t.over()
    t.start()
    passes(999)
    assert t.left() == 1 and not t.over()
    passes(2)
    assert t.over() and t.left() == 0
    t.start()
    assert t.left() == 1000
    t.stop()
    assert t.left() is None
    t.ms = 30 * 86_400_000  # longer than the ticks' period
    t.start()
    for _ in range(29):
        passes(86_400_000)
        assert not t.over()
    passes(86_400_000)
    assert t.over()


for part in (
    button,
    real_interrupt,
    interrupt_inside_poll,
    relay,
    pir,
    leds,
    digits,
    oled,
    pixels,
    timer,
):
    part()
    print("passed", part.__name__)
