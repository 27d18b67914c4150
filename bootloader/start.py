"""What happens at every power-on: decide what runs, and get out of its way."""

import gc
import machine
import os
import sys
from micropython import const

from bootloader import in_place, pins, record, resident, rtc, slots

_CRASHES = const(5)  # lives of less than ten minutes each
_SLEEPS = const(16)  # from here on lives are counted that slept unanswered ...
_RESCUE = const(48)  # ... until the boot stage asks in their stead
# Ticks of resident.py, two a second
_DAY = const(172800)
_CALM = const(1200)  # a life of ten minutes is no crash
_LASTS = const(120)  # so long a trial must have lasted: 60 s
_LASTS_ALONE = const(1200)  # on a board that names no server: 10 minutes
_DOUBLE = const(10)  # two presses of the reset button within five seconds
_OPEN = const(224)  # bits of READY
_NEXT = const(30)  # a plain app polls again after that, and then as the server says


def run():
    """Decide and prepare; return what resident.go() starts: the app's entry, or "/" and a stage."""
    life = rtc.load()
    end = _ended(life)
    want = life[rtc.WANT]
    ready = life[rtc.READY] & ~_OPEN
    kept = life[rtc.READY]
    # Whatever ends this life before the hand-over is neither the app's fault nor its merit.
    life[rtc.END] = rtc.POWER
    life[rtc.WANT] = 0
    life[rtc.READY] &= _OPEN
    life[rtc.PRESSES] += machine.reset_cause() == 6  # ESP8266: the reset button
    rtc.save(life)
    sys.modules["ota"] = resident
    if not ready & rtc.CHECKED:
        resident.end_if_stopped = end  # until it has been accounted for
    if ready & rtc.OFFLINE:
        resident.portal_rounds = life[rtc.PORTALS]
        ready &= ~rtc.OFFLINE
    elif want >= rtc.PORTAL or life[rtc.PRESSES] > 1 or pins.button:
        if _stage("portal_trigger").run(life, end, want, ready):
            timer(resident)
            _leave(sys.modules)
            return "/portal"
    r = record.load()
    if not r:
        from bootloader import record_rebuild

        r = record_rebuild.rebuild()
    trial = resident.trial = r.trial != record.NONE
    slot = r.trial if trial else r.active
    if not trial:
        want = _account(r, life, end, want)
        m = slots.check_confirmed(r, slot)
        if not m and _stage("rollback").from_damaged(r):
            machine.reset()
    elif ready:
        m = slots.check_confirmed(r, slot)
        if not m:
            machine.reset()
    else:
        life[rtc.CRASHES] = life[rtc.ROUNDS] = 0
        m = _stage("trial_boot").next_try(r, end, want)
        if not m:
            machine.reset()
    rtc.save(life)
    resident.end_if_stopped = rtc.STOPPED
    resident.slot = None
    if "/boot" in sys.path:  # boot.py has found its image
        resident.home = "/boot"
    if m:
        resident.slot = "ab"[slot]
        resident.seq = m.seq
        resident.digest16 = slots.digest16(slot)
        resident.rejection = record.rejection(r)
        resident.install_failures = life[rtc.FAILS]
        resident.root = in_place.mount(m.image) if m.image else slots.path(slot)
        resident.plain = "runtime" not in os.listdir(resident.root)
    if not m or want == rtc.RECOVER:
        entry = "/recovery"
    elif want in (rtc.INSTALL, rtc.POLL) and not trial:
        entry = "/install"
        resident.poll_at = want
    elif (trial or resident.plain) and not ready:
        entry = "/prepare"
    else:
        if want != rtc.IMAGE:
            _make_images(life, kept, slot, not m.image)
        entry = m.entry
        _hand_over(m, life, ready)
    if life[rtc.READY] or "open" in os.listdir("/"):
        resident.poll_extra = {"open": 0}
    print("ota:", resident.slot, resident.seq, entry)
    timer(resident)
    _leave(sys.modules)
    return entry


def _account(r, life, end, want):
    """Count crashes of a confirmed app, and sleeps; return what is wanted after that."""
    count = life[rtc.CRASHES]
    # A life that the rescue's alarm has ended did not crash.
    if end in (rtc.RUNNING, rtc.EXCEPTION, rtc.VETO) and want != rtc.POLL:
        count = count + 1 if count < _SLEEPS else 1
        if end == rtc.RUNNING:
            _forget_traceback()
    elif end == rtc.SLEEP:
        count = max(count + 1, _SLEEPS)
    elif end != rtc.POWER:
        count = 0
    reason = record.ORDER if want == rtc.ROLLBACK else 0
    if count == _CRASHES:
        reason = record.CRASHES
    elif count >= _RESCUE:
        want = want or rtc.POLL  # lives too short for the day after which that happens
    else:
        life[rtc.CRASHES] = count
    if count == _CRASHES or count >= _RESCUE:
        life[rtc.CRASHES] = 0
        rtc.save(life)
    if reason and _stage("rollback").to_other(r, reason):
        # What had to be loaded for that leaves its names behind: the app gets a clean heap.
        machine.reset()
    if reason == record.CRASHES:
        life[rtc.CRASHES] = count  # recovery.py tells the server, and sets it to 0
        return rtc.RECOVER
    return want


