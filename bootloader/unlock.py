"""The order of a debug key that opens this board's WebREPL for a while (docs/protocol.md).

In recovery, because a signature wants more heap than an app leaves. The order came with a poll and
was put down by app_api.unlock(), which has seen that it was for that very life.
"""

import machine
import os

import ota
from bootloader import board, rtc, trust
from bootloader.manifest import Rejected, signed

ORDER = "/state/order"
_PREFIX = b"ota-unlock-v1\0"


def run():
    """Judge the order, and reset: open or not."""
    ota.mark(rtc.ROUNDS, 0)
    try:
        units = verify_order(board.load()["id"])
        ota.mark(rtc.READY, units << 5)
        print("webrepl: opened for", units * 10, "minutes")
    except (OSError, ValueError, Rejected) as e:
        print("webrepl: order rejected:", repr(e))
    if "order" in os.listdir("/state"):
        os.remove(ORDER)
    machine.reset()


def verify_order(name):
    """Return for how many times ten minutes the order opens the board `name`.

    Raises Rejected or ValueError when it does not.
    """
    keys = trust.load()[0]
    with open(ORDER, "rb") as f:
        trust.signers(f, 1, keys, "debug", signed(f, _PREFIX)[1])
    with open(ORDER) as f:
        lines = [f.readline() for _ in range(5)]
    minutes = int(lines[3][8:])
    if lines != [
        "ota-unlock 1\n",
        "board %s\n" % name,
        "life %s\n" % lines[2][5:-1],
        "minutes %d\n" % minutes,
        "end\n",
    ]:
        raise Rejected("syntax")
    if minutes % 10 or not 10 <= minutes <= 70:
        raise Rejected("size")
    return minutes // 10
