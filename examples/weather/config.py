"""The app's settings; a board's own: `mipy set BOARD NAME=value` (docs/settings.md).

This file travels in every release, so no secret may be in it.
"""

# Name of this board in logs and reports, on its page and in Home Assistant.
NAME = "weather"

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

# Pins of the I2C bus (a D1 mini's D1 and D2) and the BME280's address, 0x76 or 0x77.
SCL_PIN = 5  #: 0..
SDA_PIN = 4  #: 0..
ADDRESS = 118  #: 118..119

# Metres above the sea, for the pressure that weather maps show.
ALTITUDE = 0  #: -400..5000

# Seconds between two readings.
EVERY = 60  #: 2..
