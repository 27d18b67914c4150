"""Asks the server what this board should run (docs/protocol.md), and reports.

One short connection a poll, never a wait: the socket does not block and every pause is the
loop's. What an answer asks for is done by the boot stage, after a reset.
"""

import gc
import json
import os
import select
import socket
import sys
from binascii import hexlify, unhexlify
from errno import EAGAIN, EINPROGRESS, ETIMEDOUT
from time import ticks_add, ticks_diff, ticks_ms

import ota
from asyncio import sleep_ms
from micropython import const

from runtime import log
from runtime.scheduler import rand

_MOST = const(1024)  # bytes of a head, of a body
_TIMEOUT = const(15000)  # ms for a whole poll
_LONGEST = const(600)  # s between two polls of a server that does not answer
_LONGEST_TRIAL = const(60)
_BUSY = const(3600)  # s an app may put an update off
_KNOWN = ("k", "t", "every", "trust", "m", "do", "stale")


class Unanswered(Exception):
    """No answer, or one that is not the server's."""


class Updater:
    def __init__(self, app, wifi, board, server=""):
        self._app = app
        self._wifi = wifi
        self._id = board["id"]
        self._about = board["app"], board["class"]
        self._key = unhexlify(board["key"])
        self._servers = ([server] if server else []) + board["server"]
        del self._servers[3:]
        self._at = 0  # which of them
        self._fails = 0  # polls in a row without an answer
        self._left = rand(2)  # s to the next poll
        self._ticket = ""
        self._full = True  # the next message says everything about this board
        self._unknown = []
        self._told = not ota.bad  # the server knows of the rejected release
        self._sent = None  # the tallies the server knows
        self._since = None  # when the app was first too busy for an update
        self.answered = False

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
        url = self._servers[self._at % len(self._servers)]
        try:
            reply = await self._ask(url)
        except (OSError, ValueError, Unanswered) as e:
            self._fails += 1
            self._at += 1
            # A round over all addresses, then a pause twice as long as the last.
            pause = 4 << min(self._fails // len(self._servers), 8)
            pause = min(pause, _LONGEST_TRIAL if ota.trial else _LONGEST)
            self._left = pause // 2 + rand(pause)
            log.warning("updater: %s does not answer (%r), again in %d s", url, e, self._left)
            return
        self._fails = 0
        self._ticket = str(reply.get("k", ""))
        if reply.get("stale"):
            # The report did not count: say everything again, under the new ticket.
            self._full = True
            self._left = 0
            return
        every = min(max(int(reply.get("every", 300)), 5), 86400)
        self._left = every - every // 10 + rand(every // 5)
        self._full = False
        self._told = True
        self.answered = True
        ota.answered()
        self._obey(reply)

    def _obey(self, reply):
        self._unknown = [k[:40] for k in reply if k not in _KNOWN][:4]
        for order in reply.get("do", ()):
            if order == "rollback":
                log.warning("updater: rollback ordered")
                self._app.stop()
                ota.rollback()
            elif order.startswith("retry "):
                ota.forget(unhexlify(order[6:38]))
            elif len(self._unknown) < 4:
                self._unknown.append(order[:40])
        wanted = reply.get("m")
        if not ota.trial and (wanted or int(reply.get("trust", 0)) > _trust()):
            self._install(wanted and unhexlify(wanted)[:16])

    def _install(self, digest):
        """Hand over to the boot stage's installer, unless it is too early for that."""
        up = self._app.up
        bad = ota.bad
        if bad and digest == bad[0]:
            # Softly rejected: again after 1, 2, 4 ... 24 h; for good: never.
            if not bad[2] or up < 3600 * min(1 << (bad[2] - 1), 24):
                return
        if ota.fails and up < min(15 << ota.fails, 3600):
            log.info("updater: the last install failed, waiting")
            return
        if self._app.settings.trial:
            return
        busy = self._app.busy
        if busy and busy():
            self._since = self._since or up
            if up - self._since < _BUSY:
                log.info("updater: the app is busy, the update waits")
                return
        log.info("updater: an update is offered, leaving for the installer")
        self._app.stop()
        ota.install()

    def _message(self, nonce):
        message = {
            "id": self._id,
            "n": nonce,
            "k": self._ticket,
            "seq": ota.seq,
            "m": hexlify(ota.digest).decode(),
            "state": "trial" if ota.trial else "ok",
            "heap": gc.mem_free(),
            "up": self._app.up,
        }
        if self._full:
            implementation = sys.implementation
            mpy = getattr(implementation, "_mpy", 0)
            message["proto"] = 1
            message["app"], message["class"] = self._about
            message["chip"] = sys.platform
            message["boot"] = getattr(ota, "version", 1)
            message["fw"] = "%d.%d.%d" % implementation[1][:3]
            message["mpy"] = "%d.%d" % (mpy & 255, mpy >> 8 & 3)
            message["trust"] = _trust()
            message["addr"] = self._wifi.address()
        if self._unknown:
            message["unk"] = self._unknown
        held = ota.trial and self._app.held
        if held:
            message["held"] = 1
        jobs = self._app.failures()
        if jobs and (held or jobs != self._sent):
            message["jobs"] = jobs
        if not self._told:
            digest, why, soft = ota.bad
            message["bad"] = {
                "m": hexlify(digest).decode(),
                "why": why,
                "soft": int(bool(soft)),
                "trace": _why(),
            }
        return message, jobs

    async def _ask(self, url):
        """Send one poll to `url`; return the authenticated reply as a dict."""
        nonce = hexlify(os.urandom(8)).decode()
        message, jobs = self._message(nonce)
        body = json.dumps(message)
        while len(body) > _MOST:
            bad = message["bad"]
            bad["trace"] = bad["trace"][len(body) - _MOST :]
            body = json.dumps(message)
        del message
        body = body.encode()
        mac = ota.stage("wire").mac
        host, port = _parts(url)
        request = b"POST /d/v1/poll HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\nota-mac: %s\r\n\r\n" % (
            host.encode(), len(body), hexlify(mac(self._key, b"poll1\0", body)),
        )  # fmt: skip
        head, reply = await _exchange(host, port, request + body)
        good = hexlify(mac(self._key, b"reply1\0", nonce.encode(), reply))
        if head.find(b" 200 ") < 0 or _field(head, b"ota-mac") != good:
            raise Unanswered("mac")
        self._sent = jobs
        return json.loads(reply)


def _parts(url):
    """Split `http://host:port` into host and port. Raises ValueError for any other form."""
    scheme, rest = url.split("://")
    if scheme != "http":
        raise ValueError("http:// addresses only")
    host = rest.split("/")[0].split(":")
    return host[0], int(host[1]) if len(host) > 1 else 80


def _field(head, name):
    """Return the value of the field `name` (lower case) in an HTTP head, b"" when it has none."""
    for line in head.split(b"\r\n"):
        i = line.find(b":")
        if i > 0 and line[:i].lower() == name:
            return line[i + 1 :].strip()
    return b""


async def _exchange(host, port, request):
    """Send `request`, return head and body of the answer, both bounded, within _TIMEOUT."""
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
        request = memoryview(request)
        while request:
            await _ready(poller, deadline)
            request = request[s.send(request) :]
        poller.modify(s, select.POLLIN)
        data = b""
        end = want = -1
        while end < 0 or len(data) < want:
            if end < 0 and len(data) > _MOST:
                raise Unanswered("size")
            await _ready(poller, deadline)
            try:
                more = s.recv(256)
            except OSError as e:
                if e.errno != EAGAIN:
                    raise
                continue
            if not more:
                raise Unanswered("truncated")
            data += more
            if end < 0:
                end = data.find(b"\r\n\r\n") + 4
                if end < 4:
                    end = -1
                    continue
                length = int(_field(data[:end], b"content-length"))
                if end > _MOST or not 0 <= length <= _MOST:
                    raise Unanswered("size")
                want = end + length
        return data[:end], data[end:want]
    finally:
        s.close()


async def _ready(poller, deadline):
    while not poller.poll(0):
        if ticks_diff(deadline, ticks_ms()) < 0:
            raise OSError(ETIMEDOUT)
        await sleep_ms(20)


def _trust():
    """The version of the newest trust file; the boot stage is who checks it."""
    newest = 0
    for path in ("/trust/0/trust", "/trust/1/trust"):
        try:
            with open(path) as f:
                f.readline()
                f.readline()
                newest = max(newest, int(f.readline().split(" ")[1]))
        except (OSError, ValueError, IndexError):
            log.warning("updater: %s is damaged", path)
    return newest


def _why():
    """The text the boot stage kept about the last failure."""
    try:
        with open("/state/why") as f:
            return f.read(500)
    except (OSError, ValueError):  # none, or cut inside a character
        return ""
