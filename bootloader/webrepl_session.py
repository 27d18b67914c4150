"""What stays in memory of an open WebREPL (webrepl.py): who is let in, and for how long.

All of it runs in callbacks, perhaps in the middle of a flash operation, so it touches nothing but
RAM. It waits for nobody: a client is read as its bytes arrive.
"""

import _webrepl  # pyright: ignore[reportMissingImports] # no stub has it
import gc
import machine
import network
import os
import socket
import sys
from binascii import b2a_base64, hexlify
from hashlib import sha1
from io import IOBase
from micropython import const
from websocket import websocket

import ota
from bootloader.hmac256 import mac

_CALLBACK = const(20)  # socket option: a function to call when something has arrived
_HEAD = const(1024)  # bytes
_UNIT = const(1200)  # ticks of resident.py in what rtc.py counts of the time left: 10 min
# Ticks
_SILENT = const(2)  # for the head of a request
_TYPING = const(60)  # for the password
_DOUBLED = const(6)  # the pause after a wrong password doubles so often, from a second on

pending = active = None  # before and after the password
device_key = b""
end = 0  # the tick at which it closes; 0: never
late = 0  # the tick before which no password is taken
wrong = 0  # passwords in a row


def tick(t):
    """resident.tick(), and what is due here."""
    ota.tick(t)
    now = ota.ticks
    if pending and now > pending.end:
        pending.close()
    if end:
        ota.poll_extra["open"] = left = max(0, end - now) // 2
        if not now & 63:
            ota.mark(5, left * 2 // _UNIT << 5)  # rtc.READY
        if not left and not ota.trial:
            ota.mark(5, 0)
            if not ota.stopped:
                ota.mark(0, 5)  # rtc.END is rtc.ASKED
            machine.reset()  # which gives the app its memory back


def accept(listener):
    """Accept all waiting connections; the chip may call once for several."""
    global pending
    while True:
        try:
            s, address = listener.accept()
        except OSError:
            return
        if pending:
            s.close()  # one at a time: who is in between has little time
        else:
            pending = Session(s, address[0])


class Session(IOBase):
    """A client: what lies between the firmware's WebREPL and the websocket."""

    def __init__(self, s, address):
        self.s = s
        self.address = address
        self.end = ota.ticks + _SILENT
        self.data = b""  # the head of the request; None when the password is right
        self.repl = None
        s.setblocking(False)
        if hasattr(socket, "TCP_NODELAY"):
            # A frame's head and content are two segments: the second would wait for an answer.
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(1, _CALLBACK, self.read)

    def read(self, s):
        """Something has arrived from who has not given the password yet."""
        try:
            # All of it: an ESP8266 calls once for each arrival.
            while not self.repl:
                self.data += s.recv(256) or bytes(_HEAD)
                if b"\r\n\r\n" in self.data:
                    self.start()
                elif len(self.data) >= _HEAD:
                    raise OSError
            if self.repl.read(1) == b"":
                self.close()
            elif active is self:
                os.dupterm_notify(None)  # it may have typed on before the terminal was its own
        except (OSError, MemoryError) as e:
            if e.args != (11,):  # EAGAIN
                self.close()

    def start(self):
        """Answer the request, and ask for the password."""
        key = b""
        for line in self.data.split(b"\r\n"):
            if line[:18].lower() == b"sec-websocket-key:":
                key = line[18:].strip()
        h = sha1(key)
        h.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        # Proves, before the client sends the password, that this board is here and not elsewhere.
        here = network.WLAN(0).ifconfig()[0].encode()
        self.s.send(
            b"HTTP/1.1 101 WebREPL\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\nota-proof: %s %s\r\n\r\n"
            % (
                b2a_base64(h.digest())[:-1],
                here,
                hexlify(mac(device_key, b"webrepl1\0", key, b" ", here)),
            )
        )
        self.ws = websocket(self.s)
        self.end = ota.ticks + _TYPING
        if late > ota.ticks:
            self.write("\r\nwrong passwords, wait %d s\r\n" % ((late - ota.ticks) // 2 + 1))
            raise OSError
        if active:
            self.write(active.address + " is here, the password takes over\r\n")
        gc.collect()  # a file that a client left half written is closed now, not later
        self.data = b""
        self.repl = _webrepl._webrepl(self)

    def close(self, text=None):
        """Hang up, with a last word."""
        global pending, active
        if active is self:
            active = None
            os.dupterm(None)
        if text:
            try:
                self.write("\r\n%s\r\n" % text)
            except OSError as e:
                print("webrepl:", repr(e))  # it has gone: no matter of whoever takes over
        self.s.close()
        self.repl = None
        if pending is self:
            pending = None

    # What the firmware's WebREPL calls

    def readinto(self, buf):
        global pending, active
        # Another may take over at any point of a call here: whoever was closed reads and writes
        # nothing from then on, and raises nothing, or the firmware would close the other.
        if self.data is None and active is not self:
            if not self.repl:
                return None
            if active:
                active.close(self.address + " has taken over")
            # Nobody reads on behind the password but the terminal.
            active = self
            pending = None
            self.s.setsockopt(1, _CALLBACK, os.dupterm_notify)
            os.dupterm(self.repl)
            return None  # what comes after the password is the terminal's to read
        try:
            n = self.ws.readinto(buf)
        except OSError as e:
            # ETIMEDOUT: this has come in between while write() waits
            if self.repl and e.args[0] not in (110, 116):
                raise
            return None
        if n and active is self:
            if ota.wdt:
                ota.wdt.feed()  # a file comes in a single call, and resident.tick() has no turn
            if self.ws.ioctl(8, 0) == 2 and not ota.stopped and sys.platform == "esp8266":
                # A file. The flash driver is Python there: the app may be in the midst of it.
                while self.ws.readinto(buf):
                    pass
                self.close("stop the app first (Ctrl-C)")
                return 0
        return n if self.repl else None

    def write(self, buf):
        global late, wrong
        if self.repl and self.data is not None:
            if buf[2] == 87:  # "\r\nWebREPL connected"
                self.data = None
                wrong = 0
            else:  # "\r\nAccess denied"
                wrong += 1
                late = ota.ticks + (2 << min(wrong, _DOUBLED))
                ota.poll_extra["wrong"] = ota.poll_extra.get("wrong", 0) + 1
        # Who takes nothing for a second is gone: no client makes the board wait.
        self.s.settimeout(1)
        try:
            n = self.ws.write(buf)
        except OSError:
            if self.repl or self.data is not None:
                raise
            return len(buf)
        self.s.setblocking(False)
        return n

    def ioctl(self, request, value):
        if request == 4:
            self.close()
            return 0
        return self.ws.ioctl(request, value)
