"""Connecting to known networks, the strongest in reach first."""

import network
import os
import sys
import time
from micropython import const

import ota
from bootloader import wifi_networks

_WAIT = const(20)  # s for one network
_SETTLES = const(10)  # fifths of a s in which the chip may still tell of the attempt before ...
_STALE = const(50)  # ... or repeat what it said then: an ESP32 does so until something else happens


def connected():
    return network.WLAN(network.STA_IF).isconnected()


def station():
    """Return the station, switched on and named; the access point is off then."""
    if "wifi.json" in os.listdir("/"):
        ota.stage("wifi_file").import_file()
    # An ESP8266 remembers the switch: its factory's access point is off for good.
    ap = network.WLAN(network.AP_IF)
    if ap.active():
        ap.active(False)
    b = ota.stage("board").load()
    name = b.get("name", b["id"]).replace(".", "-").replace("_", "-")
    # ESP32 answers to <name>.local; both tell it to the router.
    network.hostname(name[:32])
    sta = network.WLAN(network.STA_IF)
    sta.active(True)
    return sta


def _insist(sta, tries):
    # An ESP32 that tries endlessly (-1) never says that the password is wrong.
    if sys.platform == "esp32":
        sta.config(reconnects=tries)


def attempt(sta, ssid, password, tries=2):
    """Begin to connect; once lost, an ESP32 reconnects by itself so many times (-1: for ever).

    Returns the status before: as long as it stays the same, it may tell of the attempt before.
    """
    status = None
    try:
        # An ESP32 that is at it already refuses to begin anew.
        sta.disconnect()
        status = sta.status()
        _insist(sta, tries)
        sta.connect(ssid, password)
    except OSError as e:
        print("connecting:", repr(e))
    return status


def _in_order(sta):
    networks = wifi_networks.load()
    level = {}
    if len(networks) > 1:
        try:
            for found in sta.scan():
                level[found[0]] = max(found[3], level.get(found[0], -200))
        except OSError as e:
            print("looking for networks:", repr(e))
    # What the scan does not show may be hidden.
    return sorted(networks, key=lambda n: -level.get(n[0], -200))


def start(turn=0):
    """Begin to connect, on each turn to the next network. Scans on turn 0 only, for 2 s.

    An ESP8266 may be connected already: it remembers its last network. A board that knows none
    leaves for the portal, unless it has just been there.
    """
    sta = network.WLAN(network.STA_IF) if turn else station()
    if sta.isconnected():
        return
    networks = wifi_networks.load() if turn else _in_order(sta)
    if networks:
        ssid, key = networks[turn % len(networks)]
        attempt(sta, ssid, key, -1)
    elif not turn and not ota.portal_rounds and "portal" in ota.stage("board").load():
        ota.portal()


def connect(seconds=_WAIT):
    """Try the known networks, each for so long; True when the board has an address."""
    sta = station()
    if sta.isconnected():
        return True
    for ssid, password in _in_order(sta):
        old = attempt(sta, ssid, password)
        for i in range(seconds * 5):
            time.sleep_ms(200)
            ota.feed()  # a wait with an end is no hang
            if sta.isconnected():
                _insist(sta, -1)
                return True
            status = sta.status()
            if status != old:
                old = None
            ended = status in (2, 3, 15) or 200 < status < 213  # ESP8266; ESP32
            if ended and i >= (_STALE if old else _SETTLES):
                break
    return False
