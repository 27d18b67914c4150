"""A sensor on a battery: wakes, measures, publishes, asks for updates, sleeps.

A release on trial is confirmed before its first sleep, by the server's answer.
"""

from asyncio import sleep_ms

import config
import ota
import runtime
from runtime import log


def setup(app):
    from drivers.dht22 import Dht22
    from runtime.mqtt import Mqtt

    dht = Dht22(config.DHT_PIN)
    mqtt = Mqtt(app, most=64)

    def sleep():
        log.info("awake for %d s, sleeping for %d s", app.up, config.SLEEP)
        app.sleep(config.SLEEP * 1000)

    async def work():
        while dht.temperature is None:
            await sleep_ms(100)
        mqtt.publish("~/temperature", dht.temperature, retain=True, qos=1)
        mqtt.publish("~/humidity", dht.humidity, retain=True, qos=1)
        await mqtt.drain(config.AWAKE * 1000)
        while ota.has_server and not app.updater.answered:
            await sleep_ms(100)
        sleep()

    app.driver(dht)
    app.once(work)
    # The sensor, the broker or the server may be dead, the battery shall not be.
    app.after(config.AWAKE * 1000, sleep)


runtime.run(setup)
