"""A relay that MQTT, a button and a web page switch; how it stood survives updates and resets.

Switched by "ON" and "OFF" to `~/relay/set`, told at `~/relay`.
"""

import sys

import config
import ota
import runtime
from runtime import log


def load():
    """Return how the relay stood, "on" or "off"."""
    try:
        f = open("/data/relay")
    except OSError:
        return "off"
    try:
        return f.read()
    finally:
        f.close()


def store(state):
    f = open("/data/relay", "w")
    try:
        f.write(state)
    finally:
        f.close()


def setup(app):
    from drivers.button import Button
    from drivers.relay import Relay

    relay = Relay(config.RELAY_PIN, config.RELAY_ON)
    mqtt = None

    def tell():
        if mqtt:
            mqtt.publish("~/relay", "ON" if relay.on else "OFF", retain=True, qos=1)

    def switch(to):
        if to not in ("on", "off"):
            raise ValueError("on or off")
        relay.set(to == "on")
        if load() != to:
            store(to)
        tell()

    relay.set(load() == "on")
    app.driver(relay)
    app.driver(Button(config.BUTTON_PIN, lambda: switch("off" if relay.on else "on")))
    if config.MQTT_HOST:
        from runtime.mqtt import Mqtt

        mqtt = Mqtt(app, most=64)
        mqtt.on("~/relay/set", lambda topic, payload: switch(payload.decode().lower()), qos=1)
        mqtt.when_up(tell, "tell")
    if config.WEB and mqtt and sys.platform == "esp8266":
        log.warning("no page: beside MQTT there is no room for it on an ESP8266")
    elif config.WEB:

        def values():
            return {
                "name": config.NAME,
                "relay": "on" if relay.on else "off",
                "broker": "connected" if mqtt and mqtt.up else "not connected",
                "up": app.up,
                "release": ota.seq,
            }

        forms = {"relay": lambda fields: switch(fields["to"])}
        runtime.lend("web").serve(app, values, forms, config.WEB_PASSWORD)


runtime.run(setup)
