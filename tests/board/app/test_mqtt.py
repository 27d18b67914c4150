"""MQTT: a virtual board against a real Mosquitto, and against peers that only say they are one."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mipy_ota.ota_server.mqtt.settings import BrokerSettings
from mipy_ota.tools.fleet.serve import running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import ROOT, fleet
from tests.support.apps import story
from tests.support.broker import Broker, Client, Line, available, wait
from tests.support.soak import app, soak

pytestmark = pytest.mark.skipif(not available(), reason="needs Debian's mosquitto")
BASE = "mipy/b1/"
SPEED = 10
HEAD = """
import gc, time
import runtime
from runtime import log
from runtime.mqtt import Mqtt, matches

def setup(app):
    mqtt = Mqtt(app)
"""
TAIL = "\nruntime.run(setup)\n"
BEAT = """
    n = 0

    def beat():
        nonlocal n
        n += 1
        print("beat", n)

    app.every(1000, beat)
"""


@pytest.fixture
def brokers() -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def start(*args: Any) -> Broker:
        made.append(Broker(*args))
        return made[-1]

    yield start
    for broker in made:
        broker.close()


@pytest.fixture
def broker(tmp_path: Path, brokers: Callable[..., Broker]) -> Broker:
    return brokers(tmp_path / "broker")


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Callable[..., VirtualBoard]]:
    made: list[VirtualBoard] = []

    def start(port: int, body: str, config: str = "", **options: Any) -> VirtualBoard:
        files = app(port, HEAD + body + TAIL, more=config)
        files |= options.pop("files", {})
        options = {"speed": SPEED, **options}
        made.append(
            fleet.prepared(
                tmp_path / f"board{len(made)}",
                fleet.identity(),
                fleet.release(files, 1000),
                **options,
            )
        )
        made[-1].start()
        return made[-1]

    yield start
    for board in made:
        board.close()


UNITS = """
    for pattern, topic, good in (
        ("a/b", "a/b", 1), ("a/b", "a/c", 0), ("a/b", "a", 0), ("a", "a/b", 0), ("+", "a", 1),
        ("a/+", "a/", 1), ("a/+", "a", 0), ("+/+", "/a", 1), ("a/+/c", "a/b/c", 1), ("#", "a/b", 1),
        ("a/#", "a", 1), ("a/#", "a/b/c", 1), ("a/#", "b", 0), ("#", "$SYS/x", 0), ("a", "", 0),
        ("+/x", "$SYS/x", 0), ("$SYS/#", "$SYS/x", 1), ("A", "a", 0), ("+", "", 1),
    ):
        assert matches(pattern, topic) == good, (pattern, topic)
    small = Mqtt(app, room=64 * 4 + 4 * 20)
    app.jobs.pop()  # it is not to connect
    for i, qos in enumerate((1, 0, 1, 0)):
        small.publish("~/x", "%d" % i, qos=qos)
    said = lambda: [int(m[1]) for m in small.queue]
    small.publish("~/x", 4)
    assert said() == [0, 2, 3, 4] and small.dropped == 1, said()
    small.publish("~/x", 5, qos=1), small.publish("~/x", 6, qos=1), small.publish("~/x", 7, qos=1)
    assert said() == [2, 5, 6, 7] and small.dropped == 4, said()
    small._flying = 9  # on its way to the broker: the next one goes
    small.publish("~/x", 8, qos=1)
    assert said() == [2, 6, 7, 8] and small._flying == 9, said()
    try:
        small.publish("~/x", "x" * 300)
        assert False
    except ValueError:
        pass
    for call in (
        lambda topic, qos: small.publish(topic, "x", qos=qos),
        lambda topic, qos: small.on(topic, print, qos),
    ):
        for topic, qos in (("", 0), ("a+b", 0), ("a/b#", 1), ("#/b", 0), ("a/#/b", 0), ("a", 2)):
            try:
                call(topic, qos)
                assert False, topic
            except ValueError as e:
                assert str(e) in (topic, "mipy/b1" + topic[1:]), e
    small.buffer = memoryview(bytearray(64))
    small.on("~/" + "t" * 52, print)  # mipy/b1/ for ~/
    try:
        small.on("~/" + "t" * 53, print)
        assert False
    except ValueError as e:
        assert "60 bytes" in str(e), e
    small.queue.clear()
    mqtt.on("t" * 122, lambda topic, payload: mqtt.publish("~/long", payload))
    try:
        mqtt.on("t" * 123, print)
        assert False
    except ValueError:
        print("units good")
