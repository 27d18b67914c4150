"""Opens WebREPL, for ever or as long as RTC memory says. What stays is door.py."""

import _webrepl  # pyright: ignore[reportMissingImports] # no stub has it
import machine
import network
import socket
from micropython import const

import ota
from bootloader import board, rtc

_PORT = const(8266)
_CALLBACK = const(20)  # socket option: a function to call when something has arrived
_TICK = const(500)  # ms, guard.py's
_UNIT = const(1200)  # ticks of guard.py: ten minutes


def start():
    """Listen, from now on."""
    life = rtc.load()
    if life[rtc.FAILS] == 255:
        ota.more = {}
        return
    units = life[rtc.READY] >> 5
    if units:
        # Each life costs one at least: whatever resets the board makes no more of them.
        ota.mark(rtc.READY, life[rtc.READY] - 32)
    _webrepl.password(board.load()["webrepl"])
    network.WLAN(network.STA_IF)  # an ESP32 has no sockets before that
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(socket.getaddrinfo("0.0.0.0", _PORT)[0][-1])
    s.listen(1)
    s.setblocking(False)
    door = ota.stage("door")
    door.socket = s  # pyright: ignore
    ota.more["open"] = units * 600
    if ota.stage("held").held():
        ota.more["push"] = 1
    door.end = units * _UNIT  # pyright: ignore
    s.setsockopt(socket.SOL_SOCKET, _CALLBACK, door.accept)
    door.accept(s)  # pyright: ignore # who has knocked meanwhile is not called out again
    clock = ota.clock  # type: machine.Timer # pyright: ignore
    clock.init(period=_TICK, mode=machine.Timer.PERIODIC, callback=door.tick)
    print("webrepl: open on port", _PORT)
