"""What stays of the boot stage while the app runs: `import ota`.

Small, because its bytes are missing to the app: everything that is not needed every second is in
deeds.py and comes from flash when it is called. The tick runs inside the app, perhaps in the
middle of a flash operation, so it touches nothing but RAM and RTC memory.
"""

import gc
import machine
import network
import sys

version = 1  # of the boot stage
clock = 500  # ms between two ticks; the timer, once it runs
ticks = beat = heard = due = misses = fails = lasts = 0
ripe = 1 << 29  # the tick at which a trial may be confirmed; not before an answer
trial = parked = plain = False
offline = 0  # rounds of the portal in a row before this life, when there was one right before it
server = True
dev = False  # signed by this board's dev key alone
raises = (0, 0)  # seq and floor that a confirmation raises the record to
wdt = None
end = 3  # what Ctrl-C leaves in rtc.END: that is rtc.STOPPED
slot = "a"
seq = 0
digest = bad = None
alarms = []  # (tick, RTC byte, value, reset the board), soonest first
more = {}  # what polls say beside the usual: of WebREPL, where it is open


def mark(i, value):
    rtc = machine.RTC()
    m = bytearray(rtc.memory())
    m[i] = value
    m[i + 8] = 255 - value
    rtc.memory(m)


def tick(_):
    global ticks
    ticks += 1
    if wdt and (parked or ticks - beat < 60):
        wdt.feed()
    if alarms and ticks >= alarms[0][0]:
        _, i, value, reset = alarms.pop(0)
        if i == 2 and not network.WLAN(0).isconnected():
            again(7200)  # no poll without Wi-Fi: an hour later
            return
        mark(i, value)
        if reset:
            machine.reset()


def feed():
    global beat
    beat = ticks


def again(wait):
    """Let the boot stage poll, should no answer come in so many ticks (rtc.WANT is rtc.POLL)."""
    if server:
        alarms.append((ticks + wait, 2, 4, True))


def answered():
    global heard, ripe, alarms
    first = not heard
    heard = ticks or 1
    if trial:
        ripe = min(ripe, lasts)
        return
    alarms = [a for a in alarms if a[1] != 2]
    again(172800)
    if first and bad and bad[2]:
        stage("settle").reached()


def settle():
    if trial and ticks < ripe:
        return False
    try:
        return not trial or stage("settle").settle()
    except MemoryError:
        mark(0, 6)  # rtc.END is rtc.HEALTHY: the next boot has the heap to confirm it
        machine.reset()


def stage(name):
    gc.collect()  # what is loaded shall lie close together
    had = list(sys.modules)
    sys.path.insert(0, "/")
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
                    if not whole:
                        sys.modules[k].__dict__.clear()
                    del sys.modules[k]
                    break
            else:
                k = None


def __getattr__(name):
    return getattr(stage("deeds"), name)


def stop():
    """Ctrl-C is a person's wish, and often pressed twice: done before a second can interrupt."""
    global parked, alarms
    parked = True
    alarms = []
    mark(0, end)


def go(entry):
    had = tuple(sys.modules)
    gc.collect()
    try:
        if entry[0] == "/":
            entry = "bootloader." + entry[1:]
            __import__(entry)
            sys.modules[entry].run()
        else:
            __import__(entry)
            stage("deeds").idle()
    except KeyboardInterrupt:
        stop()
    except BaseException as e:
        try:
            for k in list(sys.modules):
                if k not in had:
                    sys.modules.pop(k).__dict__.clear()
            stage("deeds").end(e, entry)
        except MemoryError:
            mark(0, 2)  # rtc.END is rtc.EXCEPTION; there is no room for more
            machine.reset()
