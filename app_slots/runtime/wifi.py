"""Keeps the board on its Wi-Fi without ever waiting for it.

The chip reconnects by itself while it knows a network; this begins anew when that does not help.
"""

import network
from micropython import const

import ota
from runtime import log
from runtime.scheduler import rand

_FIRST = const(15)  # s without a network that was there before the first new beginning
_MOST = const(300)  # s between two of them


class Wifi:
    def __init__(self):
        self._sta = network.WLAN(0)  # the station interface on every chip
        self.up = False
        self._pause = _FIRST
        self._left = 2  # some chips are connected from the start

    def address(self):
        """The board's own address as text."""
        return self._sta.ifconfig()[0]

    def tick(self):
        """Look after the connection; called each second."""
        up = self._sta.isconnected()
        if up != self.up:
            self.up = up
            log.info("wifi: %s", self.address() if up else "lost")
            self._pause = self._left = _FIRST
        if up:
            return
        self._left -= 1
        if self._left <= 0:
            self._pause = min(self._pause * 2, _MOST)
            self._left = self._pause - rand(self._pause // 2)
            log.info("wifi: trying again, then in %d s", self._left)
            ota.stage("wifi").start()