def _forget_traceback():
    """Remove the traceback of an earlier crash: the last life hung, and left none."""
    try:
        _stage("crash_report").clear()
    except OSError as e:
        print("crash:", repr(e))


def _stage(name):
    gc.collect()
    return getattr(__import__("bootloader." + name), name)


def _ended(life):
    """How the last life ended. A sleep and a press on the button leave RUNNING behind as well."""
    end = life[rtc.END]
    if end in (rtc.RUNNING, rtc.ANSWERED):
        cause = machine.reset_cause()
        if cause == machine.DEEPSLEEP_RESET:
            return rtc.SLEEP if end == rtc.RUNNING else rtc.HEALTHY
        if cause == (6 if sys.platform == "esp8266" else 1):
            return rtc.POWER
        return rtc.RUNNING
    return end


def _make_images(life, ready, slot, app):
    """Make what does not execute in place do so from the next life on, where firmware can."""
    stage = resident.home == "/"
    if not (stage or app) or not in_place.segment():
        return
    try:
        if not _stage("image").make_images(slot, resident.digest16, app, stage):
            return
    except Exception as e:  # whatever it is, the files are there to run from
        print("image:", repr(e))
    # As if this life had not been; should an image be wrong, the next one runs from the files.
    life[rtc.READY] = ready
    life[rtc.WANT] = rtc.IMAGE
    rtc.save(life)
    machine.reset()


def _hand_over(m, life, ready):
    """What happens last, and what will happen by the tick of resident.py."""
    resident.server_seen_at = int(ready & rtc.HEARD > 0)
    resident.has_server = ready & rtc.NAMED > 0 or not ready
    resident.min_uptime = _LASTS if resident.has_server else _LASTS_ALONE
    if resident.trial:
        _stage("trial_limits").apply(m, ready)
    else:
        resident.alarms = [
            (_DOUBLE, rtc.PRESSES, 0, False),
            (_CALM, rtc.CRASHES, 0, False),
        ]
        resident.rescue_in(_DAY)
    if resident.plain:
        resident.poll_at = _NEXT if resident.server_seen_at else 0
    # An app with the runtime asks by itself: until it has, the boot stage's answer proves nothing.
    known = resident.plain and resident.server_seen_at or not resident.has_server
    life[rtc.END] = rtc.ANSWERED if known else rtc.RUNNING
    rtc.save(life)
    resident.in_app = True
    if not resident.plain:
        # From before the app is imported. ESP8266 takes no other value, bites after 1.6 to 3.2 s
        # and never stops: hence the tick of half a second, which feeds it on the loop's behalf. On
        # an ESP32 no tick comes while a name is looked up, half a minute where DNS is dead.
        resident.wdt = machine.WDT(timeout=5000 if sys.platform == "esp8266" else 60000)
    sys.path[:] = [resident.root, resident.root + "/lib", ".frozen"]
    try:
        os.chdir("/data")
    except OSError:  # the app may have removed it, and filled the flash
        try:
            os.mkdir("/data")
            os.chdir("/data")
        except OSError as e:
            print("/data:", repr(e))


def timer(ota):
    """Start the tick, on the timer that an app is the least likely to use."""
    number = -1
    if sys.platform != "esp8266":
        # Hardware timers only: four, but one or two on the RISC-V chips ("... with ESP32C3").
        kind = sys.implementation._machine.split("ESP32")[-1]
        number = 0 if kind[:1] in ("C", "H") else 3
    periodic = machine.Timer.PERIODIC
    ms = ota.tick_timer
    ota.tick_timer = machine.Timer(number)  # an ESP8266 lets the collector take it otherwise
    ota.tick_timer.init(period=ms, mode=periodic, callback=ota.tick)


def _leave(modules):
    """Let go of the boot stage, but for resident.py.

    Emptied, not just dropped: the collector takes what an old stack frame left behind for a
    reference, and one to a module would keep all of them on the heap.
    """
    for k in list(modules):
        if k.startswith("bootloader"):
            names = modules.pop(k).__dict__
            if k != "bootloader.resident":
                names.clear()
