"""The server's side of MQTT, against a real Mosquitto: nudges, and Home Assistant's entities."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.ota_server import policy
from mipy_ota.ota_server.mqtt import broker as server_mqtt
from mipy_ota.ota_server.mqtt import home_assistant
from mipy_ota.ota_server.mqtt.settings import BrokerSettings, Unusable, load
from mipy_ota.ota_server.policy import Board, Known, Order, Release
from mipy_ota.signing import bundle, manifest
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client, serve
from tests.support import ROOT, vectors
from tests.support.broker import Broker, Client, available, wait
from tests.support.fake_board import FakeBoard

needs_broker = pytest.mark.skipif(not available(), reason="needs Debian's mosquitto")
SEQ = policy.minutes_since_2020(time.time()) - 1000
FILES = {"main.mpy": b"M\x06\x00\x1f" + bytes(400)}
NUDGE = "mipy/sim-01/update"
STATE = "mipy/sim-01/ota"
CONFIG = "homeassistant/update/sim-01/ota/config"


def release(seq: int, note: str = "-") -> tuple[str, bytes]:
    """A signed bundle and its digest."""
    raw = manifest.make("weather", "esp8266-generic", seq, FILES, note=note)
    raw = manifest.add_signature(raw, vectors.key("release"))
    return manifest.parse(raw).digest, bundle.write(raw, FILES)


class Desk:
    """A server with a broker, and a board that has polled once."""

    def __init__(self, folder: Path, broker: Broker, stack: ExitStack, **more: Any) -> None:
        self.broker = broker
        settings = BrokerSettings(host="127.0.0.1", port=broker.port, **more)
        self.server = stack.enter_context(
            serve.running(folder / "data", interval=300, broker=settings)
        )
        self.people = client.Client(self.server.url, self.server.token)
        self.people.add_trust(vectors.first_trust())
        self.board = FakeBoard(self.server.url)
        stack.callback(self.board.close)
        self.people.enrol(self.board.file())
        self.board.boot()

    def publish(self, seq: int, note: str = "-") -> str:
        digest, packed = release(seq, note)
        self.people.publish(packed)
        return digest


@pytest.fixture
def desk(tmp_path: Path, broker: Broker) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(tmp_path, broker, stack)


def last(watcher: Client, topic: str) -> Any:
    found = watcher.payloads(topic)
    return json.loads(found[-1]) if found and found[-1] else None


def settled(desk: Desk, watcher: Client) -> None:
    """Return when all that the server has to say by now has come: another board's name is last."""
    other = FakeBoard(desk.server.url, id=f"other-{len(watcher.messages)}")
    desk.people.enrol(other.file())
    other.boot()
    other.close()
    assert wait(lambda: f"mipy/{other.id}/ota" in watcher.topics)


# --- nudges ---


@needs_broker
def test_board_is_nudged_once_when_a_release_is_there_for_it(desk: Desk, watcher: Client):
    settled(desk, watcher)
    assert NUDGE not in watcher.topics
    digest = desk.publish(SEQ)
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])
    assert desk.board.poll()["m"] == digest
    desk.board.poll(state="installing", prog=[1, 2])
    desk.board.poll(m=digest[:32], seq=SEQ)
    settled(desk, watcher)
    assert watcher.payloads(NUDGE) == [b""]


@needs_broker
def test_nobody_is_nudged_without_an_offer(desk: Desk, watcher: Client):
    """A board that is paused, and one that rejected the release."""
    desk.people.order("sim-01", "pause")
    stubborn = FakeBoard(desk.server.url, id="sim-02")
    desk.people.enrol(stubborn.file())
    stubborn.boot()
    digest, packed = release(SEQ)
    bad = {"m": digest[:32], "why": "exception", "soft": 0, "trace": ""}
    stubborn.poll(bad=bad)
    desk.people.publish(packed)
    settled(desk, watcher)
    assert wait(lambda: "mipy/sim-02/ota" in watcher.topics)
    nudged = {topic for topic in watcher.topics if topic.endswith("/update")}
    assert nudged <= {topic for topic in nudged if "/other-" in topic}
    desk.people.order("sim-01", "follow")
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])
    stubborn.close()


@needs_broker
def test_order_nudges_the_board(desk: Desk, watcher: Client):
    settled(desk, watcher)
    desk.people.order("sim-01", "rollback")
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])


