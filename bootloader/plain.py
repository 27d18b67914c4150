"""Polling for a release that brings no runtime of its own."""

from micropython import const

import ota

from bootloader import board, record, trust, wifi
from bootloader.poll import Poll

_RETRY = const(120)  # ticks after a poll that failed, growing


def at_start(b):
    """Before such an app starts: connect and poll once."""
    if wifi.connect():
        ota.due = ota.ticks + _poll(b)


def poll_running():
    """Poll from within the app; return the ticks until the next one is due."""
    return _poll(board.load())


def _poll(b):
    r = record.load()
    state = "trial" if ota.trial else "ok"
    version = trust.version()
    try:
        poll = Poll(b, r, state, ota.seq, ota.digest)
    except OSError as e:
        print("poll:", repr(e))
        ota.misses = min(ota.misses + 1, 6)
        return _RETRY << ota.misses
    poll.close()
    ota.misses = 0
    reply = poll.reply
    ota.answered()
    for order in reply.get("do", ()):
        if order == "rollback":
            ota.rollback()
        if order.startswith("retry "):
            ota.forget(bytes.fromhex(order[6:]))
    if not ota.trial and (reply.get("m") or reply["trust"] > version):
        ota.install()
    return reply["every"] * 2
