"""What the app may ask of the boot stage, one call each; reached as attributes of `ota`."""

import machine
import sys
import time
from hashlib import sha256
from micropython import const

import ota
from bootloader import record, rtc

_RETRY = const(240)  # ticks after a poll that found no heap ...
_RESCUE = const(2400)  # ... and after which the boot stage polls instead
_LONGEST_SLEEP = const(4294967)  # ms


def watch():
    """For a plain app: switch the watchdog on, for good. From now on feed() is due every 30 s."""
    ota.feed()
    # As start.py does, which says why.
    ota.wdt = machine.WDT(timeout=5000 if sys.platform == "esp8266" else 60000)


def confirm():
    """Skip the 60 s; a server answer is still required."""
    ota.min_uptime = ota.ticks
    if ota.server_seen_at or not ota.has_server:
        ota.confirm_at = ota.ticks


def veto(text):
    """The app finds itself unfit: the trial ends here, for good."""
    ota.stage("crash_report").save(text)
    ota.mark(rtc.END, rtc.VETO)
    machine.reset()


def reset(by_person=False):
    """Reset in good order: no crash. In a trial it costs a try, unless a person has ordered it."""
    ota.mark(rtc.END, rtc.STOPPED if by_person else rtc.ASKED)
    machine.reset()


def install():
    """Leave the app and let the boot stage install what the server offers; not during a trial."""
    if not ota.trial:
        ota.exit(rtc.INSTALL)


def rollback():
    """Leave the app and go back to the other slot, if that verifies and the floor allows."""
    ota.exit(rtc.ROLLBACK)


def recover():
    """Leave the app for recovery."""
    ota.exit(rtc.RECOVER)


def portal():
    """Leave the app for a round of the portal; not during a trial."""
    if not ota.trial:
        ota.exit(rtc.PORTAL)


def unlock(order):
    """The server's `ota-unlock` for this life: let the boot stage judge it; not during a trial."""
    if not ota.trial and order.split("\n")[2:3] == ["life " + ota.life_id]:
        f = open("/state/order", "w")
        try:
            f.write(order)
        finally:
            f.close()
        ota.mark(rtc.ROUNDS, 255)
        ota.exit(rtc.RECOVER)


def webrepl(entry):
    """Open WebREPL before `entry` starts; not while flash is being written all the time."""
    if entry != "/install" and entry != "/prepare":
        try:
            return ota.stage("webrepl").start()
        except Exception as e:
            sys.print_exception(e)
    ota.poll_extra = {}


def sleep(ms):
    """Deep sleep in good order; before it a trial is confirmed, if the server answered.

    An ESP8266 sleeps for 71 minutes at most: its firmware counts microseconds in 32 bits.
    """
    if sys.platform == "esp8266":
        ms = min(ms, _LONGEST_SLEEP)
    confirm()
    ota.confirm_if_due()
    known = ota.server_seen_at or not ota.has_server
    ota.mark(rtc.END, rtc.HEALTHY if known else rtc.SLEEP)
    machine.deepsleep(ms)


def retry(digest):
    """The server's `retry`: a rejection of this release no longer counts."""
    r = record.load()
    if r.rejected == digest:
        r.rejected = record.ZERO
        r.flags = r.soft_count = r.reached = r.reason = 0
        record.store(r)
        ota.rejection = None


def check():
    """For an app without the runtime: feed, confirm and poll when due. Blocks for the poll."""
    ota.feed()
    ota.confirm_if_due()
    if ota.ticks >= ota.poll_at:
        _wipe(12)
        try:
            wait = ota.stage("poll_app").poll_running()
        except (MemoryError, OSError) as e:  # no crash of the app's; the flash may be full
            print("poll:", repr(e))
            wait = _RETRY
            ota.rescue_in(_RESCUE)
        ota.poll_at = ota.ticks + wait
        ota.feed()


def _wipe(deep):
    """Write over what calls have left on the stack: the collector takes it for references.

    As runtime.wipe(), which a plain app does not have. The modules of the last poll would stay
    then, and two of them have no room.
    """
    if deep:
        try:
            _wipe(deep - 1)
        except RuntimeError:  # there is no more stack
            return
    sha256().digest()


def idle():
    """The app's main has returned, as one does that lives from timers and interrupts.

    And as one does that was to run the runtime, and does not.
    """
    while True:
        ota.check()
        time.sleep(1)


def crashed(e, entry):
    """`entry` has ended by the exception `e`: keep its traceback, and reset."""
    sys.print_exception(e)
    if entry.startswith("bootloader."):
        machine.reset()
    ota.mark(rtc.END, rtc.EXCEPTION)
    try:
        from io import StringIO

        text = StringIO()
        sys.print_exception(e, text)
        ota.stage("crash_report").save(text.getvalue())  # pyright: ignore
    finally:
        machine.reset()