@needs_broker
def test_update_now_nudges_although_the_board_was_nudged_for_this_release(
    desk: Desk, watcher: Client
):
    """By the page's button; it does not wait for the next of three nudges at growing distances."""
    desk.publish(SEQ)
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])
    desk.people.order("sim-01", "pause")
    desk.board.poll()
    settled(desk, watcher)
    assert watcher.payloads(NUDGE) == [b""]
    page = requests.Session()
    page.post(desk.server.url + "/login", data={"token": desk.server.token}, timeout=30)
    assert page.post(desk.server.url + "/boards/sim-01/update", timeout=30).ok
    assert wait(lambda: watcher.payloads(NUDGE) == [b""] * 2)


@needs_broker
def test_broker_away_and_back(desk: Desk, broker: Broker, watcher: Client):
    settled(desk, watcher)
    broker.close()
    digest = desk.publish(SEQ)
    assert "stale" not in desk.board.poll(heap=1), "polls go on without a broker"
    desk.publish(SEQ + 1)
    broker.start()
    back = Client(broker.port)
    assert wait(lambda: b"" in back.payloads(NUDGE))
    assert wait(lambda: back.payloads(home_assistant.STATUS)[-1:] == [b"online"])
    assert desk.board.poll()["m"] != digest
    back.close()


@needs_broker
def test_server_says_when_it_is_there(tmp_path: Path, broker: Broker, watcher: Client):
    with ExitStack() as stack:
        Desk(tmp_path, broker, stack)
        assert wait(lambda: watcher.payloads(home_assistant.STATUS) == [b"online"])
    assert wait(lambda: watcher.payloads(home_assistant.STATUS) == [b"online", b"offline"])


@needs_broker
@pytest.mark.parametrize(
    ("password", "sign"), [("pass word", "u'server'"), ("pass wort", "not authorised")]
)
def test_password_is_used_and_never_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str, sign: str
):
    caplog.set_level(logging.DEBUG)
    users = tmp_path / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", users, "server", "pass word"], check=True)
    more = f"allow_anonymous false\npassword_file {users}\n"
    broker = Broker(tmp_path / "broker", more)
    log = broker.folder / "log"
    try:
        with ExitStack() as stack:
            Desk(tmp_path, broker, stack, user="server", password=password)
            assert wait(lambda: sign in log.read_text())
            assert password == "pass word" or wait(lambda: "Not authorized" in caplog.text)
    finally:
        broker.close()
    assert "pass wor" not in caplog.text


def known(**more: Any) -> Known:
    board = Board("b1", "", "demo", "unix", bytes(32), False, 0, last_seen=1.0, seq=1, state="ok")
    return Known(replace(board, **more))


PUBLISHED = Release("ab" * 32, "demo", "unix", 5, 0, "-", 1, 0.0)


def due(mqtt: server_mqtt.Broker, board: Known, wanted: Release | None = PUBLISHED) -> bool:
    return mqtt._due(board, wanted)


def test_board_that_does_not_come_is_nudged_three_times(monkeypatch: pytest.MonkeyPatch):
    """And once more for the next release."""
    now = 1000.0
    monkeypatch.setattr(server_mqtt.time, "monotonic", lambda: now)
    mqtt = server_mqtt.Broker(None, BrokerSettings(host="x"))  # pyright: ignore
    nudged = []
    for _ in range(200):
        nudged += [now - 1000] if due(mqtt, known()) else []
        now += 10
    assert nudged == [0, 60, 660]
    assert due(mqtt, known(), replace(PUBLISHED, digest="cd" * 32))
    assert not due(mqtt, known(offered=PUBLISHED.digest)), "it has been told"
    assert not due(mqtt, known(), None)
    ordered = known()
    ordered.orders.append(Order(7, "rollback", ""))
    assert due(mqtt, ordered, None)
    ordered.orders[0] = Order(7, "rollback", "", tries=1)
    assert not due(mqtt, ordered, None), "it has heard the order"


@pytest.mark.parametrize(
    "more",
    [
        {"last_seen": None},
        {"retired": 1.0},
        {"paused": True},
        {"state": "trial"},
        {"high": 6},
        {"channel": "beta"},
    ],
)
def test_what_is_no_open_offer(more: dict[str, Any]):
    assert policy.pending(known(), [PUBLISHED], time.time()) == PUBLISHED
    assert policy.pending(known(**more), [PUBLISHED], time.time()) is None


