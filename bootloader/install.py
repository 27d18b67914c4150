"""Takes what the server offers into the other slot. The order of its steps is the safety of all.

The slot's manifest goes first and comes back last, so a slot is bootable whole or not at all; the
record is written after that. Each step loads what it needs and drops it: all at once would not
fit an ESP8266. How a single file comes is the release's own affair (runtime/installer.py);
fetch.py is the plain way, for recovery and for when the other one fails.
"""

import machine
import os
import sys
from micropython import const

import ota
from bootloader import board, record, rtc, slots
from bootloader.lines import Manifest, Refused, hexa

_INCOMING = "/state/incoming"
_FAILS = const(3)  # after so many the plain fetch steps in
_LIMIT = const(3600)  # ticks of guard.py: half an hour
_BLOCK = const(4096)
_DIR = const(0x4000)
_SPARE = const(8)  # blocks
_TELL = const(8)  # progress goes to the server after so many downloads


def run():
    """Install what the server offers, and reset in any case."""
    life = rtc.load()
    fails = life[rtc.FAILS]
    if ota.due != rtc.POLL:  # nobody knows whether that daily poll has anything to install
        life[rtc.FAILS] = min(fails + 1, 200)
        rtc.save(life)
    # A peer that trickles cannot hold the board: after half an hour it resets.
    ota.alarms = [(_LIMIT, rtc.FAILS, life[rtc.FAILS], True)]
    led = ota.stage("led")
    led.show(led.INSTALLING)
    try:
        r = record.load()
        if not ota.stage("wifi").connect():
            raise OSError("no Wi-Fi")
        own = _own(r.active) if fails < _FAILS else None
        once(board.load(), r, "installing", 1 - r.active, r.active, own)
        ota.mark(rtc.FAILS, 0)
    except (OSError, ValueError, MemoryError, Refused) as e:
        print("install:", repr(e))
    machine.reset()


def _own(active):
    """The fetch of the active release, or None when it brings none."""
    root = slots.path(active)
    sys.path.insert(0, root)
    try:
        from runtime.installer import fetch

        return fetch
    except ImportError:
        return None
    finally:
        sys.path.remove(root)


def once(b, r, state, target, active, own=None):
    """Poll, follow the trust file up, install what is offered; True when a trial is open.

    `b` is the board file, `r` the record; `state` goes into the poll. Raises OSError when no
    server answers, Refused (after the server was told) when what it offers breaks a rule.
    """
    wanted = ""
    try:
        while True:
            url, wanted, trust = ota.stage("offer").take(b, r, state, _INCOMING)
            if not trust:
                break
            ota.stage("step").step(_INCOMING, r)
        if not wanted:
            return False
        digest = ota.stage("admit").admit(_INCOMING, r, b)
        if hexa(digest) != wanted:
            raise Refused("hash")
        if r.trial != record.NONE:
            raise Refused("busy")
        of = make_room(target)
        _fill(url, b, r, state, target, active, own or ota.stage("fetch").fetch, of)
        slots.check_files(target, _INCOMING)
    except Refused as e:
        print("refused:", e.args[0])
        # What is refused in the middle of its transfer, offer.py alone can name.
        ota.stage("offer").refuse(b, r, state, (e.args + (wanted,))[1], e.args[0])
        raise
    open_trial(r, target, digest)
    return True


def open_trial(r, target, digest):
    """Make the slot `target`, whose files are checked, what boots next."""
    ota.stage("why").drop()
    os.rename(_INCOMING, slots.manifest(target))
    r.trial = target
    r.good[target] = digest[:16]
    r.left = record.TRIES
    r.fault = 0
    record.store(r)


def make_room(target):
    """Take the slot's manifest away, then what the new release does not use; count its files.

    From here until the manifest is back the slot cannot boot: so what does not fit is refused
    before. Files of another size than listed go too, lest one is there twice while it is written.
    """
    names = slots.Names()
    root = slots.path(target)
    folder(root + "/")
    need = _SPARE
    count = most = 0
    last = ""
    with open(_INCOMING, "rb") as f:
        for name, size, _ in Manifest(f).files():
            count += 1
            # LittleFS keeps up to 128 bytes inside the folder, which takes blocks too.
            blocks = size // _BLOCK + 1
            need += blocks
            inside = name[: name.rfind("/") + 1]
            if inside != last:
                last = inside
                need += 2
            if _size(root + "/" + name) == size:
                names.add(name)
                most = max(most, blocks)
    # MicroPython's statvfs counts the two blocks of each folder below the root twice.
    if need + most > os.statvfs("/")[3] + 2 * _folders("/") + _taken(root):
        raise Refused("space")
    if "manifest" in os.listdir(root):
        os.remove(slots.manifest(target))
    slots.sweep(target, names)
    return count


def _size(name):
    try:
        return os.stat(name)[6]
    except OSError:
        return -1


def _folders(path):
    count = 0
    for entry in os.ilistdir(path):
        if entry[1] == _DIR:
            count += 1 + _folders(path + entry[0] + "/")
    return count


def _taken(path):
    blocks = 0
    for entry in os.ilistdir(path):
        if entry[1] == _DIR:
            blocks += 2 + _taken(path + "/" + entry[0])
        else:
            blocks += entry[3] // _BLOCK + (entry[3] > 128)
    return blocks


def _fill(url, b, r, state, target, active, fetch, of):
    link = ota.stage("link").Link(url)
    count = loaded = 0
    try:
        with open(_INCOMING, "rb") as f:
            for name, size, sha in Manifest(f).files():
                count += 1
                folder(slots.path(target) + "/" + name)
                how = fetch(link, "ab"[target], "ab"[active], name, size, sha)
                print("file", count, name, how)
                if how == "loaded":
                    loaded += 1
                    if loaded % _TELL == 0:
                        ota.stage("offer").tell(b, r, state, {"prog": [count, of]})
    except OSError as e:
        if e.args[0] == 28:  # ENOSPC
            raise Refused("space")
        raise
    finally:
        link.close()


def folder(name):
    """Make the folders above the file `name`."""
    i = name.find("/", 1)
    while i > 0:
        try:
            os.mkdir(name[:i])
        except OSError as e:
            if e.args[0] != 17:  # EEXIST
                raise
        i = name.find("/", i + 1)
