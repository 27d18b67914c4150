"""Drivers on a 32-bit MicroPython: data sheets' numbers, faults, and a life in a real app."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mipy_ota.signing import bundle
from mipy_ota.signing.manifest import stem
from mipy_ota.tools.app import build
from mipy_ota.tools.app.compile import modules
from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import ROOT, fleet
from tests.support.boards import Board

APP = ROOT / "app_slots"
SCRIPTS = ROOT / "tests" / "device" / "drivers"
BLOCKS = 64

Run = Callable[..., str]


def compiled(*folders: str) -> dict[str, bytes]:
    """The modules of these folders of app_slots, by their names in a slot."""
    beside = [path.read_bytes() for path in sorted(SCRIPTS.glob("*.py"))]
    return {
        f"{stem(name)}.mpy": fleet.mpy(name, text)
        for name, text in modules.our_modules(beside).items()
        if name.split("/")[0] in folders
    }


def fakes() -> bytes:
    return fleet.mpy("fakes.py", (SCRIPTS / "fakes.py").read_text())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a script of tests/device/drivers on a board with all drivers; returns its output."""
    boards: list[VirtualBoard] = []

    def go(script: str, extra: str = "", chip: Chip = "esp8266") -> str:
        board = Board(tmp_path / script, chip, heap=120_000, blocks=BLOCKS)
        boards.append(board)
        modules = compiled("drivers", "utilities", "runtime")
        board.format(
            {f"/{name}": data for name, data in modules.items()}
            | {
                "/fakes.mpy": fakes(),
                "/main.py": b"import script\nprint('done')\n",
                "/script.mpy": fleet.mpy(script, (SCRIPTS / script).read_text()),
                "/grid": extra.encode(),
            }
        )
        life = board.life(timeout=60)
        assert life.console.endswith("done\n"), life.console[-2000:]
        return life.console

    yield go
    for board in boards:
        board.close()


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize(("script", "parts"), (("sensors.py", 5), ("outputs.py", 10)))
def test_parts(run: Run, chip: Chip, script: str, parts: int) -> None:
    assert run(script, chip=chip).count("passed") == parts


# --- BME280: integers on the board against floating point here, by data sheet section 8.1

Words = tuple[int, ...]
TYPICAL = (
    27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000,
    0, 75, 362, 0, 313, 50, 30,
)  # fmt: skip


def exact(c: Words, raw_t: int, raw_p: int, raw_h: int) -> tuple[float, float, float]:
    """°C, Pa and % in double precision."""
    t1, t2, t3, p1, p2, p3, p4, p5, p6, p7, p8, p9, _, h1, h2, h3, h4, h5, h6 = map(float, c)
    x = raw_t / 131072 - t1 / 8192
    fine = x * 8 * t2 + x * x * t3
    v = fine / 2 - 64000
    offset = (v * v * p6 / 32768 + v * p5 * 2) / 4 + p4 * 65536
    sensitivity = (1 + (p3 * v * v / 524288 + p2 * v) / 524288 / 32768) * p1
    p = (1048576 - raw_p - offset / 4096) * 6250 / sensitivity
    p += (p9 * p * p / 2147483648 + p * p8 / 32768 + p7) / 16
    w = fine - 76800
    h = raw_h - (h4 * 64 + h5 / 16384 * w)
    h *= h2 / 65536 * (1 + h6 / 67108864 * w * (1 + h3 / 67108864 * w))
    h *= 1 - h1 * h / 524288
    return fine / 5120, p, min(max(h, 0), 100)


def solve(goal: float, of: Callable[[int], float], low: int, high: int) -> int:
    """The raw value at which the monotonic function `of` comes nearest to `goal`."""
    rising = of(high) > of(low)
    while high - low > 1:
        middle = (low + high) // 2
        if (of(middle) < goal) == rising:
            low = middle
        else:
            high = middle
    return low


