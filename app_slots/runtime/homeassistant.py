"""Home Assistant finds the board and its parts by itself, by MQTT discovery (docs/mqtt.md).

What it is told is in discovery.py, which is there for that moment alone.
"""

from asyncio import sleep_ms
from micropython import const

import runtime

_AGAIN = const(10000)  # ms
_STEP = const(500)  # ms between two looks whether a poll is over


class HomeAssistant:
    """Announces parts over `mqtt`, at each connection and when Home Assistant starts."""

    def __init__(self, app, mqtt):
        self._app = app
        self.mqtt = mqtt
        self.parts = []
        self.busy = False
        mqtt.when_up(self._soon, "home assistant")
        mqtt.on("homeassistant/status", self._born)

    def sensor(self, key, name, **facts):
        """A value that the app publishes to `~/<key>`.

        `facts` are the part's options in Home Assistant's short names: unit_of_meas="°C",
        dev_cla="temperature", stat_cla="measurement" ...
        """
        self.parts.append(("sensor", key, name, facts))

    def switch(self, key, name, set, **facts):
        """Something that is on or off: `set(on)` is called when Home Assistant switches it.

        The app publishes "ON" or "OFF" to `~/<key>`, retained, whenever it has changed.
        """
        facts["cmd_t"] = "~/%s/set" % key
        self.parts.append(("switch", key, name, facts))
        self.mqtt.on(facts["cmd_t"], lambda topic, payload: set(payload == b"ON"), 1)

    def add(self, component, key, name, **facts):
        """Any other component (binary_sensor, button, number, light ...), with all its facts.

        A key that no topic can have, or one that another part has, is told in the log.
        """
        self.parts.append((component, key, name, facts))

    def _born(self, topic, payload):
        if payload == b"online" and not self.mqtt.retained:
            self._soon()

    def _soon(self):
        self._app.once(self._announce, "home assistant")

    async def _announce(self):
        if self.busy:
            return
        self.busy = True
        updater = self._app.updater
        try:
            while updater.busy:
                await sleep_ms(_STEP)
            updater.waits = True
            await runtime.lend("discovery").announce(self)
        except (MemoryError, OSError):  # the heap is at its fullest right after a connection
            self._app.after(_AGAIN, self._soon)
        finally:
            updater.waits = False
            self.busy = False
