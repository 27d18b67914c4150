"""The poll: both sides prove that they know the device key, and that they are speaking now."""

import gc
import json
import network
import os
import sys

from bootloader import record, trust, why
from bootloader.lines import hexa
from bootloader.link import Link
from bootloader.refused import Refused
from bootloader.wire import mac

_VERSION = 1


class Poll:
    """A conversation with the first of the board's servers that answers.

    `state` is what the board is doing, `digest` (16 bytes) and `seq` what it runs.
    Raises OSError when no server gives a valid answer.
    """

    def __init__(self, board, r, state, seq=0, digest=None):
        self._key = bytes.fromhex(board["key"])
        self._board = board
        self._r = r
        self._ticket = ""
        self._facts = {
            "id": board["id"],
            "seq": seq,
            "m": hexa(digest) if digest else "",
            "state": state,
        }
        self.link = None
        for url in board["server"]:
            try:
                self.link = Link(url)
                self.reply = self._first()
                return
            except (OSError, ValueError, Refused) as e:
                print("server", url, repr(e))
                self.close()
        raise OSError("no server answers")

    def close(self):
        if self.link:
            self.link.close()
            self.link = None

    def _first(self):
        """The first exchange gets a ticket; the second, which carries it, counts."""
        self.say()
        b = self._board
        facts = {
            "proto": 1,
            "app": b["app"],
            "class": b["class"],
            "chip": sys.platform,
            "boot": _VERSION,
            "fw": ".".join(str(x) for x in sys.implementation[1][:3]),
            "mpy": "%d.%d" % (sys.implementation._mpy & 255, sys.implementation._mpy >> 8 & 3),
            "trust": trust.version(),
            "addr": network.WLAN(network.STA_IF).ifconfig()[0],
        }
        r = self._r
        if r and r.bad != record.ZERO:
            facts["bad"] = {
                "m": hexa(r.bad),
                "why": record.REASONS[r.reason],
                "soft": 0 if r.flags & record.HARD else 1,
                "trace": why.text(),
            }
        return self.say(facts)

    def say(self, more=None):
        """Send the facts and `more`, return the reply as a dict."""
        nonce = hexa(os.urandom(8))
        gc.collect()
        facts = self._facts
        facts.update(n=nonce, k=self._ticket, heap=gc.mem_free())
        if more:
            more.update(facts)
        body = json.dumps(more or facts, separators=(",", ":")).encode()
        out, theirs = self.link.post("/d/v1/poll", body, hexa(mac(self._key, b"poll1\0", body)))
        if theirs != hexa(mac(self._key, b"reply1\0", nonce.encode(), out)).encode():
            raise Refused("mac")
        reply = json.loads(out)
        self._ticket = reply["k"]
        return reply
