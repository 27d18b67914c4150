"""Keeps the board on its Wi-Fi without ever waiting for it.

The chip reconnects by itself while it knows a network; network_changes.py helps when that does not
work (docs/wifi.md).
"""

import network
from micropython import const

import runtime

_STEP = const(15)  # s


class Wifi:
    def __init__(self, app, board):
        self.app = app
        self.board = board
        self._sta = network.WLAN(0)  # the station interface on every chip
        self.up = self.been = False  # now, once
        self.down = 0  # s

    def address(self):
        """The board's own address as text."""
        return self._sta.ifconfig()[0]

    def tick(self):
        """Look after the connection; called each second."""
        up = self._sta.isconnected()
        if up != self.up:
            part = runtime.lend("network_changes")  # no room: again in a second
            self.up = up
            self.down = 0
            part.changed(self)
        elif not up:
            self.down += 1
            if not self.down % _STEP:
                part = runtime.lend("network_changes")
                turn = part.down(self)
                part.__dict__.clear()
                part = None
                if turn:
                    runtime.connect(turn)
