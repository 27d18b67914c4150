"""What stays of the boot stage while the app runs: `import ota`.

Small, because its bytes are missing to the app: everything that is not needed every second is in
app_api.py and comes from flash when it is called. The tick runs inside the app, perhaps in the
middle of a flash operation, so it touches nothing but RAM and RTC memory.
"""

import gc
import machine
import sys
from micropython import const

# Of rtc.py, whose names would stay with this module
_END = const(0)
_WANT = const(2)
_EXCEPTION = const(2)
_ASKED = const(5)
_HEALTHY = const(6)
_ANSWERED = const(9)
_POLL = const(4)
# Ticks
_HEARTBEAT = const(60)  # without feed() for so long an app hangs: 30 s
_LATE = const(60)
_DAY = const(172800)
_NEVER = const(1 << 29)

version = 1  # of the boot stage
tick_timer = 500  # ms between two ticks; the timer, once it runs
ticks = beat = server_seen_at = poll_at = poll_failures = install_failures = min_uptime = 0
confirm_at = _NEVER  # the tick at which a trial may be confirmed; not before an answer
rescue_at = _NEVER  # the tick at which the boot stage polls, unless a server answers before it
trial = stopped = plain = in_app = False
portal_rounds = 0  # without a network, in a row, the last one right before this life
has_server = True
dev_signed = False  # signed by this board's dev key alone
raise_to = (0, 0)  # seq and floor that a confirmation raises the record to
wdt = None
end_if_stopped = 3  # what Ctrl-C leaves in rtc.END: rtc.STOPPED
slot = "a"
home = "/"  # below it lies the boot stage's folder
root = ""  # and here the app's modules, where a slot runs
seq = 0
digest16 = rejection = None
alarms = []  # (tick, RTC byte, value, reset the board), soonest first
poll_extra = {}  # what polls say beside the usual: of WebREPL, where it is open


def mark(i, value):
    """Write `value` (0 to 255) to byte `i` of the boot stage's RTC memory (rtc.py)."""
    rtc = machine.RTC()
    m = bytearray(rtc.memory())
    m[i] = value
    m[i + 8] = 255 - value
    rtc.memory(m)


def exit(want):
    """Leave the app in good order, for what the boot stage shall do then (rtc.WANT).

    Takes no heap but for a few bytes: it is called when hardly any is left.
    """
    mark(_END, _ASKED)
    mark(_WANT, want)
    machine.reset()


def tick(_):
    """Count half a second, feed the watchdog on the app's behalf, ring what is due of `alarms`."""
    global ticks
    ticks += 1
    if wdt and (stopped or ticks - beat < _HEARTBEAT):
        wdt.feed()
    # Where there is no heap for a mark, which raises, the next tick tries again; after half a
    # minute the reset comes without. No try: its frame would be on the heap, at each tick.
    if alarms and ticks >= alarms[0][0]:
        at, i, value, reset = alarms[0]
        if reset and ticks > at + _LATE:
            machine.reset()
        mark(i, value)
        if reset:
            machine.reset()
        alarms.pop(0)
    if ticks >= rescue_at:
        mark(_WANT, _POLL)
        machine.reset()


def feed():
    """Tell the watchdog that the app is alive; due every 30 s. The runtime's loop calls it."""
    global beat
    beat = ticks


def rescue_in(wait):
    """Let the boot stage connect and poll by itself, should no server answer within `wait` ticks.

    A time set before counts if it is sooner. Takes no heap: it is called when none is left.
    """
    global rescue_at
    if has_server and not trial:
        rescue_at = min(rescue_at, ticks + wait)


def answered():
    """Note that a server has answered, authenticated: a trial may be confirmed from now on."""
    global server_seen_at, confirm_at, rescue_at
    first = not server_seen_at
    server_seen_at = ticks or 1
    if in_app:
        mark(_END, _ANSWERED)
    if trial:
        confirm_at = min(confirm_at, min_uptime)
        return
    rescue_at = ticks + _DAY
    if first and rejection and rejection[2]:
        stage("confirm").server_reached()


def confirm_if_due():
    """Confirm the trial if it has proved itself; return whether none is open (any more)."""
    if trial and ticks < confirm_at:
        return False
    try:
        return not trial or stage("confirm").commit()
    except MemoryError:
        mark(_END, _HEALTHY)  # the next boot has the heap to confirm it
        machine.reset()


def stage(name):
    """Import and return the boot stage's module `name` without keeping it or what it imports.

    Raises MemoryError when there is no room for it; nothing of it stays on the heap then.
    """
    gc.collect()  # what is loaded shall lie close together
    had = list(sys.modules)
    sys.path.insert(0, home)
    whole = False
    try:
        __import__("bootloader." + name)
        name = sys.modules["bootloader." + name]
        whole = True
        return name
    finally:
        # Nothing here takes heap: what did not fit would stay for good.
        sys.path.pop(0)
        k = "bootloader"
        while k:
            for k in sys.modules:
                if k == "bootloader" or (k not in had and k.startswith("bootloader.")):
                    # None where there was no room for the module, but for its name here.
                    m = sys.modules.pop(k, None)
                    if m and not whole:
                        m.__dict__.clear()
                    break
            else:
                k = None


def __getattr__(name):
    return getattr(stage("app_api"), name)


def stop():
    """Leave the app to the person who pressed Ctrl-C: the watchdog is fed, no alarm rings.

    Ctrl-C is often pressed twice: this is done before a second one can interrupt it.
    """
    global stopped, alarms, rescue_at
    stopped = True
    alarms = []
    rescue_at = _NEVER
    mark(_END, end_if_stopped)


def go(entry):
    """Run `entry`: an app's module, or a stage of the boot as "/" and its name. Never returns.

    However it ends, the board is reset, but for Ctrl-C, which leads to the REPL.
    """
    had = tuple(sys.modules)
    gc.collect()
    try:
        if entry[0] == "/":
            entry = "bootloader." + entry[1:]
            __import__(entry)
            sys.modules[entry].run()
        else:
            __import__(entry)
            stage("app_api").idle()
    except KeyboardInterrupt:
        stop()
    except BaseException as e:
        try:
            for k in list(sys.modules):
                m = sys.modules.pop(k, None) if k not in had else None
                if m:  # as in stage()
                    m.__dict__.clear()
            stage("app_api").crashed(e, entry)
        except MemoryError:
            mark(_END, _EXCEPTION)  # there is no room for more
            machine.reset()
