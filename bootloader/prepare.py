"""A boot before the app's that verifies and polls, since both fragment the heap."""

import machine
import os
from micropython import const

import ota
from bootloader import board, rtc

_LIMIT = const(240)  # ticks of resident.py: two minutes


def run():
    """Poll for an app that does not poll by itself; hand what is known to the next life."""
    b = board.load()
    ready = rtc.load()[rtc.READY] | rtc.CHECKED
    if ota.dev_signed:
        ready |= rtc.DEV
    if "pushed" in os.listdir("/state") and ota.stage("pushed").is_running():
        ota.poll_extra["push"] = 1
        if ota.dev_signed:
            ready |= rtc.HEARD  # whoever has pushed it is there
    if ota.portal_rounds:
        ready |= rtc.OFFLINE
    if b["server"]:
        ready |= rtc.NAMED
    # A peer that trickles keeps no app from starting.
    ota.alarms = [(_LIMIT, rtc.READY, ready, True)]
    if ota.plain:
        led = ota.stage("led")
        led.show(led.CONNECTING)
        if not ota.stage("wifi").connect():
            ota.mark(rtc.WANT, rtc.PORTAL)
        elif b["server"] and not ready & rtc.HEARD:
            ota.stage("poll_app").poll(b)
            if ota.server_seen_at:
                ready |= rtc.HEARD
    ota.mark(rtc.READY, ready)
    machine.reset()