def test_board_that_is_to_go_back_has_no_open_offer():
    board = known()
    board.orders.append(Order(1, "rollback", ""))
    assert policy.pending(board, [PUBLISHED], time.time()) is None


# --- Home Assistant ---


@needs_broker
def test_every_board_is_an_update_entity_under_its_own_name(desk: Desk, watcher: Client):
    assert wait(lambda: last(watcher, CONFIG))
    config = last(watcher, CONFIG)
    assert config["device"]["identifiers"] == ["sim-01"]
    assert (config["state_topic"], config["command_topic"]) == (STATE, STATE + "/install")
    desk.people.change("sim-01", name="kitchen")
    assert wait(lambda: last(watcher, CONFIG)["device"]["name"] == "kitchen")
    assert last(watcher, STATE)["in_progress"] is False

    digest = desk.publish(SEQ, "the tap no longer drips")
    assert wait(lambda: last(watcher, STATE)["latest_version"] == str(SEQ))
    state = last(watcher, STATE)
    assert (state["installed_version"], state["title"]) == ("1", "weather")
    assert state["release_summary"] == "the tap no longer drips"
    desk.board.poll()
    desk.board.poll(state="installing", prog=[3, 4])
    assert wait(lambda: last(watcher, STATE)["update_percentage"] == 75)
    desk.board.boot(state="trial", m=digest[:32], seq=SEQ)
    assert wait(lambda: last(watcher, STATE)["update_percentage"] is None)
    assert last(watcher, STATE)["in_progress"] is True
    desk.board.poll(m=digest[:32], seq=SEQ)
    assert wait(lambda: last(watcher, STATE)["in_progress"] is False)
    state = last(watcher, STATE)
    assert state["installed_version"] == state["latest_version"] == str(SEQ)
    late = Client(desk.broker.port)
    assert wait(lambda: {CONFIG, STATE} <= late.topics), "kept by the broker"
    late.close()


@needs_broker
def test_removed_board_is_gone_there_too(desk: Desk, watcher: Client):
    assert wait(lambda: last(watcher, CONFIG))
    desk.people.remove("sim-01")
    assert wait(lambda: watcher.payloads(CONFIG)[-1] == b"" == watcher.payloads(STATE)[-1])


