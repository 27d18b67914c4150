"""The app's settings; a board's own: `mipy set BOARD NAME=value` (docs/settings.md).

This file travels in every release, so no secret may be in it.
"""

# Name of this board in logs and reports, on its page and in Home Assistant.
NAME = "relay"

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

# Pin of the relay (a D1 mini's D5) and its level when on.
RELAY_PIN = 14  #: 0..
RELAY_ON = 1  #: 0..1

# Pin of the button, to ground (the FLASH button of ESP8266 modules).
BUTTON_PIN = 0  #: 0..

# Whether the board serves its page. Not on an ESP8266 with MQTT, which has no room for both.
WEB = True

# Password of the board's page, at most 20 bytes; "": anybody in the network may switch.
WEB_PASSWORD = ""  #: secret
