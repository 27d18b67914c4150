"""Temperature, humidity and pressure at sea level from a BME280, to MQTT and Home Assistant."""

from machine import Pin, SoftI2C

import config
import runtime
from runtime import log


def at_sea_level(pressure, altitude):
    """Return hPa reduced to sea level from `altitude` in m, by the standard atmosphere."""
    return pressure / (1 - altitude / 44330) ** 5.255


def setup(app):
    from drivers.bme280 import Bme280
    from runtime.homeassistant import HomeAssistant
    from runtime.mqtt import Mqtt

    i2c = SoftI2C(scl=Pin(config.SCL_PIN), sda=Pin(config.SDA_PIN))
    sensor = Bme280(i2c, config.ADDRESS)
    mqtt = Mqtt(app, most=64)  # what comes in is short
    home = HomeAssistant(app, mqtt)
    home.sensor("temperature", "Temperature", unit_of_meas="°C", dev_cla="temperature")
    home.sensor("humidity", "Humidity", unit_of_meas="%", dev_cla="humidity")
    home.sensor("pressure", "Pressure", unit_of_meas="hPa", dev_cla="atmospheric_pressure")

    def publish():
        if sensor.temperature is None:
            return
        pressure = at_sea_level(sensor.pressure, config.ALTITUDE)
        log.info("%.1f C, %.0f %%, %.1f hPa", sensor.temperature, sensor.humidity, pressure)
        mqtt.publish("~/temperature", "%.1f" % sensor.temperature)
        mqtt.publish("~/humidity", "%.0f" % sensor.humidity)
        mqtt.publish("~/pressure", "%.1f" % pressure)

    app.driver(sensor)
    app.every(config.EVERY * 1000, publish)


runtime.run(setup)
