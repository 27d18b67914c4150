"""What happens at every power-on: decide what runs, and get out of its way."""

import gc
import machine
import os
import sys
from micropython import const

from bootloader import record, rtc, slots

VERSION = const(1)  # of the boot stage
_CRASHES = const(5)  # lives of less than ten minutes each
_TRIAL = const(1800)  # 15 minutes
_DAY = const(172800)
_CALM = const(1200)  # a life of ten minutes is no crash


def run():
    """Decide and prepare; return the name of the module to start, or None for the prompt."""
    life = rtc.load()
    end = _ended(life)
    want = life[rtc.WANT]
    # Whatever is done from here on is the boot stage's: cut or crashed, it is no crash of the app.
    life[rtc.END] = rtc.ASKED
    life[rtc.WANT] = 0
    rtc.save(life)
    r = record.load()
    if not r:
        from bootloader import rebuild

        r = rebuild.rebuild()
    if r.trial != record.NONE:
        m = _stage("fallback").trial(r, end)
        if m:
            return _hand_over(r, r.trial, m, life)
    else:
        if end in (rtc.RUNNING, rtc.EXCEPTION):
            life[rtc.CRASHES] += 1
        elif end != rtc.POWER:
            life[rtc.CRASHES] = 0
        if life[rtc.CRASHES] >= _CRASHES:
            life[rtc.CRASHES] = 0
            if not _stage("fallback").go_back(r, record.CRASHES):
                want = rtc.RECOVER
        elif want == rtc.ROLLBACK:
            _stage("fallback").go_back(r, record.ORDER)
    m = slots.check_confirmed(r, r.active) or _stage("fallback").other(r)
    rtc.save(life)
    if not m or want == rtc.RECOVER:
        return _stage("recovery").run(r, m, life)
    if want in (rtc.INSTALL, rtc.POLL):
        return _stage("install").run(r, m, life)
    return _hand_over(r, r.active, m, life)


def _stage(name):
    gc.collect()
    return getattr(__import__("bootloader." + name), name)


def _ended(life):
    """How the last life ended. A sleep and a press on the button leave RUNNING behind as well."""
    end = life[rtc.END]
    if end == rtc.RUNNING:
        cause = machine.reset_cause()
        if cause == machine.DEEPSLEEP_RESET:
            return rtc.SLEEP
        if cause == (6 if sys.platform == "esp8266" else 1):
            return rtc.POWER
    return end


def _hand_over(r, slot, m, life):
    """Set up `ota`, and leave only that behind."""
    from bootloader import guard

    sys.modules["ota"] = guard
    root = slots.path(slot)
    trial = r.trial != record.NONE
    guard.slot = "ab"[slot]
    guard.trial = trial
    guard.seq = m.seq
    guard.digest = slots.digest(slot)
    guard.bad = record.rejection(r)
    guard.fails = life[rtc.FAILS]
    guard.plain = "runtime" not in os.listdir(root)
    life[rtc.END] = rtc.RUNNING
    rtc.save(life)
    guard.alarms = [(_CALM, rtc.CRASHES, 0, False), (_DAY, rtc.WANT, rtc.POLL, True)]
    if trial:
        guard.alarms = [(_TRIAL, rtc.END, rtc.TIMEOUT, True)]
    guard.start()
    if trial or guard.plain:
        _stage("acquaint").acquaint()
    sys.path[:] = [root, root + "/lib", ".frozen"]
    os.chdir("/data")
    for k in list(sys.modules):
        if k.startswith("bootloader"):
            del sys.modules[k]
    return m.entry
