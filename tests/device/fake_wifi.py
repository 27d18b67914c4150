"""Stands for the boot stage's wifi.py."""

import network

import fake_ota


def start(turn=0):
    if not network.WLAN(0).isconnected():
        fake_ota.events.append("wifi")