"""
TAKES = """
    mqtt.pid = 65533
    got = []

    def take(topic, payload):
        got.append((topic[8:], payload))
        mqtt.publish("~/got", "%s %d %d" % (topic, len(payload), mqtt.retained), qos=1)
        if payload == b"bad":
            raise ValueError("callback")

    mqtt.on("~/one", take)
    mqtt.on("other/+/x", take, 1)
    mqtt.on("deep/#", take, 1)
    for i in range(5):
        mqtt.publish("~/early", i, qos=1)
    mqtt.publish("~/ä", "ö")
"""


def test_filters_and_queue(
    broker: Broker, watcher: Client, boards: Callable[..., VirtualBoard]
) -> None:
    """What needs no broker; and the longest filter, which a real one takes."""
    board = boards(broker.port, UNITS, chip="esp32")
    assert wait(lambda: b"online" in watcher.payloads(BASE + "status")), board.console
    assert "units good" in board.console
    watcher.publish("t" * 122, "x")
    assert wait(lambda: watcher.payloads(BASE + "long") == [b"x"]), board.console
    board.stop()


def test_an_app_and_its_broker(
    broker: Broker, watcher: Client, boards: Callable[..., VirtualBoard]
) -> None:
    """On the ESP8266's heap: wildcards, ids that wrap, a message too long, the last will."""
    watcher.publish("deep/kept", "y", retain=True)
    watcher.publish("deep/" + "x" * 700, "y", 1, retain=True)
    watcher.publish("deep/" + "y" * 800, "y", retain=True)
    line = Line(broker.port)
    board = boards(line.port, TAKES)
    assert wait(lambda: (BASE + "got", b"deep/kept 1 1") in pairs(watcher)), board.console
    assert watcher.payloads(BASE + "early") == [b"0", b"1", b"2", b"3", b"4"]
    assert watcher.payloads(BASE + "ä") == ["ö".encode()]
    assert watcher.payloads(BASE + "status") == [b"online"]

    def answers(topic: str, payload: str, qos: int = 0) -> bool:
        watcher.publish(topic, payload, qos)
        wanted = f"{topic} {len(payload)} 0".encode()
        return wait(lambda: wanted in watcher.payloads(BASE + "got"))

    assert answers(BASE + "one", "a")
    assert answers("other/1/x", "a" * 400, 1)
    watcher.publish("deep/sea", "z" * 100_000, 1)
    assert answers("deep/1/2/3", "bad", 1)
    assert board.wait("100000 bytes for b'deep/sea' skipped") and "ValueError: callback" in (
        board.console
    )
    assert "failed, 1 in a row" in board.console, "counted like a job"
    for c in "xy":
        assert f"mqtt: 1 bytes for b'deep/{c * 505}' skipped" in board.console
    assert board.console.count("mqtt: connected") == 1
    line.cut()
    both = [b"online", b"offline", b"online"]
    assert wait(lambda: watcher.payloads(BASE + "status") == both), board.console
    assert answers("deep/1", "abc")
    board.stop()
    line.close()
    assert len(board.lives) == 1, board.lives


def pairs(watcher: Client) -> list[tuple[str, bytes]]:
    return [(topic, payload) for topic, payload, _ in watcher.messages]


def test_a_message_that_the_broker_hangs_up_on(
    tmp_path: Path, brokers: Callable[..., Broker], boards: Callable[..., VirtualBoard]
) -> None:
    """It is given up after eight connections; what waits behind it arrives."""
    broker = brokers(tmp_path / "strict", "allow_anonymous true\nmax_packet_size 200\n")
    seen = Client(broker.port)
    publishes = """
    mqtt.publish("~/big", "x" * 300, qos=1)
    mqtt.publish("~/after", "y", qos=1)
"""
    board = boards(broker.port, publishes)
    assert wait(lambda: seen.payloads(BASE + "after") == [b"y"]), board.console
    assert board.console.count("mqtt: connected") == 9
    assert "mqtt: b'mipy/b1/big' is refused" in board.console
    board.stop()
    seen.close()


