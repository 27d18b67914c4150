"""Asks an NTP server for the time (RFC 5905), and never waits. Loaded for the question (clock.py).

Names are looked up here as well (RFC 1035): the firmware's getaddrinfo() stops the board for it.
"""

import network
import os
import socket
from asyncio import sleep_ms
from errno import EAGAIN, ETIMEDOUT
from micropython import const
from time import ticks_diff, ticks_ms

_SLOW = const(2000)  # ms after which an answer is of no use
_STEP = const(20)  # ms between two looks for it
_SINCE_1900 = 2208988800
name_port = 53


async def ask(host):
    """Return the milliseconds since 1970 by the NTP server `host`, "name" or "name:port".

    Raises OSError when nothing answers, ValueError when that knows nothing.
    """
    host, port = (host + ":123").split(":")[:2]
    if not host.replace(".", "").isdigit():
        host = await _address(host)
    # A random number in the place of our time, which nobody needs, tells answers apart.
    nonce = os.urandom(8)
    request = b"\x23" + bytes(39) + nonce
    answer, took = await _exchange(
        host, int(port), request, 48, lambda b: len(b) == 48 and b[24:32] == nonce
    )
    seconds = int.from_bytes(answer[40:44], "big")
    # No server, its clock has no source, or none that is near enough.
    if answer[0] & 7 != 4 or answer[0] >> 6 == 3 or not 0 < answer[1] < 16 or not seconds:
        raise ValueError("it does not know either")
    if seconds < 1 << 31:  # the count began anew in 2036
        seconds += 1 << 32
    part = int.from_bytes(answer[44:48], "big") * 1000 >> 32
    return (seconds - _SINCE_1900) * 1000 + part + took // 2


async def _address(name):
    """Return the address of a host as the network's name server has it."""
    query = os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0"
    for label in name.split("."):
        query += bytes((len(label),)) + label.encode()
    query += b"\0\0\1\0\1"
    end = len(query)
    server = network.WLAN(0).ifconfig()[3]
    b, _ = await _exchange(
        server, name_port, query, 512, lambda b: b[:2] == query[:2] and b[12:end] == query[12:]
    )
    i = end
    for _ in range(b[7]):
        while 0 < b[i] < 192:
            i += b[i] + 1
        i += 2 if b[i] else 1  # a name ends with 0 or with a reference
        kind = b[i : i + 2]
        size = b[i + 9]
        i += 10
        if kind == b"\0\1" and size == 4:
            return "%d.%d.%d.%d" % tuple(b[i : i + 4])
        i += size
    raise ValueError("no such name")


async def _exchange(host, port, request, most, fits):
    """Send `request`; return (the first answer that `fits`, the ms it took).

    Of each answer `most` bytes are read: the rest would only take heap.
    """
    address = socket.getaddrinfo(host, port, 0, socket.SOCK_DGRAM)[0]
    s = socket.socket(*address[:3])
    try:
        s.setblocking(False)
        begin = ticks_ms()
        s.sendto(request, address[-1])
        while True:
            await sleep_ms(_STEP)
            took = ticks_diff(ticks_ms(), begin)
            if took > _SLOW:
                raise OSError(ETIMEDOUT)
            try:
                answer = s.recv(most)
            except OSError as e:
                if e.errno != EAGAIN:
                    raise
                continue
            if fits(answer):
                return answer, took
    finally:
        s.close()
