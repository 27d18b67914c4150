"""The life before the app's: what would leave too much behind on its heap."""

import machine
import os
from micropython import const

import ota
from bootloader import board, rtc

_LIMIT = const(240)  # ticks of guard.py: two minutes


def run():
    """Poll for an app that does not poll by itself; hand what is known to the next life."""
    b = board.load()
    ready = rtc.load()[rtc.READY] | rtc.CHECKED
    if ota.dev:
        ready |= rtc.DEV
    if "pushed" in os.listdir("/state") and ota.stage("held").held():
        ota.more["push"] = 1
        if ota.dev:
            ready |= rtc.HEARD  # whoever has pushed it is there
    if ota.offline:
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
            ota.stage("plain").poll(b)
            if ota.heard:
                ready |= rtc.HEARD
    ota.mark(rtc.READY, ready)
    machine.reset()
