"""Takes what the server offers into the other slot. Power-cut safety depends on the order.

The slot's manifest goes first and comes back last, so a slot is bootable whole or not at all; the
record is written after that. Each step loads what it needs and drops it, and nothing is held here
for a later one: all at once would not fit an ESP8266.
"""

import machine
from micropython import const

import ota
from bootloader import record, rtc
from bootloader.manifest import Rejected

_INCOMING = "/state/incoming"
_FAILS = const(3)  # after so many the plain fetch steps in
_MOST = const(8)  # of them: an hour's pause
_LIMIT = const(1200)  # ticks of resident.py: ten minutes


def run():
    """Install what the server offers, and reset in any case."""
    life = rtc.load()
    fails = life[rtc.FAILS]
    if ota.poll_at != rtc.POLL:  # nobody knows whether that daily poll has anything to install
        life[rtc.FAILS] = min(fails + 1, _MOST)
        rtc.save(life)
    # Whoever is slow cannot hold the board; what has come is kept for the next time.
    ota.alarms = [(_LIMIT, rtc.FAILS, _MOST, True)]
    led = ota.stage("led")
    led.show(led.INSTALLING)
    try:
        r = record.load()
        if not ota.stage("wifi").connect():
            raise OSError("no Wi-Fi")
        b = ota.stage("board").load()
        done = update(b, r, "installing", 1 - r.active, r.active, fails < _FAILS)
        ota.mark(rtc.FAILS, 0)
        if not done:
            ota.answered()
            ota.mark(rtc.READY, life[rtc.READY] | rtc.CHECKED | rtc.HEARD | rtc.NAMED)
    except (OSError, ValueError, MemoryError, Rejected) as e:
        _failed(e, life[rtc.FAILS])
        if isinstance(e, MemoryError) and fails < _FAILS:
            # Where old stack frames keep things alive is chance: once more, on a clean heap.
            ota.mark(rtc.WANT, rtc.INSTALL)
    machine.reset()


def _failed(e, fails):
    """Note why, and pause for four times as long as it took: the app has its time, too."""
    print("install:", repr(e))
    while fails < _MOST and 15 << fails < 2 * ota.ticks:  # 15 s doubled, as in the runtime
        fails += 1
    ota.mark(rtc.FAILS, fails)
    code = "memory" if isinstance(e, MemoryError) else "network"
    if isinstance(e, Rejected):
        code = e.args[0]
    elif len(e.args) > 1:  # as poll.py has it
        code = e.args[1]
    ota.stage("crash_report").save(code, "/state/fail")


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
