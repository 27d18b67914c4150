"""Runs the demo app as the boot stage would, until a Ctrl-C after some passes of the loop."""

import gc
import time

import fake  # first: the rest lies on its disk

left = 60


def feed():
    global left
    left -= 1
    if not left:
        raise KeyboardInterrupt
    time.sleep_ms(1)


fake.ota.feed = feed
with open("/host/settings") as f:
    text = f.read()
try:
    __import__("os").mkdir("/data/settings")
except OSError:
    pass
with open("/data/settings/0", "w") as f:
    f.write(text)
gc.collect()
print("free at start", gc.mem_free())
try:
    __import__("main")
except KeyboardInterrupt:
    gc.collect()
    print("free at end", gc.mem_free(), "pin", fake.Pin.levels)
