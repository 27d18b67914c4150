"""The app's settings: names, defaults and, by the defaults, types (bool, int, float, str).

This file travels in every release, so no secret may be in it. A board overrides single values:
`mipy set BOARD NAME=value`; `config.NAME` then has the board's value (docs/settings.md). Behind
`#:` stands what a value may be; `mipy build` and `mipy set` hold it against that.
"""

# Name of this board in logs and reports.
NAME = "demo"

# What the log keeps: 0 debug, 1 info, 2 warning, 3 error.
LOG_LEVEL = 1  #: 0..3

# Where to poll before the addresses in the board file; "" for those alone.
SERVER = ""  #: url

# Minutes without Wi-Fi after which the board opens its portal for a while; 0: never.
PORTAL = 30  #: 0..

# Pin of the LED and its level when lit (ESP8266 modules: 2, lit when low).
LED_PIN = 2  #: 0..
LED_ON = 0  #: 0..1

# Seconds between two heartbeat lines.
HEARTBEAT = 10  #: 1..
