"""Pages of the app, with live values and forms, for whoever is on the same network (docs/web.md).

Resident is the door alone. What reads a request and fills a page comes from flash when somebody
knocks, and goes when nobody is left (pages.py).
"""

import os
import select
import socket
from binascii import hexlify
from micropython import const

import runtime
from runtime import log

_LONGEST = const(20)  # bytes of a password: pages.py keeps 65 bytes of a line


class Web:
    """Serves `www/` of the release on port 80.

    `values()` returns what stands in the places of a page, by name; `forms` has a function for
    each name that a page posts to, which gets the fields as a dict of texts and raises ValueError
    for those it does not take. With a `password` nothing is served without it.
    """

    def __init__(self, app, values, forms=None, password=""):
        self.values = values
        self.forms = forms or {}
        self.password = password.encode()
        if len(self.password) > _LONGEST:
            raise ValueError("a password has 20 bytes at most")
        self.token = hexlify(os.urandom(8)).decode()
        self.door = door = socket.socket()
        door.setblocking(False)
        door.bind(("", 80))
        door.listen(2)
        self.poll = select.poll()
        self.poll.register(door, select.POLLIN)
        app.every(100, self.look, "web")

    def look(self):
        """Return the coroutine that serves, when somebody is at the door."""
        if not self.poll.poll(0):
            return None
        try:
            return runtime.lend("pages").serve(self)
        except MemoryError:
            self.door.accept()[0].close()
            log.warning("web: no memory for a page")
