"""Asks the server what this board should run (docs/protocol.md), and reports.

One short connection a poll, never a wait: the socket does not block and every pause is the
loop's. What an answer asks for is done by the boot stage, after a reset.
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


class Updater:
    def __init__(self, app, wifi, board, server=""):
        self._app = app
        self._wifi = wifi
        self._board = board
        self._key = unhexlify(board["key"])
        self._servers = ([server] if server else []) + board["server"]
        self._fails = 0  # polls in a row without an answer
        self._at = 0  # which server is asked
        self._left = rand(2)  # s to the next poll
        self._ticket = ""
        self._trust = None  # version of the trust file; None: the board has yet to be described
        self._unknown = []  # orders not understood
        self._sent = {}  # the failures that the server knows of
        self._since = None  # when the app was first too busy for an update
        self.answered = ""  # the address whose answer was the last one
        self.time = None  # what it said: seconds since 1970, and the app's `up` then

    def soon(self):
        """Poll at the next opportunity."""
        self._left = 0

    def tick(self):
        """Called each second; returns the coroutine of a poll when one is due."""
        if not self._servers or not self._wifi.up:
            return None
        self._left -= 1
        return self._poll() if self._left < 0 else None

    async def _poll(self):
        servers = self._servers
        url = servers[self._at]
        self._left = _LONGEST  # should anything unforeseen end this
        gc.collect()  # the message wants a kilobyte in one piece
        try:
            reply = await self._ask(url)
        except (OSError, ValueError, MemoryError) as e:
            self._at = (self._at + 1) % len(servers)
            # The pause doubles when all addresses had their turn.
            pause = min(4 << min(self._fails // len(servers), 9), 60 if ota.trial else _LONGEST)
            self._fails += 1
            if not self._fails % (4 * len(servers)):
                self._app.once(lambda: runtime.lend("roam").search(self._board, servers), "search")
            self._left = pause // 2 + rand(pause)
            log.warning("updater: no answer from %s (%r), again in %d s", url, e, self._left)
            return
        self._fails = 0
        moved = reply.get("moved")
        if moved or url not in self._board["server"]:
            self._at = runtime.lend("roam").learn(self._board, servers, url, moved)
        self._ticket = str(reply.get("k", ""))
        if reply.get("stale") or self._trust is None:
            # Only a message with the ticket of the last reply counts: all of it again, with this.
            self._trust = None
            self._left = 0
            return
        every = min(max(int(reply.get("every", 300)), 1), 86400)
        self._left = every - every // 10 + rand(every // 5)
        self.answered = url
        self.time = reply.get("t"), self._app.up
        ota.answered()
        self._obey(reply)

    def _obey(self, reply):
        self._unknown = []
        for order in reply.get("do", ()):
            if order == "rollback":
                self._leave(ota.rollback)
            elif order[:6] == "retry ":
                ota.forget(unhexlify(order[6:38]))
            else:
                self._unknown.append(order[:40])
        del self._unknown[4:]
        wanted = reply.get("m", "")
        if not ota.trial and (wanted or int(reply.get("trust", 0)) > self._trust):
            self._install(unhexlify(wanted)[:16])
        else:
            self._since = None

    def _install(self, digest):
        """Hand over to the boot stage's installer, unless it is too early for that."""
        up = self._app.up
        bad = ota.bad
        if bad and digest == bad[0]:
            # Rejected for good, or softly: then again after 1, 2, 4 ... 24 h.
            if not bad[2] or up < 3600 * min(1 << (bad[2] - 1), 24):
                return
        # After an install that failed, the pause grows from half a minute to an hour.
        if runtime.trying or ota.fails and up < min(15 << min(ota.fails, 8), 3600):
            return
        busy = self._app.busy
        if busy and busy():
            if self._since is None:
                self._since = up
            if up - self._since < _BUSY:
                log.info("updater: the app is busy, an update waits")
                return
        self._leave(ota.install)

    def _leave(self, how):
        log.info("updater: leaving for the boot stage")
        self._app.stop()
        how()

    def _message(self, nonce):
        app = self._app
        message = {
            "id": self._board["id"],
            "n": nonce,
            "k": self._ticket,
            "seq": ota.seq,
            "m": hexlify(ota.digest).decode(),
            "state": "trial" if ota.trial else "ok",
            "heap": gc.mem_free(),
            "up": app.up,
        }
        if self._unknown:
            message["unk"] = self._unknown
        if app.held:
            message["held"] = 1
        failures = app.failures()
        if app.held or failures != self._sent:
            message["jobs"] = failures
        if self._ticket and self._trust is None:
            self._trust = runtime.lend("report").fill(message, self._wifi.address(), _MOST)
        return json.dumps(message, separators=(",", ":")).encode(), failures

    async def _ask(self, url):
        """Send one poll to `url`; return the authenticated reply as a dict."""
        mac = ota.stage("wire").mac
        key = self._key
        nonce = hexlify(os.urandom(8))
        body, failures = self._message(nonce.decode())
        scheme, host, port = (url + ":80").split(":")[:3]
        if scheme != "http":
            raise ValueError("http:// addresses only")
        host = host[2:]
        head = (
            "POST /d/v1/poll HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\nota-mac: %s\r\n\r\n"
            % (host, len(body), hexlify(mac(key, b"poll1\0", body)).decode())
        )
        head, reply = await _exchange(host, int(port), head.encode(), body)
        if _field(head, b"ota-mac") != hexlify(mac(key, b"reply1\0", nonce, reply)):
            raise ValueError("mac")
        self._sent = failures
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
