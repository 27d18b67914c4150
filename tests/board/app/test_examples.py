"""The examples as a person gets them: by `mipy new --example`, built, on a board with its heap."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
import requests

from mipy_ota.signing import bundle
from mipy_ota.tools.app import build, new
from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import ROOT, fleet
from tests.support.apps import Story, story
from tests.support.broker import Broker, Client, available, wait

mqtt = pytest.mark.skipif(not available(), reason="needs Debian's mosquitto")
NAMES = ("blink_dht", "deep_sleep_sensor", "relay", "weather")
DHT = "import _bus\n_bus.dht[14] = b'\\x02\\x8c\\x01\\x5f\\xee'\n"
# A BME280 that has measured by the time it is asked: its registers, and no device behind them. It
# lies on the board's heap as the real one does not, in STAND_IN bytes.
BME = """\
import struct
import _bus
class Registers:
    def __init__(self):
        self.index = 0
        self.values = bytearray(256)
        self.values[0x88:0xA2] = struct.pack("<HhhHhhhhhhhhBB", 27504, 26435, -1000,
            36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000, 0, 75)
        self.values[0xD0] = 0x60
        self.values[0xE1:0xE8] = b"j\\1\\0\\x13\\x29\\3\\x1e"
        self.values[0xF4] = 0x24  # it sleeps again
        self.values[0xF7:0xFF] = b"\\x65\\x5a\\xc0\\x7e\\xed\\x00\\x75\\x30"
    def write(self, data):
        self.index = data[0]
    def read(self, count):
        self.index += count
        return bytes(self.values[self.index - count : self.index])
_bus.i2c[0x76] = Registers()
"""
HEAP, STAND_IN = 38_912, 528
# What is free after a collection, told each second, in the board's main.py.
FREE = """\
def setup(app):
    def tell():
        import gc
        gc.collect()
        print("free", gc.mem_free(), "end")

    app.every(1000, tell, "tell")
"""
DOCS = ROOT / "docs"
RELAY, BUTTON, LED = 14, 0, 2


def files(folder: Path, name: str, port: int, plugs: str = "", **values: int) -> dict[str, bytes]:
    """A release of the example; its broker at `port`, its sensor's stand-in as `plugs` has it."""
    app = folder / "app"
    new.make(app, name)
    text = (app / "config.py").read_text()
    text = text.replace('MQTT_HOST = ""', 'MQTT_HOST = "127.0.0.1"')
    for key, value in {"MQTT_PORT": port, **values}.items():
        text, count = re.subn(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.MULTILINE)
        assert count == 1, key
    (app / "config.py").write_text(text)
    main = (app / "main.py").read_text()
    (app / "main.py").write_text(plugs + main.replace("def setup(app):\n", FREE, 1))
    with (app / "app.toml").open("a") as facts:
        facts.write('modules = ["_bus"]\n')  # the virtual board's
    return bundle.read(build.make(app, fleet.CLASS, 1))[1]


def free(board: VirtualBoard) -> int:
    """Bytes free on the heap, at the next look; the most of the last five, since a poll takes."""
    seen = len(board.console)
    assert board.wait(lambda b: b.console[seen:].count(" end") >= 5), board.console[-2000:]
    figure = max(int(n) for n in re.findall(r"free (\d+) end", board.console[seen:]))
    print(f"{figure} bytes free")
    return figure


def started(it: Story, text: str = "mqtt: connected") -> VirtualBoard:
    it.board.start()
    it.says(text)
    return it.board


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cls", ("esp8266-generic", "esp32-generic"))
def test_builds(tmp_path: Path, name: str, cls: str) -> None:
    """Without a change, and without a warning about config.py."""
    assert set(new.examples()) == set(NAMES)
    new.make(tmp_path / "my-app", name)
    built = build.assemble(tmp_path / "my-app", cls, 1)
    assert built.manifest.app == "my-app"
    assert not [warning for warning in built.warnings if "config" in warning]
    text = (tmp_path / "my-app" / "config.py").read_text()
    assert '\nNAME = "my-app"\n' in text


