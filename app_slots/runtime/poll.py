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

_MOST = const(1024)  # bytes of a head, of a body
_TIMEOUT = const(15000)  # ms for a whole poll


async def ask(key, url, nonce, body):
    """Send `body` to `url`; return the authenticated reply as a dict.

    Raises OSError when none comes, ValueError for what is none.
    """
    mac = ota.stage("wire").mac
    scheme, host, port = (url + ":80").split(":")[:3]
    if scheme != "http":
        raise ValueError("http:// addresses only")
    host = host[2:]
    head = "POST /d/v1/poll HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\nota-mac: %s\r\n\r\n" % (
        host,
        len(body),
        hexlify(mac(key, b"poll1\0", body)).decode(),
    )
    head, reply = await _exchange(host, int(port), head.encode(), body)
    if _field(head, b"ota-mac") != hexlify(mac(key, b"reply1\0", nonce, reply)):
        raise ValueError("mac")
    return json.loads(reply)


def _field(head, name):
    """Return the value of the field `name` (lower case) in an HTTP head, None when it has none."""
    for line in head.split(b"\r\n"):
        parts = line.split(b":")
        if parts[0].lower() == name and len(parts) > 1:
            return parts[1].strip()
    return None


async def _exchange(host, port, *request):
    """Send the parts of `request`; return head and body of the answer, within the bounds above."""
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
        data = b""
        while True:
            await _ready(poller, deadline)
            more = s.recv(256)
            data += more
            end = data.find(b"\r\n\r\n") + 4
            if end > _MOST or len(data) - end > _MOST:
                raise ValueError("size")
            if end > 3:
                length = int(_field(data[:end], b"content-length") or 0)
                if len(data) >= end + length:
                    return data[:end], data[end : end + length]
            if not more:
                raise ValueError("truncated")
    finally:
        s.close()


async def _ready(poller, deadline):
    while not poller.poll(0):
        if ticks_diff(deadline, ticks_ms()) < 0:
            raise OSError(ETIMEDOUT)
        await sleep_ms(20)
