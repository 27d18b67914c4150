"""What Home Assistant is told about the board and its parts.

Format: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, one retained message a
part, with a device block that makes them one device, in the short names of that page.
"""

# config: NAME = ""

import json
import sys

import config
import ota
from runtime import log
from runtime.homeassistant import HomeAssistant


async def announce(home):
    """Tell one part after the other: together they would fill the queue.

    Raises OSError when the broker did not get them all.
    """
    # What setup alone calls takes room.
    HomeAssistant.__init__ = HomeAssistant.sensor = None  # pyright: ignore
    HomeAssistant.switch = HomeAssistant.add = None  # pyright: ignore
    board = home.mqtt.base[5:]
    wire = home.mqtt.sock
    told = []
    for component, key, name, facts in home.parts:
        part = component + "/" + key
        if part in told or not key or "+" in key or "#" in key:
            log.error("home assistant: %s twice, or no topic", part)
            continue
        told.append(part)
        topic = "homeassistant/%s/%s/%s/config" % (component, _id(board), _id(key))
        home.mqtt.publish(topic, _config(home, board, key, name, facts), True, 1)
        # What was on its way when a connection ended may be lost.
        if not await home.mqtt.drain() or home.mqtt.sock is not wire:
            raise OSError("not sent")


def _id(key):
    """`key` in letters that Home Assistant allows: it drops other parts, and says nothing."""
    made = ""
    for c in key:
        allowed = "0" <= c <= "9" or "a" <= c.lower() <= "z" or c in "_-"
        made += c if allowed else "_%x" % ord(c)
    return made


def _config(home, board, key, name, facts):
    # As text: as keys of a dictionary these words would stay in the chip's memory for good.
    made = (
        '{"~":"%s","name":%s,"uniq_id":"%s_%s","stat_t":%s,"avty_t":"~/status",'
        '"dev":{"ids":"%s","name":%s,"mf":"MiPy-OTA","mdl":"%s","sw":"%d"},'
        '"o":{"name":"MiPy-OTA"}'
    ) % (
        home.mqtt.base,
        json.dumps(name),
        board,
        _id(key),
        json.dumps("~/" + key),
        board,
        json.dumps(getattr(config, "NAME", "") or board),
        sys.platform,
        ota.seq,
    )
    if facts:
        made += "," + json.dumps(facts)[1:-1]
    return made + "}"