@mqtt
def test_the_port_of_mipy_esp(tmp_path: Path, broker: Broker, watcher: Client) -> None:
    """docs/from-mipy-esp.md, word for word."""
    text = (DOCS / "from-mipy-esp.md").read_text().partition("## The relay app, ported")[2]
    config, main = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    app = tmp_path / "relay-1"
    new.make(app)
    subprocess.run(["sh", "-ec", config], cwd=app, check=True)
    (app / "main.py").write_text(main)
    built = build.assemble(app, "esp8266-generic", 1)
    assert built.manifest.app == "relay-1" and not built.warnings, built.warnings
    declared = (app / "config.py").read_text()
    assert 'NAME = "Relay-1"' in declared
    here = f'MQTT_HOST = "127.0.0.1"\nMQTT_PORT = {broker.port}  #: 0..65535'
    (app / "config.py").write_text(declared.replace('MQTT_HOST = "192.168.1.5"', here))
    made = bundle.read(build.make(app, fleet.CLASS, 1))[1]
    with story(tmp_path, made, speed=2) as it:
        board = started(it)
        # Retained: the board subscribes after it has connected.
        watcher.publish("switches/relay-1/state/read", "ON", retain=True)
        assert relay(board, 1), board.console
        assert wait(lambda: b"alive" in watcher.payloads("/esp8266/Relay-1/heartbeat"))


@mqtt
@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
def test_blink_dht(tmp_path: Path, broker: Broker, watcher: Client, chip: Chip) -> None:
    """Home Assistant is told of both sensors, and a release comes, polled for and tried."""
    made = files(tmp_path, "blink_dht", broker.port, DHT, EVERY=2)
    with story(tmp_path, made, speed=2, chip=chip) as it:
        board = started(it)
        assert wait(lambda: watcher.payloads("mipy/b1/humidity")), board.console
        assert watcher.payloads("mipy/b1/temperature")[0] == b"35.1"
        assert watcher.payloads("mipy/b1/humidity")[0] == b"65.2"
        home = {f"homeassistant/sensor/b1/{key}/config" for key in ("temperature", "humidity")}
        assert wait(lambda: home <= watcher.topics), board.console
        seen = set()
        blinks = board.wait(lambda b: bool(seen.add(b.level(LED)) or seen >= {0, 1}), step=0.02)
        assert blinks, "no blinking"
        it.until(lambda r: r["state"] == "ok")
        assert free(board) >= 4_000
        it.confirmed(it.publish(made | {"note.txt": b"new"}))
        no_heap(board.console)


def no_heap(console: str) -> None:
    """Say how often a poll, or what else has to be loaded, found no room.

    It is tight on an ESP8266, most of all while the broker is slow to acknowledge; the next attempt
    comes seconds later, and a release got through all the same.
    """
    print(f"{console.count('MemoryError')} times no room")


BESIDE = {
    "topics": "    from runtime.mqtt_topics import Topics\n    Topics(app, mqtt)\n",
    "relay": """\
    from runtime.homeassistant import HomeAssistant
    home = HomeAssistant(app, mqtt)
    home.sensor("temperature", "Temperature", unit_of_meas="°C", dev_cla="temperature")
    home.switch("relay", "Relay", lambda on: mqtt.publish("~/relay", "ON" if on else "OFF", True))
""",
}