def test_bme280_grid(run: Run) -> None:
    """The whole range of temperature and pressure, of a typical sensor and of forty others."""
    rng = random.Random(280)
    sensors = [TYPICAL] + [
        tuple(round(word * rng.uniform(0.9, 1.1)) for word in TYPICAL) for _ in range(40)
    ]
    lines, wanted = [], []
    for c in sensors:
        lines.append(" ".join(map(str, c)))
        for t in range(-40, 86, 25 if c is not TYPICAL else 5):
            raw_t = solve(
                t + rng.random() - 0.5, lambda raw, c=c: exact(c, raw, 0, 0)[0], 0, 1 << 20
            )
            for p in range(30_000, 110_001, 20_000 if c is not TYPICAL else 5_000):
                raw_p = solve(p, lambda raw, c=c, t=raw_t: exact(c, t, raw, 0)[1], 0, 1 << 20)
                raw_h = rng.randrange(15_000, 50_000)
                lines.append(f"{raw_t} {raw_p} {raw_h}")
                wanted.append(exact(c, raw_t, raw_p, raw_h))
    out = run("grid.py", "\n".join(lines) + "\n").splitlines()
    worst = [0.0, 0.0, 0.0]
    for line, (t, p, h) in zip(out, wanted, strict=False):
        fine, pa, rh = map(int, line.split())
        errors = (abs((fine * 5 + 128 >> 8) / 100 - t), abs(pa - p), abs(rh / 1024 - h))
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    memory = out[len(wanted)]
    print(f"{len(wanted)} points, worst: {worst[0]:.4f} C, {worst[1]:.2f} Pa, {worst[2]:.4f} %")
    print(f"heap for one compensation: {memory}")
    assert memory.startswith("bytes")
    assert worst[0] <= 0.011 and worst[1] <= 6 and worst[2] <= 0.05
    assert exact(TYPICAL, 519888, 415148, 0)[1] == pytest.approx(100653.27, abs=0.01)


# --- in a real app: boot stage, runtime, and the drivers an app imports

_REPORT = """
from machine import Pin


def setup(app):
    for driver in DRIVERS:
        app.driver(driver)
    app.every(500, lambda: report(app))


def report(app):
    if any(app.tallies[type(driver).__name__][0] < 7 for driver in DRIVERS):
        return
    for driver in DRIVERS:
        good, bad, _ = app.tallies[type(driver).__name__]
        print("driver", type(driver).__name__, good, bad)
    show()
    gc.collect()
    print("free", gc.mem_free())
    app.stop()
    print("stopped", [Pin(number).value() for number in (15, 5, 2)], "end")


runtime.run(setup)
"""
CLIMATE = """\
import gc
import struct
import _bus
import fakes
import runtime
from machine import ADC, Pin, SoftI2C
from drivers.analog import Analog
from drivers.bme280 import Bme280
from drivers.dht22 import Dht22
from drivers.ds18b20 import Ds18b20

_bus.dht[14] = b"\\x02\\x8c\\x01\\x5f\\xee"
rom = b"\\x28\\1\\0\\0\\0\\0\\0"
_bus.onewire[12] = fakes.Thermometers([rom + bytes((fakes.crc8(rom),))])
calibration = (
    struct.pack("<HhhHhhhhhhhhBB", 27504, 26435, -1000,
        36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000, 0, 75),
    b"j\\1\\0\\x13\\x29\\3\\x1e",  # H2 362, H3 0, H4 313, H5 50, H6 30
)
_bus.i2c[0x76] = fakes.Bme280(calibration=calibration)
DRIVERS = [
    Bme280(SoftI2C(scl=Pin(5), sda=Pin(4))), Dht22(14), Ds18b20(12), Analog(ADC(0), 0, 1.0)
]


def show():
    bme, dht, ds, analog = DRIVERS
    print("values", bme.temperature, bme.pressure, bme.humidity, dht.temperature, dht.humidity,
        ds.temperature, analog.value)
"""
SWITCHES = """\
import gc
import _bus
import runtime
from drivers.button import Button
from drivers.led import Led
from drivers.pir import Pir
from drivers.pwmled import PwmLed
from drivers.relay import Relay
from utilities.timer import Timer

relay = Relay(5)
timer = Timer(60_000)
timer.start()
lamp = PwmLed(15)
lamp.fade(255, 1000)
DRIVERS = [
    relay, lamp, Led(2, 0), Pir(14, warm_up=1), Button(0, lambda: relay.set(not relay.on))
]
_bus.drive(14, 1)


def show():
    print("values", relay.on, DRIVERS[3].motion, 0 < timer.left() < 60_000, timer.over())
"""
DISPLAYS = """\
import gc
import struct
import _bus
import fakes
import runtime
from machine import Pin, SoftI2C
from drivers.bmp180 import Bmp180
from drivers.pixels import Pixels
from drivers.ssd1306 import Ssd1306
from drivers.tm1637 import Tm1637

_bus.i2c[0x77] = fakes.Bmp180(calibration=struct.pack(
    ">hhhHHHhhhhh", 408, -72, -14383, 32741, 32757, 23153, 6190, 4, -32768, -8711, 2868
))
_bus.i2c[0x77].up = 23843 << 3
_bus.i2c[0x3C] = fakes.Oled()
chip = fakes.Digits(12, 13)
bus = SoftI2C(scl=Pin(5), sda=Pin(4))
oled = Ssd1306(bus)
oled.frame.text("hello", 0, 0)
digits = Tm1637(12, 13)
digits.show("12:34")
pixels = Pixels(2, 3)
pixels.strip[1] = (1, 2, 3)
DRIVERS = [Bmp180(bus), pixels, oled, digits]


def show():
    print("values", DRIVERS[0].temperature, DRIVERS[0].pressure, _bus.strips[2].hex(),
        sum(_bus.i2c[0x3C].pixels), chip.messages[-2].hex())
"""


