"""Polling for a release that brings no runtime of its own."""

import machine
import os
from micropython import const

import ota
from bootloader import board, record
from bootloader.manifest import hexa
from bootloader.poll import Poll, trust_version

_RETRY = const(120)  # ticks after a poll or install that failed, growing
_HOUR = const(7200)  # ticks
_DAY = const(86400)  # s
_JOIN = const(20)  # ticks for a network to work
# Of rtc.WANT. To leave by ota.rollback() and its like would load app_api.py a second time.
_INSTALL = const(1)
_ROLLBACK = const(2)
_PORTAL = const(8)


def around(n):
    """Return `n` or up to a quarter more or less: boards lost together must not return together."""
    return n - n // 4 + n * os.urandom(1)[0] // 510


def poll_running():
    """Poll from within the app; return the ticks until the next one is due."""
    return poll(board.load()) if _joined() else _JOIN


def _joined():
    """Whether to poll now. An ESP32 forgets its network at a reset, and has to be told again."""
    wifi = ota.stage("wifi")
    if wifi.connected():
        return True
    if not ota.plain:
        # The runtime is there and does not run: nobody else connects, and the app may sleep soon.
        return wifi.connect() or True
    try:
        wifi.start(ota.poll_failures)
    except OSError as e:
        print("wifi:", repr(e))
    if ota.poll_failures:
        return True  # it fails, which counts and lengthens the pause
    ota.poll_failures = 1
    return False


def poll(b):
    """Poll, confirm that somebody answered, and do as the answer says."""
    r = record.load()
    state = "trial" if ota.trial else "ok"
    version = trust_version()
    try:
        talk = Poll(b, r, state)
    except OSError as e:
        ota.poll_extra.pop("unk", None)  # what the server does not take is not said again
        ota.poll_failures = min(ota.poll_failures + 1, 6)
        pause = around(_RETRY << ota.poll_failures)
        print("poll:", repr(e), "again in", pause // 2, "s")
        # Half an hour, the longer the more often the portal was of no use.
        late = ota.ticks > _HOUR // 2 << min(ota.portal_rounds, 5)
        if late and not ota.trial and not ota.stage("wifi").connected():
            ota.exit(_PORTAL)
        return pause
    talk.close()
    ota.poll_failures = 0
    reply = talk.reply
    ota.answered()
    ota.poll_extra.pop("unk", None)
    for order in reply.get("do", ()):
        if order == "rollback":
            ota.exit(_ROLLBACK)
        elif order.startswith("retry "):
            if ota.rejection and order[6:] == hexa(ota.rejection[0]):
                ota.retry(ota.rejection[0])
        elif order.startswith("ota-unlock 1\n"):
            ota.unlock(order)
        else:
            ota.poll_extra["unk"] = [order[:24]]
    if not ota.trial and (reply.get("m") or reply["trust"] > version) and not _early(reply):
        ota.exit(_INSTALL)
    return min(max(reply["every"], 1), _DAY) * 2


def _early(reply):
    """Whether what is offered shall wait: it was tried, or its install did not get through."""
    wait = 0
    if ota.rejection and reply.get("m", "")[:32] == hexa(ota.rejection[0]):
        if not ota.rejection[2]:
            return True
        wait = _HOUR * min(1 << (ota.rejection[2] - 1), 24)
    if ota.install_failures:
        wait = max(wait, _RETRY << min(ota.install_failures, 6))
    if wait and machine.reset_cause() == machine.DEEPSLEEP_RESET:
        # No life is that long where deep sleep ends each: one in so many, by lot.
        return os.urandom(1)[0] * min(wait // _RETRY, 64) > 255
    return ota.ticks < wait
