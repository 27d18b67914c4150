"""The app's settings: names, defaults and, by the defaults, types (bool, int, float, str).

This file travels in every release, so no secret may be in it. A board overrides single values in
/data/settings; `config.NAME` then has the board's value (docs/runtime.md).
"""

# Name of this board in logs and reports.
NAME = "demo"

# What the log keeps: 0 debug, 1 info, 2 warning, 3 error.
LOG_LEVEL = 1

# Where to poll before the addresses in the board file; "" for those alone.
SERVER = ""

# Minutes without Wi-Fi after which the board opens its portal for a while; 0: never.
PORTAL = 30

# Pin of the LED and its level when lit (ESP8266 modules: 2, lit when low).
LED_PIN = 2
LED_ON = 0

# Seconds between two heartbeat lines.
HEARTBEAT = 10
