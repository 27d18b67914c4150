"""Run by an interpreter that has Home Assistant: hold an entity to its own schema for discovery.

From standard input comes a list: topic and content of the entity. The content as Home Assistant has
taken it goes to standard output, without what it does not know.
"""

import json
import sys

from homeassistant.components.mqtt.discovery import TOPIC_MATCHER  # pyright: ignore
from homeassistant.components.mqtt.update import DISCOVERY_SCHEMA  # pyright: ignore

topic, content = json.load(sys.stdin)
found = TOPIC_MATCHER.match(topic.removeprefix("homeassistant/"))
assert found and found["component"] == "update", topic
json.dump(DISCOVERY_SCHEMA(content), sys.stdout, default=str)
