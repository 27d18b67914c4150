"""Sends a poll (docs/protocol.md); loaded for each.

One short connection, never a wait: the socket does not block and every pause is the loop's.
"""

import json
import select
import socket
from asyncio import sleep_ms
from binascii import hexlify
from errno import EINPROGRESS, ETIMEDOUT
from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

import ota

_MOST = const(1024)  # bytes of a body
_HEAD = const(4096)  # bytes of a head: what proxies add is read, and skipped
_PART = const(96)  # bytes of a line that are read at once; of a longer one its beginning counts
_TIMEOUT = const(15000)  # ms for a whole poll


async def ask(key, url, nonce, body):
    """Send `body` to `url`; return the authenticated reply as a dict.

    Raises OSError: no reply; ValueError: malformed, or wrong MAC.
    """
    mac = ota.stage("hmac256").mac
    scheme, host, port = (url + ":80").split(":")[:3]
    if scheme != "http":
        raise ValueError("http:// addresses only")
    host = host[2:]
    head = "POST /d/v1/poll HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\nota-mac: %s\r\n\r\n" % (
        host,
        len(body),
        hexlify(mac(key, b"poll1\0", body)).decode(),
    )
    known, reply = await _exchange(host, int(port), head.encode(), body)
    if known != hexlify(mac(key, b"reply1\0", nonce, reply)):
        raise ValueError("mac")
    return json.loads(reply)


async def _exchange(host, port, *request):
    """Send the parts of `request`; return MAC and body of the answer, within the bounds above."""
    deadline = ticks_add(ticks_ms(), _TIMEOUT)
    address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    s = socket.socket(*address[:3])
    try:
        s.setblocking(False)
        try:
            s.connect(address[-1])
        except OSError as e:
            if e.errno != EINPROGRESS:
                raise
        poller = select.poll()
        poller.register(s, select.POLLOUT)
        for part in request:
            while part:
                await _ready(poller, deadline)
                part = part[s.send(part) :]
        poller.modify(s, select.POLLIN)
        return await _answer(s, poller, deadline)
    finally:
        s.close()


async def _answer(s, poller, deadline):
    """Read by lines, and into one buffer: an ESP8266's heap has no room for pieces as well."""
    mac = None
    length = 0
    room = _HEAD
    line = b""
    while line != b"\r\n":
        line = part = b""
        while part[-1:] != b"\n":
            await _ready(poller, deadline)
            part = s.readline(_PART)
            if not part:
                raise ValueError("truncated")
            if len(line) < _PART:
                line += part
            room -= len(part)
            if room < 0:
                raise ValueError("size")
        parts = line.split(b":")
        name = parts[0].lower()
        if name == b"ota-mac":
            mac = parts[1].strip()
        elif name == b"content-length":
            length = int(parts[1])
    if not 0 <= length <= _MOST:
        raise ValueError("size")
    body = bytearray(length)
    part = memoryview(body)
    while part:
        await _ready(poller, deadline)
        n = s.readinto(part)
        if not n:
            raise ValueError("truncated")
        part = part[n:]
    return mac, body


async def _ready(poller, deadline):
    while not poller.poll(0):
        if ticks_diff(deadline, ticks_ms()) < 0:
            raise OSError(ETIMEDOUT)
        await sleep_ms(20)
