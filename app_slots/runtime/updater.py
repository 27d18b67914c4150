"""Asks the server what this board should run (docs/protocol.md), and reports.

When, is said here. A poll's parts are loaded one after the other, so that the heap has to hold
one at a time: report.py, at a boot's first describe.py, poll.py, poll_reply.py.
"""

import os
from binascii import hexlify, unhexlify
from micropython import const

import runtime

_LONGEST = const(600)  # s to the next poll, should anything unforeseen end one


class Updater:
    def __init__(self, app, wifi, board, server=""):
        self.app = app
        self.wifi = wifi
        self.board = board
        self.key = unhexlify(board.pop("key"))
        self.servers = ([server] if server else []) + board["server"]
        self.fails = 0  # polls in a row without an answer
        self.index = 0  # which server is asked
        self.left = 0  # s to the next poll
        self.busy = False  # a poll is under way
        self.waits = False  # none may begin: what somebody else has lent leaves no room for one
        self.ticket = ""
        self.trust = None  # version of the trust file; None: the board has yet to be described
        self.unknown = []  # orders not understood
        self.sent = {}  # the failures that the server knows of
        self.since = None  # when the app was first too busy for an update
        self.answered = ""  # the address whose answer was the last one
        self.time = None  # what it said: seconds since 1970, and the app's `up` then

    def soon(self):
        """Poll at the next opportunity."""
        self.left = 0

    def tick(self):
        """Called each second; returns the coroutine of a poll when one is due."""
        if not self.servers or not self.wifi.up:
            return None
        self.left -= 1
        if self.left >= 0 or self.waits:
            return None
        return self._poll(self.servers[self.index])

    async def _poll(self, url):
        self.left = _LONGEST  # not before: where there is no room for a task, it is due as ever
        self.busy = True
        part = None
        try:
            nonce = hexlify(os.urandom(8))
            part = runtime.lend("report")
            body, failures = part.make(self, nonce.decode())
            # Emptied: the collector takes what old stack frames left behind for references.
            part.__dict__.clear()
            if self.ticket and self.trust is None:
                part = runtime.lend("describe")
                more, self.trust = part.make(self, len(body.encode()))
                part.__dict__.clear()
                body += more
                more = None
            body = (body + "}").encode()
            part = runtime.lend("poll")
            reply = await part.ask(self.key, url, nonce, body)
            part.__dict__.clear()
            part = body = None
            self.sent = failures
            runtime.lend("poll_reply").obey(self, url, reply)
        except (OSError, ValueError, MemoryError) as e:
            if part:
                part.__dict__.clear()
            part = body = reply = None
            runtime.lend("poll_reply").missed(self, url, e)
        finally:
            self.busy = False
            runtime.wipe()
