"""Polling for a release that brings no runtime of its own."""

from micropython import const

import ota
from bootloader import board, record
from bootloader.poll import Poll, trust_version

_RETRY = const(120)  # ticks after a poll that failed, growing


def poll_running():
    """Poll from within the app; return the ticks until the next one is due."""
    return poll(board.load())


def poll(b):
    """Poll, confirm that somebody answered, and do as the answer says."""
    r = record.load()
    state = "trial" if ota.trial else "ok"
    version = trust_version()
    try:
        talk = Poll(b, r, state)
    except OSError as e:
        print("poll:", repr(e))
        ota.misses = min(ota.misses + 1, 6)
        return _RETRY << ota.misses
    talk.close()
    ota.misses = 0
    reply = talk.reply
    ota.answered()
    for order in reply.get("do", ()):
        if order == "rollback":
            ota.rollback()
        if order.startswith("retry "):
            ota.forget(bytes.fromhex(order[6:]))
    # After an install that did not get through it is asked for again ever later.
    early = ota.fails and ota.ticks < _RETRY << min(ota.fails, 6)
    if not ota.trial and not early and (reply.get("m") or reply["trust"] > version):
        ota.install()
    return reply["every"] * 2
