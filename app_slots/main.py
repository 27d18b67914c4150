"""The demo: a heartbeat in the log and a blinking LED."""

import gc

import config
import runtime
from drivers.led import Led
from runtime import log


def setup(app):
    led = Led(config.LED_PIN, config.LED_ON)
    app.driver(led)

    def heartbeat():
        led.blink()
        log.info("%s is alive, %d bytes free", config.NAME, gc.mem_free())

    app.every(config.HEARTBEAT * 1000, heartbeat)


runtime.run(setup)
