"""Home Assistant finds the board and its parts by itself, by MQTT discovery (docs/mqtt.md).

Format: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, one retained message a
part, with a device block that makes them one device, in the short names of that page.
"""

# config: NAME = ""

import json
import sys

import config
import ota


class HomeAssistant:
    """Announces parts over `mqtt`, at each connection and when Home Assistant starts."""

    def __init__(self, app, mqtt):
        self._app = app
        self._mqtt = mqtt
        self._parts = []
        self._busy = False
        mqtt.when_up(self._soon, "home assistant")
        mqtt.on("homeassistant/status", self._born)

    def sensor(self, key, name, **facts):
        """A value that the app publishes to `~/<key>`.

        `facts` are the part's options in Home Assistant's short names: unit_of_meas="°C",
        dev_cla="temperature", stat_cla="measurement" ...
        """
        self._parts.append(("sensor", key, name, facts))

    def switch(self, key, name, set, **facts):
        """Something that is on or off: `set(on)` is called when Home Assistant switches it.

        The app publishes "ON" or "OFF" to `~/<key>`, retained, whenever it has changed.
        """
        facts["cmd_t"] = "~/%s/set" % key
        self._mqtt.on(facts["cmd_t"], lambda topic, payload: set(payload == b"ON"), 1)
        self._parts.append(("switch", key, name, facts))

    def add(self, component, key, name, **facts):
        """Any other component (binary_sensor, button, number, light ...), with all its facts."""
        self._parts.append((component, key, name, facts))

    def _born(self, topic, payload):
        if payload == b"online" and not self._mqtt.retained:
            self._soon()

    def _soon(self):
        if not self._busy:
            self._busy = True
            self._app.once(self._announce, "home assistant")

    async def _announce(self):
        """One after the other: together they would fill the queue."""
        try:
            for component, key, name, facts in self._parts:
                board = self._mqtt.base[5:]
                topic = "homeassistant/%s/%s/%s/config" % (component, board, key)
                self._mqtt.publish(
                    topic, json.dumps(self._config(board, key, name, facts)), True, 1
                )
                await self._mqtt.drain()
        finally:
            self._busy = False

    def _config(self, board, key, name, facts):
        made = {
            "~": self._mqtt.base,
            "name": name,
            "uniq_id": "%s_%s" % (board, key),
            "stat_t": "~/" + key,
            "avty_t": "~/status",
            "dev": {
                "ids": board,
                "name": getattr(config, "NAME", "") or board,
                "mf": "MiPy-OTA",
                "mdl": sys.platform,
                "sw": str(ota.seq),
            },
            "o": {"name": "MiPy-OTA"},
        }
        made.update(facts)
        return made
