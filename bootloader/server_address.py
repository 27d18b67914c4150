"""An address of the server beyond those in the board file: kept once it has answered."""

import json
import os
from micropython import const

from bootloader import two_copies
from bootloader.hmac256 import mac
from bootloader.http_client import Connection
from bootloader.manifest import Rejected, hexa

_MOST = const(100)
_WAIT = const(10)  # s for the answer: the portal serves nobody meanwhile


def parse(typed):
    """Return what a person typed (bytes) as an address; ValueError when it can be none."""
    url = typed.decode().rstrip("/")
    if "://" not in url:
        url = "http://" + url
    scheme, _, host = url.split("/")
    plain = len(url) <= _MOST and all(32 < ord(c) < 127 for c in host)
    if scheme != "http:" or not host.split(":")[0] or not plain:
        raise ValueError("address")
    return url.encode()


def proves(b, url):
    """Whether at `url` is somebody who knows the key of the board `b`. Reports nothing."""
    nonce = hexa(os.urandom(8))
    facts = {"id": b["id"], "n": nonce, "k": "", "seq": 0, "m": "", "state": "ok"}
    facts["heap"] = facts["up"] = 0
    body = json.dumps(facts).encode()
    key = bytes.fromhex(b["key"])
    try:
        connection = Connection(url, _WAIT)
        try:
            # Without a ticket it is answered, and not counted.
            reply, theirs = connection.post("/d/v1/poll", body, hexa(mac(key, b"poll1\0", body)))
        finally:
            connection.close()
    except (OSError, ValueError, Rejected) as e:
        print("server", url, repr(e))
        return False
    return theirs == hexa(mac(key, b"reply1\0", nonce.encode(), reply)).encode()


def learn(b, url):
    """Keep `url` as the address to ask first, if it is the server's; return whether it is."""
    if b["server"][:1] != [url]:
        try:
            url = parse(url.encode()).decode()
        except ValueError:
            return False
        if not proves(b, url):
            return False
        print("server: moved to", url)
        two_copies.store("s", url.encode())
    return True
