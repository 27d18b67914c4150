"""The app's settings; a board's own: `mipy set BOARD NAME=value` (docs/settings.md).

This file travels in every release, so no secret may be in it.
"""

# Name of this board in logs and reports, on its page and in Home Assistant.
NAME = "deep_sleep_sensor"

# What the log keeps: 0 debug, 1 info, 2 warning, 3 error.
LOG_LEVEL = 1  #: 0..3

# Where to poll before the addresses in the board file; "" for those alone.
SERVER = ""  #: url

# Minutes without Wi-Fi after which the board opens its portal for a while; 0: never.
PORTAL = 30  #: 0..

# The MQTT broker, by name or address; "": none. Port 0 is 1883. No user: "".
MQTT_HOST = ""
MQTT_PORT = 0  #: 0..65535
MQTT_USER = ""
MQTT_PASSWORD = ""  #: secret

# Pin of the DHT22's data line (a D1 mini's D5). An ESP8266 wakes only if D0 is wired to RST.
DHT_PIN = 14  #: 0..

# Seconds of sleep, and the most it stays awake, whatever does not answer.
SLEEP = 300  #: 1..
AWAKE = 30  #: 10..
