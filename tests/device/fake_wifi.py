"""Stands for the boot stage's wifi.py."""

import fake_ota
import network


def start(turn=0):
    if not network.WLAN(0).isconnected():
        fake_ota.events.append("wifi")
