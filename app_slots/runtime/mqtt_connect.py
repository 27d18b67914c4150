"""How the board comes to its broker; loaded for each new connection."""

# config: MQTT_PORT = 0  #: 0..65535
# config: MQTT_USER = ""
# config: MQTT_PASSWORD = ""  #: secret
# config: MQTT_TLS = False

import select
from asyncio import sleep_ms
from errno import EINPROGRESS
from micropython import const
from umqtt.simple import MQTTClient, MQTTException

import config
import runtime
from runtime import log
from runtime.mqtt import Wire

_STEP = const(50)  # ms, as in mqtt.py
_ALIVE = const(60)  # s, as _SILENT there
_CONNACK = const(0x20)
_TAKEN = const(3)  # short connections in a row after which another client may be taking them over


class _Wire(Wire):
    """Takes what umqtt.simple does to the socket of a new connection."""

    def settimeout(self, _):
        self.s.setblocking(False)

    def connect(self, address):
        self.s.setblocking(False)
        try:
            self.s.connect(address)
        except OSError as e:
            if e.errno != EINPROGRESS:
                self.s.close()
                raise

    def read(self, _):
        raise NotImplementedError  # left here, see Mqtt.say


class _Client(MQTTClient):
    """Makes the first packet of the connection of `mqtt`, and its socket."""

    def __init__(self, mqtt):
        self._mqtt = mqtt
        super().__init__(
            mqtt.base[5:].encode(),
            config.MQTT_HOST,  # pyright: ignore
            getattr(config, "MQTT_PORT", 0) or (8883 if getattr(config, "MQTT_TLS", 0) else 1883),
            getattr(config, "MQTT_USER", "").encode() or None,
            getattr(config, "MQTT_PASSWORD", "").encode(),
            _ALIVE,
        )
        self.set_last_will(mqtt.base.encode() + b"/status", b"offline", True)

    @property
    def sock(self):
        return self._mqtt.sock

    @sock.setter
    def sock(self, s):  # where umqtt.simple keeps it
        self._mqtt.sock = s and _Wire(s)


async def connect(mqtt):
    """Connect, be accepted, subscribe. Raises OSError, or MQTTException when it is refused."""
    short = mqtt.short
    mqtt.short = 0
    mqtt.say(_client_connect)  # looks the name up, which takes the time it takes
    wire = mqtt.sock
    packet = b"".join(wire.out)
    wire.out = []
    poller = select.poll()
    poller.register(wire.s, select.POLLOUT)
    while not poller.poll(0):
        mqtt.send()  # for its time limit
        await sleep_ms(_STEP)
    if getattr(config, "MQTT_TLS", False):
        wire.s = runtime.lend("mqtt_tls").secure(wire.s, config.MQTT_HOST)  # pyright: ignore
    mqtt.sock = wire = Wire(wire.s)
    wire.write(packet)
    kind, n = await mqtt.read()
    if kind != _CONNACK or n != 2:
        raise MQTTException("this is no MQTT broker")
    code = mqtt.buffer[1]
    if code:
        raise MQTTException("the broker refuses the board: %d" % code)
    for qos, job in mqtt.calls:
        mqtt.say(MQTTClient.subscribe, job.name.encode(), qos)
    MQTTClient.publish(mqtt, (mqtt.base + "/status").encode(), b"online", True)
    log.info("mqtt: connected to %s", config.MQTT_HOST)  # pyright: ignore
    mqtt.short = short + 1
    if short >= _TAKEN:
        log.warning("mqtt: is another client called %s?", mqtt.base[5:])


def _client_connect(mqtt):
    _Client(mqtt).connect()
