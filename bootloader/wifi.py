"""Connecting to known networks, the strongest in reach first."""

import network
import sys
import time
from micropython import const

import ota
from bootloader import known

_WAIT = const(20)  # s for one network
_SETTLES = const(2)  # s in which the chip may still tell of the attempt before
_ENDED = (2, 3, 201, 202, 204)  # wrong password, no such network: ESP8266, ESP32


def connected():
    return network.WLAN(network.STA_IF).isconnected()


def station():
    """Return the station, switched on and named; the access point is off then."""
    known.take_in()
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
    """Begin to connect; once lost, an ESP32 reconnects by itself so many times (-1: for ever)."""
    _insist(sta, tries)
    sta.connect(ssid, password)


def _in_order(sta):
    networks = known.load()
    level = {}
    if len(networks) > 1:
        for found in sta.scan():
            level[found[0]] = max(found[3], level.get(found[0], -200))
    # What the scan does not show may be hidden.
    return sorted(networks, key=lambda n: -level.get(n[0], -200))


def start(turn=0):
    """Begin to connect, on each turn to the next network. Scans on turn 0 only, for 2 s.

    A board that knows no network leaves for the portal, unless it has just been there.
    """
    sta = network.WLAN(network.STA_IF) if turn else station()
    networks = known.load() if turn else _in_order(sta)
    if networks:
        ssid, key = networks[turn % len(networks)]
        attempt(sta, ssid, key, -1)
    elif not turn and not ota.offline and "portal" in ota.stage("board").load():
        ota.portal()


def connect(seconds=_WAIT):
    """Try the known networks, each for so long; True when the board has an address."""
    sta = station()
    if sta.isconnected():
        return True
    for ssid, password in _in_order(sta):
        attempt(sta, ssid, password)
        for i in range(seconds * 5):
            time.sleep_ms(200)
            if sta.isconnected():
                _insist(sta, -1)
                return True
            if i >= _SETTLES * 5 and sta.status() in _ENDED:
                break
    return False