def test_user_and_password(
    tmp_path: Path, brokers: Callable[..., Broker], boards: Callable[..., VirtualBoard]
) -> None:
    users = tmp_path / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", users, "b1", "pass word"], check=True)
    rules = (ROOT / "docs" / "mqtt.md").read_text().partition("```text\n")[2].partition("```")[0]
    (tmp_path / "rules").write_text(rules)
    broker = brokers(
        tmp_path / "broker",
        f"allow_anonymous false\npassword_file {users}\nacl_file {tmp_path}/rules\n",
    )
    user = "MQTT_USER = 'b1'\nMQTT_PASSWORD = "
    body = "    log.info('is it %s?', 'pass word')\n    app.after(5000, lambda: print('later'))\n"
    good = boards(broker.port, TOPICS + body, user + "'pass word'\n", chip="esp32")
    assert good.wait("mqtt: connected") and "is it ***?" in good.console
    assert good.wait("later")
    good.stop()
    assert "pass word" not in good.console
    log = tmp_path / "broker" / "log"
    assert "homeassistant/switch/b1" in log.read_text() and "Denied" not in log.read_text()
    foreign = boards(broker.port, "    mqtt.publish('mipy/b2/set', 1)\n", user + "'pass word'\n")
    assert wait(lambda: "Denied PUBLISH from b1" in log.read_text())
    foreign.stop()
    bad = boards(broker.port, BEAT, user + "'other word'\n")
    assert bad.wait("the broker refuses the board: 5"), bad.console
    assert "other word" not in bad.console
    bad.stop()


CONNACK = b"\x20\2\0\0"


class Impostor:
    """Accepts connections, and does to each in turn what `acts` say; keeps what it received."""

    def __init__(self, *acts: Callable[[socket.socket], None]) -> None:
        self.acts, self.done, self.received = acts, 0, b""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                peer.settimeout(20)
                self._held.append(peer)
                act = self.acts[min(self.done, len(self.acts) - 1)]
                with contextlib.suppress(OSError):
                    act(peer)
                self.done += 1

    def close(self) -> None:
        self._server.close()
        for peer in self._held:
            peer.close()


