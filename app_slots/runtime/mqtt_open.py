"""How the board comes to its broker; loaded for each new connection."""

import gc
import select
from asyncio import sleep_ms
from micropython import const
from umqtt.simple import MQTTClient, MQTTException

import config
import runtime
from runtime import log

_STEP = const(50)  # ms, as in mqtt.py
_CONNACK = const(0x20)


async def connect(mqtt):
    """Connect, be accepted, subscribe. Raises OSError, or MQTTException when it is refused."""
    gc.collect()
    mqtt.say(MQTTClient.connect)  # looks the name up, which takes the time it takes
    wire = mqtt.sock
    poller = select.poll()
    poller.register(wire.s, select.POLLOUT)
    packet = wire.out
    wire.out = b""
    while not poller.poll(0):
        mqtt.work()  # for its time limit
        await sleep_ms(_STEP)
    if getattr(config, "MQTT_TLS", False):
        wire.s = runtime.lend("mqtt_tls").wrap(wire.s, mqtt.host)
    wire.out = packet
    kind, n = await mqtt.read()
    if kind != _CONNACK or n != 2:
        raise MQTTException("this is no MQTT broker")
    code = mqtt.buffer[1]
    if code:
        raise MQTTException("the broker refuses the board: %d" % code)
    for qos, job in mqtt.calls:
        mqtt.say(MQTTClient.subscribe, job.name.encode(), qos)
    mqtt.say(MQTTClient.publish, mqtt.will, b"online", True)
    log.info("mqtt: connected to %s", mqtt.host)
