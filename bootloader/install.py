"""Takes what the server offers into the other slot. The order of its steps is the safety of all.

The slot's manifest goes first and comes back last, so a slot is bootable whole or not at all; the
record is written after that. How a single file comes is the release's own affair
(runtime/installer.py); `fetch` below is the plain way, for recovery and when the other one fails.
"""

import machine
import os
import sys
from hashlib import sha256
from micropython import const

from bootloader import admit, guard, link, record, rtc, slots, trust, wifi
from bootloader.lines import MAX, Manifest, hexa
from bootloader.poll import Poll
from bootloader.refused import Refused

_INCOMING = "/state/incoming"
_FAILS = const(3)  # after so many the plain fetch steps in
_LIMIT = const(3600)  # ticks of guard.TICK: half an hour
_BLOCK = const(4096)
_SPARE = const(8)  # blocks


def run(r, m, life):
    """Install what the server offers, and reset in any case. `m` is the active slot's Manifest."""
    fails = life[rtc.FAILS]
    life[rtc.FAILS] = min(fails + 1, 200)
    rtc.save(life)
    deadline(fails + 1)
    from bootloader import board

    b = board.load()
    try:
        if not wifi.connect():
            raise OSError("no Wi-Fi")
        poll = Poll(b, r, "installing", m.seq, r.good[r.active])
        once(poll, b, r, 1 - r.active, r.active, _own(r.active) if fails < _FAILS else fetch)
        guard.mark(rtc.FAILS, 0)
    except (OSError, ValueError, MemoryError, Refused) as e:
        print("install:", repr(e))
    machine.reset()


def deadline(fails):
    """A peer that trickles cannot hold the board: half an hour, then it resets."""
    sys.modules["ota"] = guard
    guard.alarms = [(_LIMIT, rtc.FAILS, fails, True)]
    guard.start()


def _own(active):
    """The fetch of the active release, or ours when it has none."""
    root = slots.path(active)
    sys.path.insert(0, root)
    try:
        from runtime.installer import fetch as own

        return own
    except ImportError:
        return fetch
    finally:
        sys.path.remove(root)


def once(poll, b, r, target, active, own):
    """Follow the reply of `poll`: the trust file up, then the release. True when a trial is open."""
    reply = poll.reply
    try:
        for version in range(trust.version() + 1, reply["trust"] + 1):
            poll.link.save("/d/v1/trust/%d" % version, _INCOMING, MAX)
            trust.step(_INCOMING, r)
        if "m" not in reply:
            return False
        install(poll, reply["m"], b, r, target, active, own)
        return True
    except Refused as e:
        code = e.args[0]
        bad = {"m": reply.get("m", "")[:32], "why": code, "soft": 0, "trace": ""}
        print("refused:", code)
        poll.say({"bad": bad})
        raise


def install(poll, wanted, b, r, target, active, own):
    """Bring the release with the digest `wanted` (hex) into slot `target` and put it on trial."""
    poll.link.save("/d/v1/manifests/" + wanted, _INCOMING, MAX)
    digest = admit.admit(_INCOMING, r, b)
    if hexa(digest) != wanted:
        raise Refused("hash")
    if r.trial != record.NONE:
        raise Refused("busy")
    make_room(target)
    names = slots.Names()
    with open(_INCOMING, "rb") as f:
        m = Manifest(f)
        need = _SPARE
        for name, size, _ in m.files():
            names.add(name)
            need += _blocks(size)
    if need > _free(target):
        raise Refused("space")
    slots.sweep(target, names)
    try:
        _fetch_all(poll, target, active, own)
    except OSError as e:
        if e.args[0] == 28:  # ENOSPC
            raise Refused("space")
        raise
    slots.check_files(target, _INCOMING)
    os.rename(_INCOMING, slots.manifest(target))
    r.trial = target
    r.left = record.TRIES
    r.reason = 0
    record.store(r)


def _fetch_all(poll, target, active, own):
    count = 0
    with open(_INCOMING, "rb") as f:
        m = Manifest(f)
        for name, size, sha in m.files():
            count += 1
            print("file", count, name, size)
            folder(slots.path(target) + "/" + name)
            own(poll.link, "ab"[target], "ab"[active], name, size, sha)
            if count % 8 == 0:
                poll.say({"prog": [count, m.total]})


def make_room(target):
    """Take the slot's manifest away: from here until it is back the slot cannot boot."""
    try:
        os.mkdir(slots.path(target))
    except OSError:
        try:
            os.remove(slots.manifest(target))
        except OSError:
            return  # it had none


def folder(name):
    """Make the folders above the file `name`."""
    i = name.find("/", len("/app_slots/a/"))
    while i > 0:
        try:
            os.mkdir(name[:i])
        except OSError as e:
            if e.args[0] != 17:  # EEXIST
                raise
        i = name.find("/", i + 1)


def _blocks(size):
    # LittleFS keeps up to 128 bytes inside the folder, which takes blocks too.
    return size // _BLOCK + 1


def _free(target):
    """Blocks that are free or taken by the slot, which is about to be overwritten."""
    return os.statvfs("/")[3] + _taken(slots.path(target))


def _taken(path):
    blocks = 0
    for entry in os.ilistdir(path):
        if entry[1] == 0x4000:
            blocks += _taken(path + "/" + entry[0])
        else:
            blocks += entry[3] // _BLOCK + (entry[3] > 128)
    return blocks


def fetch(source, target, active, name, size, sha):
    """Bring one file by download, unless it is there already. Constant memory."""
    path = "/app_slots/%s/%s" % (target, name)
    buf = bytearray(256)
    have = slots.file_hash(path, buf)
    if have and hexa(have) == sha:
        return
    stream = source.body("/d/v1/files/" + sha)
    view = memoryview(buf)
    h = sha256()
    f = open(path, "wb")
    try:
        while True:
            n = link.inflate(stream, buf)
            if not n:
                break
            size -= n
            if size < 0:
                raise Refused("size")
            h.update(view[:n])
            f.write(view[:n])
    finally:
        f.close()
    if size:
        raise Refused("truncated")
    if hexa(h.digest()) != sha:
        raise Refused("hash")