@mqtt
@pytest.mark.parametrize("part", BESIDE)
def test_beside_a_sensor(tmp_path: Path, broker: Broker, watcher: Client, part: str) -> None:
    """blink_dht's sensor on an ESP8266, with the board's topics or a relay in Home Assistant.

    It is tight there: a poll or a connection may find no room at first, and comes with the next.
    """
    made = files(tmp_path, "blink_dht", broker.port, DHT, EVERY=2)
    main = tmp_path / "app" / "main.py"
    lines = main.read_text().splitlines(True)
    lines = [line for line in lines if not re.search("home|led", line.lower())]
    at = next(i for i, line in enumerate(lines) if "mqtt = Mqtt(" in line) + 1
    main.write_text("".join(lines[:at]) + BESIDE[part] + "".join(lines[at:]))
    made = bundle.read(build.make(tmp_path / "app", fleet.CLASS, 1))[1]
    with story(tmp_path, made, speed=4) as it:
        board = started(it)
        it.until(lambda r: r["state"] == "ok")
        assert wait(lambda: watcher.payloads("mipy/b1/temperature")), board.console
        if part == "topics":
            assert wait(lambda: b'"trial": 0' in b"".join(watcher.payloads("mipy/b1/metrics")))
            metrics = len(watcher.payloads("mipy/b1/metrics"))
            watcher.publish("mipy/b1/command", "metrics", 1)
            assert wait(lambda: len(watcher.payloads("mipy/b1/metrics")) > metrics), board.console
        else:
            assert wait(lambda: "homeassistant/switch/b1/relay/config" in watcher.topics)
            watcher.publish("mipy/b1/relay/set", "ON", 1)
            assert wait(lambda: watcher.payloads("mipy/b1/relay") == [b"ON"]), board.console
        assert free(board) >= 4_000
        it.confirmed(it.publish(made | {"note.txt": b"new"}))


@mqtt
@pytest.mark.timeout(1200)  # where a poll finds no room, some more have their turn
def test_weather(tmp_path: Path, broker: Broker, watcher: Client) -> None:
    """A BME280, reduced to sea level, on an ESP8266, which takes a new release."""
    made = files(tmp_path, "weather", broker.port, BME, EVERY=10, ALTITUDE=100)
    with story(tmp_path, made, speed=2, heap=HEAP + STAND_IN) as it:
        board = started(it)
        assert wait(lambda: watcher.payloads("mipy/b1/pressure")), board.console
        assert watcher.payloads("mipy/b1/temperature")[0] == b"25.1"
        assert watcher.payloads("mipy/b1/humidity")[0] == b"55"
        # 1006.56 hPa at 100 m, by the standard atmosphere.
        assert watcher.payloads("mipy/b1/pressure")[0] == b"1018.6"
        topic = "homeassistant/sensor/b1/pressure/config"
        assert wait(lambda: topic in watcher.topics), board.console
        it.until(lambda r: r["state"] == "ok")
        assert free(board) >= 4_000
        it.confirmed(it.publish(made | {"note.txt": b"new"}))


def page(board: VirtualBoard, path: str = "/") -> requests.Response:
    return requests.get(f"http://{board.address}:8080{path}", timeout=30)


def relay(board: VirtualBoard, level: int, seconds: float = 60) -> bool:
    return board.wait(lambda b: b.level(RELAY) == level, seconds)


def shown(board: VirtualBoard) -> str:
    """Switch it on by its page; the script of the page."""
    token = re.search("name=t value=([0-9a-f]{16})>", page(board).text)
    assert token, board.console[-2000:]
    url = f"http://{board.address}:8080/relay"
    form = {"t": token[1], "to": "on"}
    assert requests.post(url, form, timeout=30, allow_redirects=False).status_code == 303
    assert relay(board, 1) and page(board, "/values.json").json()["relay"] == "on"
    return page(board, "/live.js").text


def press(board: VirtualBoard) -> None:
    board.drive(BUTTON, 0)
    time.sleep(0.3)
    board.drive(BUTTON, None)


@mqtt
def test_relay(tmp_path: Path, broker: Broker, watcher: Client) -> None:
    """MQTT, button and page switch it; it stands after a reset and an update as before."""
    made = files(tmp_path, "relay", broker.port)
    topic = "mipy/b1/relay"

    def told(state: bytes) -> bool:
        return wait(lambda: watcher.payloads(topic)[-1:] == [state])

    # An ESP8266 has the room for MQTT or for the page.
    with story(tmp_path, made, chip="esp32", speed=2) as it:
        board = started(it)
        assert told(b"OFF"), board.console
        watcher.publish(topic + "/set", "ON", qos=1)
        assert relay(board, 1) and told(b"ON"), board.console
        press(board)
        assert relay(board, 0) and told(b"OFF"), board.console
        assert "/values.json" in shown(board)
        assert relay(board, 1) and told(b"ON"), board.console
        watcher.publish(topic + "/set", "DANCE")
        it.says("ValueError: on or off")
        it.until(lambda r: r["state"] == "ok")
        assert free(board) >= 60_000

        board.power_cut()
        assert relay(board, 1), board.console
        it.confirmed(it.publish(made | {"www/live.js": b"// new\n"}))
        assert relay(board, 1) and told(b"ON")
        assert page(board, "/live.js").text == "// new\n"


