"""Takes what the server offers into the other slot. The order of its steps is the safety of all.

The slot's manifest goes first and comes back last, so a slot is bootable whole or not at all; the
record is written after that. Each step loads what it needs and drops it, and nothing is held here
for a later one: all at once would not fit an ESP8266.
"""

import machine
from micropython import const

import ota
from bootloader import record, rtc
from bootloader.manifest import Rejected, hexa

_INCOMING = "/state/incoming"
_FAILS = const(3)  # after so many the plain fetch steps in
_LIMIT = const(3600)  # ticks of resident.py: half an hour


def run():
    """Install what the server offers, and reset in any case."""
    life = rtc.load()
    fails = life[rtc.FAILS]
    if ota.poll_at != rtc.POLL:  # nobody knows whether that daily poll has anything to install
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
        b = ota.stage("board").load()
        update(b, r, "installing", 1 - r.active, r.active, fails < _FAILS)
        ota.mark(rtc.FAILS, 0)
    except (OSError, ValueError, MemoryError, Rejected) as e:
        print("install:", repr(e))
        if isinstance(e, MemoryError) and fails < _FAILS:
            # Where old stack frames keep things alive is chance: once more, on a clean heap.
            ota.mark(rtc.WANT, rtc.INSTALL)
    machine.reset()


def update(b, r, state, slot, active, own=False):
    """Poll, follow the trust file up, install what is offered; True when a trial is open.

    `b` is the board file, `r` the record; `state` goes into the poll; `own`: files come by the
    active release's own installer, if it has one. Raises OSError when no server answers, Rejected
    (after the server was told) when what it offers breaks a rule.
    """
    wanted = ""
    try:
        while True:
            url, wanted, trust = ota.stage("install_check").download(b, r, state, _INCOMING)
            if not trust:
                break
            ota.stage("trust_update").apply_next(_INCOMING, r, trust)
        if not wanted:
            return False
        digest = ota.stage("verify_manifest").verify(_INCOMING, r, b)
        if hexa(digest) != wanted:
            raise Rejected("hash")
        if r.trial != record.NONE:
            raise Rejected("busy")
        of = ota.stage("install_slot").make_room(slot)
        ota.stage("install_files").bring(url, b, r, state, slot, active, own, of)
    except Rejected as e:
        print("refused:", e.args[0])
        # What is refused in the middle of its transfer, install_check.py alone can name.
        ota.stage("install_check").report_rejection(b, r, state, (e.args + (wanted,))[1], e.args[0])
        raise
    ota.stage("install_slot").start_trial(r, slot, digest)
    return True
