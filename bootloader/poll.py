"""The poll: both sides prove that they know the device key, and that they are speaking now."""

import gc
import json
import machine
import network
import os
import sys
import time
from micropython import const

import ota
from bootloader import record
from bootloader.hmac256 import mac
from bootloader.http_client import Connection
from bootloader.manifest import Rejected, hexa

_MOST = const(1024)  # bytes of a message
_SLEEPS = const(16)  # as in start.py: from here on the count is not one of crashes


class Poll:
    """A conversation with the first of the board's servers that answers.

    `state` is what the board is doing; `more` goes into the message too. Raises OSError when no
    server gives a valid answer, with the reason code of the last one as its second argument.
    """

    def __init__(self, board, r, state, more=None):
        self._key = bytes.fromhex(board["key"])
        self.connection = None
        self._why = "network"
        servers = board["server"]
        if not os.urandom(1)[0]:
            # Of many polls one goes to who is asked last: an address that was learned, by whatever
            # means, does not keep the board from the others for good.
            servers = servers[::-1]
        for self.url in servers:
            if self._begin(board, r, state, more):
                break
        else:
            self.url = ota.stage("server_discovery").discover(board)
            if not self.url or not self._begin(board, r, state, more):
                raise OSError("no server answers", self._why)
        moved = self.reply.get("moved")
        if moved:
            try:
                ota.stage("server_address").learn(board, moved)
            except OSError as e:  # the flash is full; the next reply names it again
                print("moved:", repr(e))

    def _begin(self, board, r, state, more):
        ota.feed()  # three servers that do not answer take longer than a heartbeat lasts
        try:
            self.connection = Connection(self.url)
            self.reply = self._say(board, r, state, more)
            if "stale" in self.reply:
                # The first exchange of a boot has no ticket; the second, which has, counts.
                self.reply = self._say(board, r, state, more)
            return True
        except (OSError, ValueError, KeyError, TypeError, Rejected) as e:
            print("server", self.url, repr(e))
            if isinstance(e, Rejected):
                self._why = e.args[0]
            self.close()
            return False

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def _say(self, board, r, state, more):
        nonce = hexa(os.urandom(8))
        facts = {
            "id": board["id"],
            "n": nonce,
            # Kept from poll to poll: by it the server knows that its orders have arrived.
            "k": ota.__dict__.get("ticket", ""),
            "seq": ota.seq,
            "m": hexa(ota.digest16 or bytes(16)),
            "state": state,
            "heap": gc.mem_free(),
            "up": time.ticks_ms() // 1000,
            "proto": 1,
            "app": board["app"],
            "class": board["class"],
            "chip": sys.platform,
            "boot": ota.version,
            "fw": "%d.%d.%d" % sys.implementation[1][:3],
            "mpy": "%d.%d" % (sys.implementation._mpy & 255, sys.implementation._mpy >> 8 & 3),
            "trust": trust_version(),
            "addr": network.WLAN(network.STA_IF).ifconfig()[0],
        }
        facts["life"] = ota.__dict__.get("life_id") or hexa(os.urandom(8))
        ota.life_id = facts["life"]  # pyright: ignore
        if ota.install_failures:
            facts["fail"] = ota.stage("crash_report").read("/state/fail") or "network"
        first = board["server"][:1]
        if first and first != [self.url]:
            facts["first"] = first[0][:64]
        facts.update(ota.poll_extra)
        # Lives in a row that crashed: of recovery.py, or rtc.CRASHES, without loading it.
        crashes = ota.__dict__.get("crashes") or machine.RTC().memory()[1]
        crashed = 0 < crashes < _SLEEPS  # what is kept is of that crash then, not of a rejection
        text = ota.stage("crash_report").read() if crashed or r.rejected != record.ZERO else ""
        if crashed:
            facts["crash"] = {"n": crashes, "trace": text}
            if ota.in_app and ota.server_seen_at:
                del facts["crash"]["trace"]  # the life before, or an earlier poll, has told it
        if more:
            facts.update(more)
        elif r.rejected != record.ZERO:
            digest, why, soft = record.rejection(r)
            facts["bad"] = {
                "m": hexa(digest),
                "why": why,
                "soft": int(soft > 0),
                "trace": "" if crashed else text,
            }
        body = json.dumps(facts, separators=(",", ":")).encode()
        if len(body) > _MOST:
            facts["crash" if crashed else "bad"]["trace"] = text[len(body) - _MOST :]
            body = json.dumps(facts, separators=(",", ":")).encode()
        sent = hexa(mac(self._key, b"poll1\0", body))
        out, theirs = self.connection.post("/d/v1/poll", body, sent)
        if theirs != hexa(mac(self._key, b"reply1\0", nonce.encode(), out)).encode():
            raise Rejected("mac")
        reply = json.loads(out)
        # Reject a reply with fields of the wrong type, even if its MAC is right.
        "".join([reply["k"], reply.get("m", ""), reply.get("moved", "")] + reply.get("do", []))
        range(reply["every"], reply["trust"])
        ota.ticket = reply["k"][:16]  # pyright: ignore
        return reply


def trust_version():
    """The version that both copies of the trust file read like, not verified: to tell the server.

    The lower one where they differ: then the board asks, and trust_update.py makes it good.
    """
    found = []
    for copy in (0, 1):
        try:
            with open("/trust/%d/trust" % copy) as f:
                f.readline()
                f.readline()
                found.append(int(f.readline().split()[1]))
        except (OSError, ValueError, IndexError) as e:
            print("trust", copy, repr(e))
            found.append(0)
    return min(found)
