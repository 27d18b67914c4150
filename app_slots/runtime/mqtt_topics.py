"""The board's own topics: metrics, log, command, update (docs/mqtt.md)."""

import gc
import json
import machine
import network
from micropython import const

import ota
from runtime import log
from runtime.scheduler import rand

_EVERY = const(300)  # s
_PAUSE = const(20)  # s since the last answer, at least
_SPREAD = const(10)  # s in which all boards that are told at once ask the server


class Topics:
    """Serves them over `mqtt`, with log lines from `level` on (4: none)."""

    def __init__(self, app, mqtt, level=2):
        self._app = app
        self._mqtt = mqtt
        self._level = level
        mqtt.when_up(self._metrics, "metrics")
        mqtt.on("~/command", self._command, 1)
        mqtt.on("~/update", self._update)
        mqtt.on("mipy/all/update", self._update)
        app.every(_EVERY * 1000, self._metrics, "metrics")
        log.sinks.append(self._log)

    def _metrics(self):
        if not self._mqtt.up:
            return
        gc.collect()
        message = {
            "heap": gc.mem_free(),
            "rssi": network.WLAN(0).status("rssi"),
            "up": self._app.up,
            "seq": ota.seq,
            "trial": int(ota.trial),
            "cause": machine.reset_cause(),
            "dropped": self._mqtt.dropped,
        }
        self._mqtt.publish("~/metrics", json.dumps(message), True)

    def _log(self, n, line):
        if n >= self._level:
            self._mqtt.publish("~/log", line[:256])

    def _update(self, topic, payload):
        updater = self._app.updater
        wait = 1 + rand(_SPREAD)
        if updater.time:  # a stranger who says so all the time gets a poll now and then
            wait = max(wait, updater.time[1] + _PAUSE - self._app.up)
        updater.left = min(updater.left, wait)

    def _command(self, topic, payload):
        if self._mqtt.retained:
            return  # a reset that stays at the broker would never end
        if payload == b"reset":
            log.info("topics: reset")
            leave = ota.reset  # where that finds no room nothing is stopped
            self._app.stop()
            leave(True)
        elif payload == b"metrics":
            self._metrics()
        elif payload == b"update":
            self._update(topic, payload)
        else:
            log.warning("topics: unknown command")
