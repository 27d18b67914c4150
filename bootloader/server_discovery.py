"""When no known address answers: what the trust file names, and a call into the local network."""

import os
import socket
import time
from micropython import const

import ota
from bootloader.hmac256 import mac
from bootloader.manifest import hexa

_PORT = const(8266)
_WAIT = const(2000)  # ms


def broadcast(b):
    """Call for the server of the board `b`; return what answer() takes. Does not wait."""
    nonce = hexa(os.urandom(8))
    key = bytes.fromhex(b["key"])
    said = b["id"] + " " + nonce
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    try:
        text = "find1 %s %s" % (said, hexa(mac(key, b"find1\0", said.encode())))
        s.sendto(text.encode(), ("255.255.255.255", _PORT))
    except OSError as e:
        print("find:", repr(e))
    return s, key, nonce


def answer(s, key, nonce):
    """Return the address in an answer that has come and is sealed with the key, else None."""
    while True:
        try:
            words = s.recvfrom(256)[0].split(b" ")
        except OSError:  # nothing more
            return None
        if len(words) == 3 and words[0] == b"here1":
            sealed = mac(key, b"here1\0", nonce.encode(), b" ", words[1])
            if words[2] == hexa(sealed).encode():
                return words[1].decode()


def discover(b):
    """Return an address that proves to be the server's and is kept now, or None."""
    for url in (_trusted(), _called(b)):
        if url and url not in b["server"] and ota.stage("server_address").learn(b, url):
            return url
    return None


def _called(b):
    asked = broadcast(b)
    try:
        for _ in range(_WAIT // 100):
            time.sleep_ms(100)
            url = answer(*asked)
            if url:
                return url
    finally:
        asked[0].close()


def _trusted():
    """The address in the trust file, not verified: it has to prove itself like any other."""
    for copy in (0, 1):
        try:
            with open("/trust/%d/trust" % copy) as f:
                for line in f:
                    if line.startswith("server "):
                        return line[7:].strip()
        except (OSError, UnicodeError) as e:
            print("trust", copy, repr(e))
    return None