@needs_broker
def test_button_does_nothing_where_no_slot_is_free(
    desk: Desk, watcher: Client, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is there for the board; then another has the only slot; then the rollout halts."""
    monkeypatch.setattr(server_mqtt, "BUTTON_SECONDS", 0.0)

    def press() -> int:
        """The nudges so far, when the server has looked at the board."""
        watcher.publish(STATE + "/install", "install", 1)
        settled(desk, watcher)
        return len(watcher.payloads(NUDGE))

    other = FakeBoard(desk.server.url, id="sim-02")
    desk.people.enrol(other.file())
    other.boot()
    assert press() == 0
    digest, packed = release(SEQ)
    number = desk.people.publish(packed, in_flight=1, waves=[100])["rollout"]["id"]
    assert wait(lambda: watcher.payloads(NUDGE) == [b""]), "a slot is free"
    assert other.poll()["m"] == digest
    assert press() == 1
    assert last(watcher, STATE)["latest_version"] == "1", "no update is shown"
    other.poll(bad={"m": digest[:32], "why": "exception", "soft": 0, "trace": "ValueError"})
    assert desk.people.rollout(number)["state"] == "halted"
    assert press() == 1
    other.close()


@needs_broker
def test_button_nudges_whatever_a_stranger_presses(desk: Desk, watcher: Client):
    """Once in ten seconds at most, a board that has been told of its release and does not come."""
    desk.publish(SEQ)
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])
    desk.board.poll()
    settled(desk, watcher)
    for topic, payload in (
        ("mipy/nobody/ota/install", "install"),
        (STATE + "/install", "x" * 10_000),
        (STATE + "/install", b"\xff\x00"),
    ):
        watcher.publish(topic, payload, 1)
    watcher.publish(STATE + "/install", "install", 1, retain=True)
    for _ in range(50):
        watcher.publish(STATE + "/install", "install", 1)
    assert wait(lambda: len(watcher.payloads(NUDGE)) > 1)
    settled(desk, watcher)
    assert watcher.payloads(NUDGE) == [b"", b""]
    assert "mipy/nobody/update" not in watcher.topics


@needs_broker
def test_flood_of_made_up_buttons_costs_little(
    desk: Desk, watcher: Client, caplog: pytest.LogCaptureFixture
):
    """Polls are answered, boards are nudged, and the log stays empty."""
    settled(desk, watcher)
    for n in range(3 * server_mqtt.INCOMING):
        watcher.publish(f"mipy/nobody-{n}/ota/install", "install")
    assert "stale" not in desk.board.poll()
    desk.publish(SEQ)
    assert wait(lambda: watcher.payloads(NUDGE) == [b""])
    assert caplog.text == ""


@needs_broker
def test_without_home_assistant_nothing_is_kept_at_the_broker(tmp_path: Path, broker: Broker):
    with ExitStack() as stack:
        desk = Desk(tmp_path, broker, stack, home_assistant=False)
        watcher = Client(broker.port)
        stack.callback(watcher.close)
        desk.publish(SEQ)
        assert wait(lambda: NUDGE in watcher.topics)
        assert watcher.topics - {NUDGE} == {home_assistant.STATUS}


def test_entity_has_documented_fields_alone():
    """https://www.home-assistant.io/integrations/update.mqtt/"""
    board = known(progress="1/3", state="installing").board
    config = home_assistant.config(board)
    assert config.keys() <= set(
        "availability availability_topic command_topic device device_class entity_category name"
        " origin payload_install qos retain state_topic title unique_id".split()
    )
    state = home_assistant.state(board, None, replace(PUBLISHED, note="n" * 300))
    assert state.keys() <= set(
        "installed_version latest_version title release_summary release_url entity_picture"
        " in_progress update_percentage".split()
    )
    assert (state["update_percentage"], len(state["release_summary"])) == (33, 255)


HOME_ASSISTANT = ROOT / ".cache" / "home-assistant" / "bin" / "python"


if HOME_ASSISTANT.exists():  # `make home-assistant` installs it, and runs this

    def test_home_assistant_takes_the_entity():
        """By its own schema for discovery, in an environment of its own."""
        board = known(name="Küche", chip="esp32").board
        topic = home_assistant.config_topic("homeassistant", board.id)
        said = json.dumps([topic, home_assistant.config(board)])
        script = ROOT / "tests" / "support" / "home_assistant_schema.py"
        run = subprocess.run([HOME_ASSISTANT, script], input=said, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        taken = json.loads(run.stdout)
        assert taken["device"]["name"] == "Küche"
        assert taken.keys() >= home_assistant.config(board).keys(), "what it does not know it drops"


# --- settings ---


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_settings_of_the_broker(tmp_path: Path):
    plain = load(write(tmp_path / "a", 'host = "broker.lan"\n', 0o644))
    assert (plain.address, plain.context()) == (("broker.lan", 1883), None)
    text = 'host = "b"\nuser = "server"\npassword = "pass word"\ntls = true\n'
    full = load(write(tmp_path / "b", text))
    assert (full.address, full.context() is None) == (("b", 8883), False)
    assert full.password.get_secret_value() == "pass word"
    assert "pass word" not in f"{full!r} {full}"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o600, "host: Field required"),
        ('host = ""\n', 0o600, "host: "),
        ('host = "b"\npasword = "pass word"\n', 0o600, "pasword: Extra inputs"),
        ('host = "b"\npassword = "pass word"\n', 0o640, "others may read"),
        ('host = "b"\nport = "pass word"\n', 0o600, "port: Input should be"),
        ('host = "b"\nport = 65536\n', 0o600, "port: "),
        ('host = "b"\npassword = pass word\n', 0o600, "it is not TOML"),
        ('host = "b"\nca = "/nowhere/pass word.pem"\n', 0o600, "No such file"),
        ('host = "b"\ndiscovery = "a/#"\n', 0o600, "discovery: "),
    ],
)
def test_wrong_settings_are_refused_without_showing_them(
    tmp_path: Path, text: str, mode: int, why: str
):
    path = write(tmp_path / "mqtt.toml", text, mode)
    with pytest.raises(Unusable) as caught:
        load(path)
    assert why in str(caught.value)
    assert "pass word" not in str(caught.value).replace(".pem", "")
    with pytest.raises(Failure, match="cannot use"):
        serve.broker_settings(path)


def test_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Failure) as caught:
        serve.broker_settings(tmp_path / "mqtt.toml")
    assert "mipy-ota[mqtt]" in caught.value.hint
