"""An app without the runtime: one blocking loop, which calls `ota.check()` every time round."""

import time

from sensors.counter import Counter

import ota

counter = Counter()
while True:
    print("plain reading", counter.read())
    ota.check()
    time.sleep(1)
