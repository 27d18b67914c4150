"""What each part of the runtime takes of the heap, in the order in which the loop loads them."""

import gc

import fake  # noqa: F401

gc.collect()
start = last = gc.mem_free()


def note(name):
    global last
    gc.collect()
    free = gc.mem_free()
    print("heap", name, last - free)
    last = free


import asyncio  # noqa: E402


async def first():
    await asyncio.sleep_ms(1)


asyncio.run(first())
note("asyncio")
import config  # noqa: E402, F401

note("config")
import runtime  # noqa: E402

note("runtime")
for name in ("log", "scheduler", "driver", "loop", "wifi", "updater"):
    __import__("runtime." + name)
    note(name)
print("heap resident", start - last)
for name in (
    "settings",
    "health",
    "report",
    "describe",
    "poll",
    "poll_reply",
    "network_changes",
    "installer",
):
    before = gc.mem_free()
    module = runtime.lend(name) if name != "installer" else None
    print("heap lent", name, before - gc.mem_free())
    del module
    gc.collect()
print("heap still held after lending", last - gc.mem_free())
