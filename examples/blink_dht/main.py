"""The first evening: an LED that blinks, a DHT22 that Home Assistant shows by itself."""

import config
import runtime


def setup(app):
    from drivers.dht22 import Dht22
    from drivers.led import Led
    from runtime.homeassistant import HomeAssistant
    from runtime.mqtt import Mqtt

    led = Led(config.LED_PIN, config.LED_ON)
    dht = Dht22(config.DHT_PIN)
    mqtt = Mqtt(app, most=64)  # what comes in is short
    home = HomeAssistant(app, mqtt)
    home.sensor("temperature", "Temperature", unit_of_meas="°C", dev_cla="temperature")
    home.sensor("humidity", "Humidity", unit_of_meas="%", dev_cla="humidity")

    def publish():
        if dht.temperature is not None:
            led.blink()
            mqtt.publish("~/temperature", dht.temperature)
            mqtt.publish("~/humidity", dht.humidity)

    app.driver(led)
    app.driver(dht)
    app.every(config.EVERY * 1000, publish)


runtime.run(setup)