def test_relay_without_broker(tmp_path: Path) -> None:
    """Page and button on an ESP8266."""
    made = files(tmp_path, "relay", 0)
    made["config.py"] = made["config.py"].replace(b'MQTT_HOST = "127.0.0.1"', b'MQTT_HOST = ""')
    with story(tmp_path, made, speed=2) as it:
        board = started(it, "wifi: 127")
        it.until(lambda r: r["state"] == "ok")
        assert "/values.json" in shown(board)
        press(board)
        assert relay(board, 0) and '"off"' in page(board, "/values.json").text
        assert free(board) >= 8_500
        it.confirmed(it.publish(made | {"www/live.js": b"// new\n"}))
        assert page(board, "/live.js").text == "// new\n"


@mqtt
def test_relay_by_mqtt(tmp_path: Path, broker: Broker, watcher: Client) -> None:
    """MQTT and button on an ESP8266, by itself without the page: there is room for a release."""
    made = files(tmp_path, "relay", broker.port)
    with story(tmp_path, made, speed=2) as it:
        board = started(it)
        assert "no page: beside MQTT" in board.console
        it.until(lambda r: r["state"] == "ok")
        watcher.publish("mipy/b1/relay/set", "ON", qos=1)
        assert relay(board, 1), board.console
        press(board)
        assert relay(board, 0), board.console
        assert free(board) >= 4_000
        it.polls(6)
        it.confirmed(it.publish(made | {"note.txt": b"new"}))

        # Where the heap is full, the next life confirms, and starts anew: what came then is lost.
        for _ in range(60):
            watcher.publish("mipy/b1/relay/set", "ON", qos=1)
            if relay(board, 1, seconds=1):
                break
        else:
            pytest.fail(board.console)
        no_heap(board.console)


@mqtt
@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
def test_deep_sleep_sensor(tmp_path: Path, broker: Broker, watcher: Client, chip: Chip) -> None:
    """Wakes, publishes, sleeps; a new release is confirmed before its first sleep."""
    made = files(tmp_path, "deep_sleep_sensor", broker.port, DHT, SLEEP=20)
    slept = "sleeping for 20 s"
    with story(tmp_path, made, chip=chip, speed=2) as it:
        board = it.board
        life = board.life(timeout=60)
        assert life.cause == "deepsleep" and slept in life.console, life
        print(re.findall(r"free (\d+) end", life.console), "bytes free")
        assert watcher.payloads("mipy/b1/temperature") == [b"35.1"]
        digest = it.publish(made | {"note.txt": b"new"})
        for _ in range(6):
            life = board.life(timeout=120)
            assert life.cause in ("deepsleep", "reset"), life
            if it.record()["digest"] == digest:
                break
        if life.cause == "reset":  # no room for it here: the next boot confirms, and resets
            board.life(timeout=60)
            life = board.life(timeout=60)
        assert life.cause == "deepsleep" and slept in life.console
        board.life(timeout=60)
        record = it.record()
        assert (record["digest"], record["state"], record["rejected"]) == (digest, "ok", [])
        assert len(watcher.payloads("mipy/b1/temperature")) >= 3


@mqtt
@pytest.mark.parametrize("dead", ("sensor", "broker", "server"))
def test_deep_sleep_in_any_case(tmp_path: Path, broker: Broker, dead: str) -> None:
    """A battery outlives its sensor, its broker and its server."""
    plugs = "" if dead == "sensor" else DHT
    port = 1 if dead == "broker" else broker.port
    made = files(tmp_path, "deep_sleep_sensor", port, plugs, AWAKE=10)
    through = (lambda url: "http://127.0.0.1:1") if dead == "server" else (lambda url: url)
    with story(tmp_path, made, speed=5, through=through) as it:
        life = it.board.life(timeout=60)
        assert life.cause == "deepsleep", life
