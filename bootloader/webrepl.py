"""Opens WebREPL, for ever or as long as RTC memory says. What stays is webrepl_session.py."""

import _webrepl  # pyright: ignore[reportMissingImports] # no stub has it
import machine
import network
import socket
from binascii import unhexlify
from micropython import const

import ota
from bootloader import board, rtc

_PORT = const(8266)
_CALLBACK = const(20)  # socket option: a function to call when something has arrived
_TICK = const(500)  # ms, resident.py's
_UNIT = const(1200)  # ticks of resident.py: ten minutes


def start():
    """Listen, from now on."""
    life = rtc.load()
    if life[rtc.FAILS] == 255:
        ota.poll_extra = {}
        return
    units = life[rtc.READY] >> 5
    if units:
        # Each life costs one at least: whatever resets the board makes no more of them.
        ota.mark(rtc.READY, life[rtc.READY] - 32)
    facts = board.load()
    _webrepl.password(facts["webrepl"])
    network.WLAN(network.STA_IF)  # an ESP32 has no sockets before that
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(socket.getaddrinfo("0.0.0.0", _PORT)[0][-1])
    s.listen(1)
    s.setblocking(False)
    session = ota.stage("webrepl_session")
    session.socket = s  # pyright: ignore
    session.device_key = unhexlify(facts["key"])  # pyright: ignore
    ota.poll_extra["open"] = units * 600
    if ota.stage("pushed").is_running():
        ota.poll_extra["push"] = 1
    session.end = units * _UNIT  # pyright: ignore
    s.setsockopt(socket.SOL_SOCKET, _CALLBACK, session.accept)
    session.accept(s)  # pyright: ignore # whoever connected meanwhile is not announced again
    clock = ota.tick_timer  # type: machine.Timer # pyright: ignore
    clock.init(period=_TICK, mode=machine.Timer.PERIODIC, callback=session.tick)
    print("webrepl: open on port", _PORT)
