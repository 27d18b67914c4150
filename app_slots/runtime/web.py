"""Pages of the app, with live values and forms, for whoever is on the same network (docs/web.md).

    runtime.lend("web").serve(app, values, forms, config.WEB_PASSWORD)

Little more than the door stays in memory. What reads a request (web_io.py), finds the answer
(web_answer.py) and sends it (web_io.py) comes from flash one after the other.
"""

import gc
import os
import select
import socket
from asyncio import sleep_ms
from binascii import hexlify
from micropython import const

import runtime

_TRIES = const(12)  # to load a part, a quarter of a second apart
_LONGEST = const(20)  # bytes of a password: web_io.py keeps 65 bytes of a line


def serve(app, values, forms=None, password=""):
    """Serve `www/` of the release on port 80.

    `values()` returns what stands in the places of a page, by name; `forms` has a function for
    each name that a page posts to, which gets the fields as a dict of texts and raises ValueError
    for those it does not take. With a `password` nothing is served without it. Raises ValueError
    for one that is too long.
    """
    if len(password.encode()) > _LONGEST:
        raise ValueError("a password has 20 bytes at most")
    site = values, forms or {}, password.encode(), hexlify(os.urandom(8)).decode()
    # While the updater asks, its parts are on the heap; both have no room on an ESP8266.
    updater = [job for job in app.jobs if job.name == "updater"][0]
    # Cells, since the globals go.
    lender = runtime
    collect = gc.collect
    nap = sleep_ms
    door = socket.socket()
    door.setblocking(False)
    door.bind(("", 80))
    door.listen(2)
    poll = select.poll()
    poll.register(door, select.POLLIN)

    def waiting():
        return poll.poll(0) and not updater.busy

    async def lend(name):
        for _ in range(_TRIES):
            try:
                return lender.lend(name)
            except MemoryError:
                await nap(250)
        raise MemoryError

    async def work():
        while waiting():
            s = door.accept()[0]
            module = lender
            asks = False
            try:
                s.setblocking(False)
                module = await lend("web_io")
                request = await module.read(s, poll)
                if request:
                    # Emptied: the collector takes what old stack frames left for references.
                    module.__dict__.clear()
                    collect()
                    module = await lend("web_answer")
                    asks = True
                    answer = module.answer(site, *request)
                    asks = False
                    module.__dict__.clear()
                    del request
                    collect()
                    module = await lend("web_io")
                    await module.send(s, poll, *answer)
            except OSError:
                if asks:
                    raise  # it is the app's own
                # else the visitor has gone
            except MemoryError:
                print("web: no memory")
            finally:
                s.close()
                if module is not lender:
                    module.__dict__.clear()

    app.every(100, lambda: waiting() and work(), "web")
    globals().clear()  # this function has done its work and takes room
