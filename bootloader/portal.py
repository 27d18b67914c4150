"""The board's own access point, with one page: choose a network, from a phone.

A life of its own, before the app's. It ends when a network works, or after a set time; the next
life starts the app in any case. What was known is kept whatever is tried here.
"""

import gc
import machine
import network
import os
import select
import socket
import time
from binascii import hexlify
from micropython import const

import ota
from bootloader import portal_page, portal_protocols

_OPEN = const(300)  # s that it stays open, counted anew while somebody uses it ...
_MOST = const(1800)  # ... up to so many
_LIMIT = const(5000)  # ticks of resident.py, above that
_QUIET = const(60)  # s without a request after which known networks are tried again
_JOIN = const(20)  # s for a network to work
_SETTLES = const(2)  # s in which the chip may still tell of the attempt before ...
_STALE = const(10)  # ... or repeat what it said then (wifi.py)
_LINGER = const(30)  # s in which the last page can be fetched
_PRESSES = const(6)  # rtc.py
_PORTALS = const(7)  # rtc.py
_CLIENTS = const(3)  # an ESP8266 has five connections in all
_NETWORKS = const(16)
_FIELDS = (b"t", b"s", b"n", b"p", b"u", b"do")  # of the form
_LED = const(0x00FF)  # a second on, a second off

# What status() says when an attempt has ended: ESP8266, ESP32
_WRONG = (2, 15, 202, 204)  # the password
_MISSING = (3, 201)  # no such network in reach; other ends are above

_GO = b"HTTP/1.1 302 Found\r\nlocation: http://%s/\r\nconnection:close\r\n\r\n"
_PAGE = (
    b"HTTP/1.1 %s\r\ncontent-type: text/html\r\ncache-control: no-store\r\nconnection:close\r\n\r\n"
)


def _lend(name, function, *args):
    """Call a function of another module, which is here for the moment.

    Emptied, because the collector takes what an old stack frame left behind for a reference.
    """
    module = ota.stage(name)
    try:
        return getattr(module, function)(*args)
    finally:
        module.__dict__.clear()
        gc.collect()


def run():
    """Serve, then reset."""
    _lend("led", "show", _LED)
    # Should anything hang; the byte is zero already.
    ota.alarms = [(_LIMIT, _PRESSES, 0, True)]
    b = _lend("board", "load")
    name = b.get("name", b["id"])
    sta = _lend("wifi", "station")
    ap = network.WLAN(network.AP_IF)
    ap.active(True)
    ssid = ("mipy-" + name)[:32]
    ap.config(ssid=ssid, key=b["portal"], security=3)
    print("portal:", ssid)
    try:
        if Portal(sta, ap.ifconfig()[0], b, name).serve():
            ota.mark(_PORTALS, 0)
    finally:
        ap.active(False)
    machine.reset()


