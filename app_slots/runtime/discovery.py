"""What Home Assistant is told about the board and its parts.

Format: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, one retained message a
part, with a device block that makes them one device, in the short names of that page.
"""

# config: NAME = ""

import json
import sys

import config
import ota


async def announce(home):
    """One part after the other: together they would fill the queue."""
    board = home.mqtt.base[5:]
    for component, key, name, facts in home.parts:
        topic = "homeassistant/%s/%s/%s/config" % (component, board, key)
        home.mqtt.publish(topic, json.dumps(_config(home, board, key, name, facts)), True, 1)
        await home.mqtt.drain()


def _config(home, board, key, name, facts):
    made = {
        "~": home.mqtt.base,
        "name": name,
        "uniq_id": "%s_%s" % (board, key),
        "stat_t": "~/" + key,
        "avty_t": "~/status",
        "dev": {
            "ids": board,
            "name": getattr(config, "NAME", "") or board,
            "mf": "MiPy-OTA",
            "mdl": sys.platform,
            "sw": str(ota.seq),
        },
        "o": {"name": "MiPy-OTA"},
    }
    made.update(facts)
    return made
