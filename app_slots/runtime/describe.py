"""What a boot's first poll that counts says beside the usual; loaded for it. `u` is the Updater."""

import json
import machine
import os
import sys
from binascii import hexlify
from micropython import const

import ota
from runtime import log

_MOST = const(1024)  # bytes of a message
_TEXT = const(500)  # characters
_LINES = const(240)  # bytes of the log's ring file
_SLEEPS = const(16)  # as in start.py: from here on the count is not one of crashes


def make(u, length):
    """Return that as JSON to go on with, and the trust file's version.

    The message, which has `length` bytes so far, is kept within `_MOST`. The text of a crash or a
    rejection is the log's last lines, where the app keeps them (logfile.py), and the traceback; too
    long a text loses its beginning.
    """
    version = sys.implementation[1]
    mpy = sys.implementation._mpy
    trust = _trust()
    if "life_id" not in ota.__dict__:
        ota.life_id = hexlify(os.urandom(8)).decode()  # pyright: ignore
    text = (
        ',"proto":1,"app":"%s","class":"%s","chip":"%s","boot":%d,"fw":"%d.%d.%d","mpy":"%d.%d",'
        '"trust":%d,"addr":"%s","life":"%s"'
    ) % (
        u.board["app"],
        u.board["class"],
        sys.platform,
        ota.version,
        version[0],
        version[1],
        version[2],
        mpy & 255,
        mpy >> 8 & 3,
        trust,
        u.wifi.address(),
        ota.life_id,
    )
    if u.index:
        text += ',"first":%s' % json.dumps(u.servers[0][:64])
    if ota.install_failures:
        text += ',"fail":"%s"' % (_kept("fail") or "network")
    crashes = machine.RTC().memory()[1]  # rtc.CRASHES
    crashed = 0 < crashes < _SLEEPS
    if ota.rejection:
        digest, why, soft = ota.rejection
        text += ',"bad":{"m":"%s","why":"%s","soft":%d,"trace":' % (
            hexlify(digest).decode(),
            why,
            int(bool(soft)),
        )
        text += ('""' if crashed else _trace(length + len(text))) + "}"
    if crashed:
        # The traceback that was kept is of this crash, not of the rejection.
        text += ',"crash":{"n":%d,"trace":' % crashes
        text += _trace(length + len(text)) + "}"
    return text, trust


def _trace(length):
    """The log's last lines and the traceback, in JSON; the message has `length` bytes so far."""
    room = _MOST - length - 2  # for the braces that end it
    trace = (_last_lines() + _kept("crash"))[-_TEXT:]
    while trace and len(json.dumps(trace).encode()) > room:
        trace = trace[20:]
    return json.dumps(trace)


def _trust():
    """The trust version that both copies have; the boot stage is who checks and mends them."""
    found = []
    for path in ("/trust/0/trust", "/trust/1/trust"):
        try:
            with open(path) as f:
                f.readline()
                f.readline()
                found.append(int(f.readline().split(" ")[1]))
        except (OSError, ValueError, IndexError):
            log.warning("%s is damaged", path)
            found.append(0)
    return min(found)


def _kept(name):
    """What the boot stage kept about the last failure of a release or of an install."""
    try:
        with open("/state/" + name) as f:
            return f.read(_TEXT)
    except (OSError, ValueError):  # none, or cut inside a character
        return ""


def _last_lines():
    try:
        f = open("/data/log0", "rb")
    except OSError:
        return ""
    try:
        f.seek(max(f.seek(0, 2) - _LINES, 0))
        text = f.read()
        return text[text.find(b"\n") + 1 :].lstrip(bytes(range(128, 192))).decode()
    except (OSError, ValueError):
        return ""
    finally:
        f.close()