class Portal:
    def __init__(self, sta, address, b, name):
        self._address = address
        self._board = b
        self._sta = sta
        self._show = ()  # sections of the page beside the form
        # What the page tells, by its places
        self._values = {b"name": name.encode(), b"ssid": b"", b"server": b"", b"hidden": b""}
        self._values[b"token"] = hexlify(os.urandom(8))
        self._joining = None  # (ssid, password) being tried, until _limit
        self._done = False
        self._limit = self._turn = 0
        self._clients = []
        self._scan()

    def _scan(self):
        found = {}
        try:
            # A station that is looking for its network keeps an ESP8266's access point deaf.
            self._sta.disconnect()
            for ssid, _, _, level, security, _ in self._sta.scan():
                if ssid and level > found.get(ssid, (-999,))[0]:
                    found[ssid] = level, security > 0
        except OSError as e:
            print("portal:", repr(e))
        self._found = found
        self._names = sorted(found, key=lambda ssid: -found[ssid][0])[:_NETWORKS]

    def serve(self):
        """Return whether a network works; after the set time at the latest."""
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        door = socket.socket()
        for s, port in ((names, 53), (door, 80)):
            s.setblocking(False)
            s.bind(("", port))
        door.listen(_CLIENTS)
        poll = self._poll = select.poll()
        poll.register(names, select.POLLIN)
        poll.register(door, select.POLLIN)
        self._used = start = time.time()
        while not self._over(start):
            for ready in poll.poll(200):
                try:
                    if ready[0] is names:
                        self._asked(names)
                    elif ready[0] is door:
                        self._enter(door)
                except OSError as e:  # who asked is gone already, or no answer leaves
                    print("portal:", repr(e))
            for client in list(self._clients):
                if not self._step(client):
                    self._leave(client)
        # The reset closes what is open.
        return self._sta.isconnected()

    def _over(self, start):
        now = time.time()
        if self._joining:
            self._look(now)
        elif self._done:
            return now >= self._limit
        elif self._sta.isconnected():
            return True
        elif now - self._used >= _QUIET and now >= self._limit:
            self._limit = now + _JOIN
            self._turn += 1
            _lend("wifi", "start", self._turn)
        return now - self._used > _OPEN or now - start > _MOST

    # --- clients

    def _asked(self, names):
        query, peer = names.recvfrom(512)
        reply = portal_protocols.dns_answer(query, bytes(int(n) for n in self._address.split(".")))
        if reply:
            names.sendto(reply, peer)

    def _enter(self, door):
        if len(self._clients) == _CLIENTS:
            for client in self._clients:
                # Who has not asked by now makes room for who may.
                if not client.answer:
                    self._leave(client)
                    break
            else:
                return
        client = portal_protocols.Client(door.accept()[0])
        self._clients.append(client)
        self._poll.register(client.socket, select.POLLIN)

    def _leave(self, client):
        self._clients.remove(client)
        self._poll.unregister(client.socket)
        client.socket.close()
        gc.collect()

    def _step(self, client):
        """Go on with a client; false when it is finished with."""
        try:
            if not client.answer and client.receive():
                client.answer = self._answer(client)
                self._poll.modify(client.socket, select.POLLOUT)
            if client.answer and client.send():
                return False
        except OSError as e:
            if e.args != (11,):  # EAGAIN
                return False
        except (IndexError, MemoryError, ValueError):
            return False
        return time.ticks_diff(client.end, time.ticks_ms()) > 0

    def _answer(self, client):
        """Return the parts of the answer to a whole request."""
        home = iter((_GO % self._address,))
        if client.path != b"/" or client.host != self._address.encode():
            # What phones ask to find out whether they are on the internet: they are not. And a
            # page from elsewhere whose name is the board's by now reads no token here.
            return home
        self._used = time.time()
        if not client.post:
            return self._page(b"200 OK")
        if self._joining or self._done:
            return home  # tapped twice
        token, which, ssid, password, server, do = portal_protocols.fields(client.body, _FIELDS)
        values = self._values
        if token != values[b"token"]:
            return self._page(b"403 Forbidden", (b"old",))
        values[b"token"] = hexlify(os.urandom(8))
        self._show = ()
        # The page keeps what was chosen, whatever comes of it. Who types a name means it, though
        # another network may still be marked.
        if which not in (b"", b"h") and ssid in (b"", values[b"hidden"]):
            ssid = self._names[int(which)]
        values[b"ssid"] = ssid
        values[b"server"] = server.strip()
        if do == b"scan":
            self._scan()
        else:
            self._join(ssid, password)
        return home

    def _page(self, status, more=()):
        values = self._values
        ssid = values[b"ssid"]
        values[b"hidden"] = hidden = b"" if ssid in self._names else ssid
        values[b"other"] = b" checked" if hidden else b""
        kind = b"wait" if self._joining else b"done" if self._done else b"form"
        shown = (b"all", kind) + self._show + more  # of one moment: sending takes a while
        yield _PAGE % status
        yield from portal_page.render(shown, values, self._names, self._found)

    # --- trying a network

    def _join(self, ssid, password):
        server = self._values[b"server"]
        self._show = (b"url",)
        try:
            if server:
                self._values[b"server"] = _lend("server_address", "parse", server)
            self._show = (b"length" if ssid else b"choose",)
            _lend("wifi_networks", "check", ssid, password)
        except ValueError:
            return
        self._show = ()
        self._old = _lend("wifi", "attempt", self._sta, ssid, password)
        self._joining = ssid, password
        self._limit = time.time() + _JOIN

    def _look(self, now):
        """See how the attempt goes."""
        status = self._sta.status()
        if status != self._old:
            self._old = None
        passed = now - self._limit + _JOIN
        if self._sta.isconnected():
            self._keep()
        elif passed < (_STALE if self._old else _SETTLES):
            return
        elif status in _WRONG:
            self._show = (b"wrong",)
        elif status in _MISSING:
            self._show = (b"missing",)
        elif passed >= _JOIN or 201 < status < 213:
            self._show = (b"failed",)
        else:
            return
        self._joining = None
        if not self._done:
            self._sta.disconnect()

    def _keep(self):
        """It works: store it, and the server's address if that proves itself."""
        values = self._values
        server = values[b"server"]
        try:
            _lend("wifi_networks", "add", *self._joining)
            self._done = True
            values[b"address"] = self._sta.ifconfig()[0].encode()
            if server:
                proves = _lend("server_address", "learn", self._board, server.decode())
                self._show = (b"heard" if proves else b"silent",)
        except OSError as e:
            print("portal:", repr(e))
            self._show = (b"full",)
        self._limit = time.time() + _LINGER