def says(data: bytes, then_close: bool = True) -> Callable[[socket.socket], None]:
    def act(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(data)
        if then_close:
            peer.close()

    return act


def floods(data: bytes) -> Callable[[socket.socket], None]:
    """Sends it again and again, as long as the board takes it, at most 3 MB."""

    def act(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(CONNACK)
        for _ in range(3_000_000 // len(data)):
            peer.sendall(data)
        peer.close()

    return act


def publish(topic: bytes, size: int, claimed: int | None = None) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + b"x" * size
    n = claimed or len(body)
    return bytes([0x30, n & 127 | 128, n >> 7 & 127 | 128, n >> 14]) + body


def test_impostors(boards: Callable[..., VirtualBoard]) -> None:
    """Each costs the board a connection, none a beat, let alone a life."""
    ends: list[Callable[[socket.socket], None]] = [
        says(b"\x20\2\0\4"),
        says(b""),
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        says(CONNACK + b"\x32"),
        says(CONNACK + bytes(range(256)) * 40),
        says(CONNACK + b"\xff" * 1000),
        says(CONNACK + b"\x30\xff\xff\xff\xff\xff\xff"),
        says(CONNACK + b"\x30\5\xff\xffabc"),
        says(CONNACK + b"\x30\5\0\2\xff\xfex"),
        says(CONNACK + b"\x36\7\0\1a\0\1bc"),
        says(CONNACK + b"\x40\2\0\7\x40\0\x90\1\0"),
        says(CONNACK + publish(b"a", 10, 200_000)),
        floods(publish(b"a", 100)),
    ]
    peer = Impostor(*ends)
    board = boards(peer.port, BEAT + "    mqtt.on('#', lambda t, p: None)\n", speed=40)
    assert wait(lambda: peer.done >= len(ends)), board.console
    beats = int(re.findall(r"beat (\d+)", board.console)[-1])
    assert board.wait(f"beat {beats + 3}\n") and board.running
    board.stop()
    peer.close()
    assert len(board.lives) == 1 and "MemoryError" not in board.console, board.console
    assert "the broker refuses the board: 4" in board.console


TURNS = """
    import asyncio
    reads = most = 0
    read = Mqtt._read

    def counted(*args):
        nonlocal reads, most
        reads += 1
        most = max(most, reads)
        return read(*args)

    async def turns():
        nonlocal reads
        while True:
            reads = 0
            await asyncio.sleep_ms(0)

    Mqtt._read = counted
    app.once(turns)
    app.every(1000, lambda: print("most", most))
"""


def test_a_message_without_end(boards: Callable[..., VirtualBoard]) -> None:
    """2.2 MB as fast as the board takes them: the loop has a turn after every few bytes."""
    size = 2_200_000
    body = b"\0\1a" + bytes(size)
    head = bytes([0x30, *(len(body) >> 7 * i & 127 | 128 for i in range(3)), len(body) >> 21])
    peer = Impostor(says(CONNACK + head + body, then_close=False))
    board = boards(peer.port, TURNS, speed=1)
    assert board.wait(f"{size} bytes for b'a' skipped"), board.console
    seen = len(board.console)
    assert board.wait(lambda b: "most" in b.console[seen:])
    most = int(re.findall(r"most (\d+)", board.console)[-1])
    board.stop()
    peer.close()
    print(f"at most {most} reads between two turns of the loop")
    assert 2 <= most < 50 and len(board.lives) == 1, board.console


DEAF = """
    class Deaf:
        def __init__(self, s):
            self.readinto = s.readinto
            self.close = s.close

        def write(self, data):
            return None

    longest = 0

    def look():
        nonlocal longest
        if mqtt.sock:
            longest = max(longest, mqtt.sock.size)
        print("longest", longest)

    def deafen():
        mqtt.sock.s = Deaf(mqtt.sock.s)

    mqtt.when_up(deafen, "deafen")
    app.every(1000, look)
"""


def test_a_peer_that_takes_nothing(boards: Callable[..., VirtualBoard]) -> None:
    """What is to be acknowledged to it does not gather on the heap; it is left after a minute."""
    message = b"\x32\6\0\1a\0\1x"
    peer = Impostor(says(CONNACK + message * 5000, then_close=False))
    board = boards(peer.port, DEAF, speed=40)
    assert board.wait("ETIMEDOUT"), board.console
    board.stop()
    peer.close()
    longest = max(int(n) for n in re.findall(r"longest (\d+)", board.console))
    assert 500 < longest < 700, board.console


SHORT = """
    from runtime.homeassistant import HomeAssistant

    ha = HomeAssistant(app, mqtt)
    for i in range(40):  # it is still at it when the board is connected again
        ha.sensor("s%d" % i, "S")
    say = mqtt.say
    fell = []

    def fall_short(method, *args):
        if not fell and args and bytes(args[0]).startswith(b"homeassistant/sensor"):
            fell.append(1)
            raise MemoryError
        say(method, *args)

    mqtt.say = fall_short
"""


def test_what_home_assistant_missed_is_told_again(
    broker: Broker, watcher: Client, boards: Callable[..., VirtualBoard]
) -> None:
    """Where no heap was left for a message the queue is emptied: nobody else sends it again."""
    board = boards(broker.port, SHORT, chip="esp32")
    wanted = {f"homeassistant/sensor/b1/s{i}/config" for i in range(40)}
    assert wait(lambda: wanted <= watcher.topics), board.console
    assert "mqtt failed, 1 in a row" in board.console
    board.stop()


def test_who_blocks_is_named(
    broker: Broker, watcher: Client, boards: Callable[..., VirtualBoard]
) -> None:
    body = """
    mqtt.on("~/slow", lambda topic, payload: time.sleep_ms(2000))
    mqtt.when_up(lambda: time.sleep_ms(2100), "greeting")
"""
    board = boards(broker.port, body, speed=1)
    assert board.wait("greeting blocked the loop for 21"), board.console
    # Retained, for the greeting comes before the subscription is on the wire.
    watcher.publish(BASE + "slow", "x", retain=True)
    assert board.wait("mipy/b1/slow blocked the loop for 20"), board.console
    board.stop()
    others = re.findall(r"unnamed task blocked the loop for (\d+)", board.console)
    assert not [ms for ms in others if int(ms) >= 2000], board.console


def test_pings_and_silence(boards: Callable[..., VirtualBoard]) -> None:
    """Pings go out, a broker that answers them is kept, one that does not is left."""
    seen: list[str] = []

    def answers(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(CONNACK)
        pings = 0
        while data := peer.recv(4096):
            pings += data.count(b"\xc0\0")
            if b"\xc0\0" in data and pings <= 3:
                peer.sendall(b"\xd0\0")
        seen.append(f"left after {pings} pings")

    def dumb(peer: socket.socket) -> None:
        while peer.recv(4096):
            pass
        seen.append("left without a word")

    peer = Impostor(answers, dumb)
    board = boards(peer.port, BEAT, speed=40)
    assert wait(lambda: len(seen) >= 2), (seen, board.console)
    board.stop()
    peer.close()
    # Answered at 30, 60 and 90 s, not at 120: given up a minute after the last answer.
    assert re.fullmatch("left after [45] pings", seen[0]) and seen[1] == "left without a word"


def certificate(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    return key, made


def test_tls(
    tmp_path: Path, brokers: Callable[..., Broker], boards: Callable[..., VirtualBoard]
) -> None:
    """An ESP32 takes the broker of the right authority and no other; an ESP8266 says why not."""
    key, right = certificate("127.0.0.1")
    pem = serialization.Encoding.PEM
    (tmp_path / "cert").write_bytes(right.public_bytes(pem))
    (tmp_path / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    broker = brokers(
        tmp_path / "broker",
        f"certfile {tmp_path}/cert\nkeyfile {tmp_path}/key\nallow_anonymous true\n",
    )
    der = serialization.Encoding.DER
    config = "MQTT_TLS = True\nMQTT_CA = 'ca.der'\n"
    for authority, wanted in ((right, "mqtt: connected"), (certificate("x")[1], "mqtt failed, 2")):
        files = {"ca.der": authority.public_bytes(der)}
        board = boards(broker.port, BEAT, config, chip="esp32", files=files)
        assert board.wait(wanted), board.console
        board.stop()
    assert "mqtt: connected" not in board.console
    board = boards(broker.port, BEAT, config)
    assert board.wait("TLS to the broker needs an ESP32"), board.console
    board.stop()


def test_two_clients_of_one_name(broker: Broker, boards: Callable[..., VirtualBoard]) -> None:
    """Each takes the other's connection over; the log asks whether that is so."""
    board = boards(broker.port, BEAT)
    assert board.wait("mqtt: connected"), board.console
    assert "another client" not in board.console
    for n in range(1, 5):
        assert wait(lambda n=n: board.console.count("mqtt: connected") >= n), board.console
        other = Client(broker.port, "b1")
        other.close()
    assert board.wait("mqtt: is another client called b1?"), board.console
    board.stop()


TOPICS = """
    from runtime.mqtt_topics import Topics
    from runtime.homeassistant import HomeAssistant

    Topics(app, mqtt)
    ha = HomeAssistant(app, mqtt)
    ha.sensor("temperature", "Temperature", unit_of_meas="°C", dev_cla="temperature")
    ha.sensor("pm2.5", "Fine dust")
    ha.sensor("größe", 'a "size"')
    for key in ("temperature", "", "a+b", "a#"):
        ha.sensor(key, "again")
    mqtt.publish("~/temperature", float("nan"), True)
    mqtt.publish("~/pm2.5", -float("inf"), True)
    mqtt.publish("~/größe", 1.5, True)
    ha.switch("relay", "Relay", lambda on: mqtt.publish("~/relay", "ON" if on else "OFF", True))
    app.updater.left = 3000
    app.every(1000, lambda: print("poll in", app.updater.left))
    app.after(3000, lambda: log.warning("the tank is %s", "empty"))
"""


def test_topics_and_home_assistant(
    broker: Broker, watcher: Client, boards: Callable[..., VirtualBoard]
) -> None:
    """On an ESP32: an ESP8266 holds one of the two beside MQTT (docs/mqtt.md)."""
    watcher.publish(BASE + "command", "reset", retain=True)  # must not be obeyed at each start
    board = boards(broker.port, TOPICS, chip="esp32")
    assert wait(lambda: "homeassistant/switch/b1/relay/config" in watcher.topics), board.console
    found = {
        topic: json.loads(payload)
        for topic, payload in pairs(watcher)
        if topic.startswith("homeassistant/")
    }
    sensor = found["homeassistant/sensor/b1/temperature/config"]
    switch = found["homeassistant/switch/b1/relay/config"]
    device = {"ids": "b1", "name": "kitchen", "mf": "MiPy-OTA", "mdl": "esp32", "sw": "1000"}
    assert sensor == {
        "~": "mipy/b1",
        "name": "Temperature",
        "uniq_id": "b1_temperature",
        "stat_t": "~/temperature",
        "avty_t": "~/status",
        "dev": device,
        "o": {"name": "MiPy-OTA"},
        "unit_of_meas": "°C",
        "dev_cla": "temperature",
    }
    dust = found["homeassistant/sensor/b1/pm2_2e5/config"]
    assert (dust["uniq_id"], dust["stat_t"]) == ("b1_pm2_2e5", "~/pm2.5")
    size = found["homeassistant/sensor/b1/gr_f6_dfe/config"]
    assert (size["name"], size["stat_t"]) == ('a "size"', "~/größe")
    assert all(re.fullmatch(r"homeassistant(/[a-zA-Z0-9_-]+){3}/config", topic) for topic in found)
    assert board.wait(lambda b: b.console.count(" twice, or no topic") >= 4), board.console
    for key, text in (("temperature", b"None"), ("pm2.5", b"None"), ("größe", b"1.5")):
        assert watcher.payloads(BASE + key) == [text]
    assert (switch["dev"], switch["cmd_t"], switch["stat_t"]) == (device, "~/relay/set", "~/relay")
    watcher.publish(BASE + "relay/set", "ON", 1)
    assert wait(lambda: watcher.payloads(BASE + "relay") == [b"ON"])

    metrics = json.loads(watcher.payloads(BASE + "metrics")[0])
    assert metrics.keys() == {"heap", "rssi", "up", "seq", "trial", "cause", "dropped"}
    assert (metrics["seq"], metrics["rssi"], metrics["trial"]) == (1000, -55, 0)
    assert wait(lambda: any(b"the tank is empty" in t for t in watcher.payloads(BASE + "log")))

    before = len(watcher.messages)
    watcher.publish("homeassistant/status", "online")
    assert wait(lambda: "homeassistant/switch/b1/relay/config" in {
        topic for topic, _, _ in watcher.messages[before:]
    })  # fmt: skip
    assert board.wait("poll in 3000")
    watcher.publish("mipy/all/update", "")
    assert wait(lambda: int(re.findall(r"poll in (\d+)", board.console)[-1]) <= 11)
    watcher.publish(BASE + "command", "reset")
    assert wait(lambda: len(board.lives) == 1), board.console
    assert wait(lambda: b"offline" in watcher.payloads(BASE + "status")), board.console
    assert wait(lambda: watcher.payloads(BASE + "status")[-1] == b"online")
    board.stop()


IN_A_TRIAL = """
    import ota
    from runtime.mqtt_topics import Topics

    Topics(app, mqtt)
    proven = []
    mqtt.on("~/prove", lambda topic, payload: proven.append(payload), 1)
    app.check(lambda: proven)
    mqtt.when_up(lambda: print("up in a trial", int(ota.trial)), "tell")
"""


def test_a_reset_that_a_person_orders_is_no_fault_of_a_trial(
    broker: Broker, watcher: Client, tmp_path: Path
) -> None:
    """More of them than it has tries."""
    where = {"cls": "esp32-generic", "chip": "esp32", "speed": SPEED, "clock": "wall"}
    with story(tmp_path, **where) as it:
        digest = it.publish(app(broker.port, HEAD + IN_A_TRIAL + TAIL))
        it.board.start()
        for count in range(1, 6):
            assert wait(lambda n=count: it.board.console.count("up in a trial 1") == n), (
                it.board.console
            )
            watcher.publish(BASE + "command", "reset", 1)
        assert wait(lambda: it.board.console.count("up in a trial 1") == 6), it.board.console
        watcher.publish(BASE + "prove", "x", 1)
        it.confirmed(digest)
        assert not it.record()["rejected"]


def test_a_nudge_brings_a_release_in_seconds(tmp_path: Path, broker: Broker) -> None:
    """By the server, to a board that would else ask in an hour: five minutes of this computer."""
    topics = HEAD + "    from runtime.mqtt_topics import Topics\n    Topics(app, mqtt)\n" + TAIL
    settings = BrokerSettings(host="127.0.0.1", port=broker.port)
    with running(tmp_path / "server", interval=3600, broker=settings) as server:
        known = fleet.Fleet(server)
        where = {"chip": "esp32", "speed": SPEED}
        first = fleet.release(app(broker.port, topics), 1000)
        with known.board(tmp_path / "board", first, **where) as board:
            watcher = Client(broker.port)
            board.start()
            # It is told the time at its second poll, and asks again in an hour.
            assert wait(lambda: known.get("/api/boards/b1")["state"] == "ok"), board.console
            assert wait(lambda: watcher.payloads(BASE + "status") == [b"online"]), board.console
            digest = known.publish(fleet.release(app(broker.port, topics), 1001))
            assert wait(lambda: known.get("/api/boards/b1")["confirmed"] == digest[:32], 120), (
                board.console
            )
            assert watcher.payloads(BASE + "update") == [b""]

            def shown() -> bool:
                state = json.loads(watcher.payloads(BASE + "ota")[-1])
                return (state["installed_version"], state["in_progress"]) == ("1001", False)

            assert wait(shown), watcher.payloads(BASE + "ota")
            watcher.close()


FULL = """
import gc
import config, runtime

def setup(app):
    from drivers.button import Button
    from drivers.relay import Relay
    from runtime.mqtt import Mqtt

    relay = Relay(config.RELAY_PIN)
    mqtt = Mqtt(app, most=64)

    def switch(on):
        relay.set(on)
        mqtt.publish("~/relay", "ON" if on else "OFF", True, 1)

    app.driver(relay)
    app.driver(Button(0, lambda: switch(not relay.on)))
    mqtt.on("~/relay/set", lambda topic, payload: switch(payload == b"ON"), 1)
    mqtt.when_up(lambda: switch(relay.on), "tell")

    lowest = 1 << 20

    def free():
        nonlocal lowest
        if app.updater.busy:
            gc.collect()
            if gc.mem_free() < lowest:
                lowest = gc.mem_free()
        elif app.updater.answered and mqtt.up:
            gc.collect()
            print("free", gc.mem_free(), lowest)

    app.every(50, free)

runtime.run(setup)
"""


def test_heap_of_a_whole_app(tmp_path: Path, broker: Broker, watcher: Client) -> None:
    """Wi-Fi, MQTT, updater, log, relay and button on an ESP8266: what is left, and polls."""
    files = app(broker.port, FULL, more="RELAY_PIN = 14\n")
    with running(tmp_path / "server", interval=2) as server:
        board = fleet.Fleet(server).board(
            tmp_path / "board", fleet.release(files, 1000), clock="wall"
        )
        board.start()
        polls = re.compile(r"^free (\d+) (\d+)$", re.M)
        good = board.wait(lambda b: len(polls.findall(b.console)) > 400, 240)
        console = board.console
        board.close()
    assert good, console
    # Where the broker is slow to acknowledge, a poll may find no heap; the next one does.
    assert console.count("MemoryError") <= 3, console
    assert watcher.payloads(BASE + "relay") == [b"OFF"], console
    free, lowest = polls.findall(console)[-1]
    print(f"free with Wi-Fi, MQTT, updater, log, relay and button: {free}")
    print(f"in the midst of a poll: {lowest}")
    assert int(free) >= 5500 and 0 < int(lowest) < int(free)


def test_soak(tmp_path: Path) -> None:
    """A sample; the whole is `make soak`."""
    print(soak(tmp_path, 12, seed=2))