@pytest.mark.parametrize("name", ("CLIMATE", "SWITCHES", "DISPLAYS"))
def test_in_an_app(tmp_path: Path, name: str) -> None:
    """Started, polled without a failure, and stopped; only what is imported is in the release."""
    source = globals()[name]
    folder = tmp_path / "app"
    (folder / "lib").mkdir(parents=True)
    (folder / "app.toml").write_text('name = "demo"\nmodules = ["_bus"]\n')
    (folder / "main.py").write_text(source + _REPORT)
    (folder / "config.py").write_text((APP / "config.py").read_text())
    (folder / "lib" / "fakes.py").write_text((SCRIPTS / "fakes.py").read_text())
    files = bundle.read(build.make(folder, fleet.CLASS, 1000, compile_all=True))[1]
    wanted = {word for word in source.split() if word.startswith(("drivers.", "utilities."))}
    carried = {file for file in files if file.startswith(("drivers/", "utilities/"))}
    assert carried == {word.replace(".", "/") + ".mpy" for word in wanted}

    made = fleet.release(files, 1000)
    options = {"speed": 10, "heap": 60_000}  # the fakes and several drivers lie on it at once
    with fleet.prepared(tmp_path / "board", fleet.identity(), made, **options) as board:
        life = board.life(timeout=60, until="] end")
        assert "] end" in life.console, life.console[-3000:]
    told = [line.split() for line in life.console.splitlines() if line.startswith("driver ")]
    assert len(told) >= 4
    for _, driver, good, bad in told:
        assert int(good) >= 1 and int(bad) == 0, (driver, life.console[-3000:])
    values = next(line for line in life.console.splitlines() if line.startswith("values"))
    assert values == VALUES[name]
    if name == "SWITCHES":
        assert "stopped [0, 0, 1] end" in life.console
    print(next(line for line in life.console.splitlines() if line.startswith("free")))


VALUES = {
    "CLIMATE": "values 25.08 1006.56 54.9970703125 35.1 65.2 25.0625 0.5000076295109483",
    "SWITCHES": "values False True True False",
    "DISPLAYS": "values 15.0 699.63 000000020103000000 2296 c006db4f66",
}


def test_sizes(run: Run) -> None:
    """What each driver adds to a release and takes of the heap, if an app imports it."""
    out = run("heap.py")
    lines = [line.split() for line in out.splitlines()]
    heap = {words[1]: words[2:] for words in lines if words[0] == "heap"}
    kept = int(lines[-2][1])
    print(f"{kept} bytes kept after 50 polls of each")
    assert kept < 600
    sizes = compiled("drivers", "utilities")
    assert len(heap) == len(compiled("drivers"))
    for name, data in sizes.items():
        module, at_work, *said = heap.get(Path(name).stem, ("-", "-"))
        sys.stdout.write(
            f"{name:20} {len(data):5} bytes of .mpy, heap {module:>5} + {at_work:>5} {said}\n"
        )
        assert len(data) <= (1400 if name.startswith("drivers/") else 1700)


def test_wires_of_a_virtual_board(tmp_path: Path) -> None:
    """What a test plugs in is what the chip's buses find; nothing is there otherwise."""
    main = """
import _bus
from machine import ADC, I2C, PWM, SPI, Pin

i2c = I2C(scl=Pin(5), sda=Pin(4))
print(i2c.scan(), SPI(1).read(2), ADC(0).read())
_bus.spi[1] = lambda out: bytes(255 - byte for byte in out)
_bus.analog[0] = 65535
into = bytearray(2)
SPI(1).write_readinto(b"\\x01\\x02", into)
print(into, SPI(1).read(1, 0x0F), ADC(0).read())
pwm = PWM(Pin(2), freq=1000, duty=1023)
print(pwm.duty(), pwm.duty_u16(), Pin(2).value())
try:
    pwm.freq(1001)
except ValueError as e:
    print(e)
"""
    with Board(tmp_path, blocks=BLOCKS) as board:
        board.format({"/main.py": main.encode()})
        assert board.life().console.splitlines() == [
            r"[] b'\xff\xff' 512",
            r"bytearray(b'\xfe\xfd') b'\xf0' 1023",
            "1023 65535 1",
            "frequency must be 1-1000",
        ]
