"""How the board comes to its broker; loaded for each new connection."""

# config: MQTT_PORT = 0  #: 0..65535
# config: MQTT_USER = ""
# config: MQTT_PASSWORD = ""  #: secret
# config: MQTT_TLS = False
# config: MQTT_CA = ""

import select
from asyncio import sleep_ms
from errno import EINPROGRESS
from micropython import const
from umqtt.simple import MQTTClient, MQTTException

import config
import ota
from runtime import log
from runtime.mqtt import Wire

_STEP = const(50)  # ms, as in mqtt.py
_ALIVE = const(60)  # s, as _SILENT there
_CONNACK = const(0x20)


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
    mqtt.say(_client_connect)  # looks the name up, which takes the time it takes
    wire = mqtt.sock
    packet = wire.out
    wire.out = b""
    poller = select.poll()
    poller.register(wire.s, select.POLLOUT)
    while not poller.poll(0):
        mqtt.send()  # for its time limit
        await sleep_ms(_STEP)
    if getattr(config, "MQTT_TLS", False):
        wire.s = _secure(wire.s, config.MQTT_HOST)  # pyright: ignore
    mqtt.sock = wire = Wire(wire.s)
    wire.out = packet
    kind, n = await mqtt.read()
    if kind != _CONNACK or n != 2:
        raise MQTTException("this is no MQTT broker")
    code = mqtt.buffer[1]
    if code:
        raise MQTTException("the broker refuses the board: %d" % code)
    for qos, job in mqtt.calls:
        mqtt.say(MQTTClient.subscribe, job.name.encode(), qos)
    MQTTClient.publish(mqtt, mqtt.base + "/status", b"online", True)
    log.info("mqtt: connected to %s", config.MQTT_HOST)  # pyright: ignore


def _client_connect(mqtt):
    _Client(mqtt).connect()


def _secure(s, host):
    """Return the socket `s` with TLS, whose handshake goes on with each read and write.

    The broker has to prove that it is `host`, to the authority whose certificate (DER) the release
    holds as `config.MQTT_CA`; where that names none, the line is secret but anybody may be at its
    end. Raises ValueError on an ESP8266, which has neither the heap for it nor any verification,
    OSError when there is no such file.
    """
    import sys

    if sys.platform == "esp8266":
        raise ValueError("TLS to the broker needs an ESP32")
    try:
        import tls
    except ImportError:
        import ssl as tls  # its name until 1.22
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    authority = getattr(config, "MQTT_CA", "")
    if authority:
        with open("/app_slots/%s/%s" % (ota.slot, authority), "rb") as f:
            context.load_verify_locations(f.read())  # pyright: ignore
        context.verify_mode = tls.CERT_REQUIRED  # pyright: ignore
    else:
        context.verify_mode = tls.CERT_NONE  # pyright: ignore
    return context.wrap_socket(s, server_hostname=host, do_handshake_on_connect=False)
