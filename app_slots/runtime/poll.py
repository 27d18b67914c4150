"""Asks the server what this board should run (docs/protocol.md), and reports; loaded for each poll.

One short connection a poll, never a wait: the socket does not block and every pause is the
loop's. What an answer asks for is done by the boot stage, after a reset. `u` is the Updater.
"""

import gc
import json
import os
import select
import socket
from asyncio import sleep_ms
from binascii import hexlify, unhexlify
from errno import EINPROGRESS, ETIMEDOUT
from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

import ota
import runtime
from runtime import log
from runtime.scheduler import rand

_MOST = const(1024)  # bytes of a head, of a body
_TIMEOUT = const(15000)  # ms for a whole poll
_LONGEST = const(600)  # s between two polls of a server that does not answer
_LONGEST_TRIAL = const(60)
_BUSY = const(3600)  # s an app may put an update off


async def poll(u):
    """Ask the server that has its turn, and do what it says."""
    servers = u.servers
    url = servers[u.at]
    gc.collect()  # the message wants a kilobyte in one piece
    try:
        reply = await _ask(u, url)
    except (OSError, ValueError, MemoryError) as e:
        u.at = (u.at + 1) % len(servers)
        # The pause doubles when all addresses had their turn.
        pause = min(4 << min(u.fails // len(servers), 9), _LONGEST_TRIAL if ota.trial else _LONGEST)
        u.fails += 1
        if not u.fails % (4 * len(servers)):
            u.app.once(lambda: runtime.lend("roam").search(u.board, servers), "search")
        u.left = pause // 2 + rand(pause)
        log.warning("updater: no answer from %s (%r), again in %d s", url, e, u.left)
        return
    u.fails = 0
    moved = reply.get("moved")
    if moved or url not in u.board["server"]:
        u.at = runtime.lend("roam").learn(u.board, servers, url, moved)
    u.ticket = str(reply.get("k", ""))
    if reply.get("stale") or u.trust is None:
        # Only a message with the ticket of the last reply counts: all of it again, with this.
        u.trust = None
        u.left = 0
        return
    every = min(max(int(reply.get("every", 300)), 1), 86400)
    u.left = every - every // 10 + rand(every // 5)
    u.answered = url
    u.time = reply.get("t"), u.app.up
    ota.answered()
    _obey(u, reply)


def _obey(u, reply):
    u.unknown = []
    for order in reply.get("do", ()):
        if order == "rollback":
            _leave(u, ota.rollback)
        elif order[:6] == "retry ":
            ota.forget(unhexlify(order[6:38]))
        else:
            u.unknown.append(order[:40])
    del u.unknown[4:]
    wanted = reply.get("m", "")
    if not ota.trial and (wanted or int(reply.get("trust", 0)) > u.trust):
        _install(u, unhexlify(wanted)[:16])
    else:
        u.since = None


def _install(u, digest):
    """Hand over to the boot stage's installer, unless it is too early for that."""
    up = u.app.up
    bad = ota.bad
    if bad and digest == bad[0]:
        # Rejected for good, or softly: then again after 1, 2, 4 ... 24 h.
        if not bad[2] or up < 3600 * min(1 << (bad[2] - 1), 24):
            return
    # After an install that failed, the pause grows from half a minute to an hour.
    if runtime.trying or ota.fails and up < min(15 << min(ota.fails, 8), 3600):
        return
    busy = u.app.busy
    if busy and busy():
        if u.since is None:
            u.since = up
        if up - u.since < _BUSY:
            log.info("updater: the app is busy, an update waits")
            return
    _leave(u, ota.install)


def _leave(u, how):
    log.info("updater: leaving for the boot stage")
    u.app.stop()
    how()


def _message(u, nonce):
    app = u.app
    message = {
        "id": u.board["id"],
        "n": nonce,
        "k": u.ticket,
        "seq": ota.seq,
        "m": hexlify(ota.digest).decode(),
        "state": "trial" if ota.trial else "ok",
        "heap": gc.mem_free(),
        "up": app.up,
    }
    if u.unknown:
        message["unk"] = u.unknown
    if app.held:
        message["held"] = 1
    failures = app.failures()
    if app.held or failures != u.sent:
        message["jobs"] = failures
    if u.ticket and u.trust is None:
        u.trust = runtime.lend("report").fill(message, u.wifi.address(), _MOST)
    return json.dumps(message, separators=(",", ":")).encode(), failures


async def _ask(u, url):
    """Send one poll to `url`; return the authenticated reply as a dict."""
    mac = ota.stage("wire").mac
    key = u.key
    nonce = hexlify(os.urandom(8))
    body, failures = _message(u, nonce.decode())
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
    u.sent = failures
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
