# Everything that happens by itself: timers, pin interrupts, a change of the air, the watchdog.
# While the device code computes, a second thread looks at the clock and only ever asks the main
# thread to act (micropython.schedule), so that callbacks run where a chip runs them. The thread
# must not allocate: nothing stops it for the GC. While the device code waits, _wait.py does it.
import _thread
import _clock
import _event
import gc
import usys
import utime
from array import array
from micropython import schedule

from _page import ESP32, LEVEL_IN, OWN, PROFILE, SPEED, libc, memory, page, shut

TIMERS = 16
_PINS = 40
_LOOK = 1000 if OWN or SPEED > 50 else 2000  # real microseconds between two looks at the clock
_PATIENCE = 500000 // _LOOK  # looks
_MERCY = 5 * SPEED  # ms of the board in which an overdue timer can still feed the watchdog
_SIGINT = 2
_usleep = libc.func("i", "usleep", "I")  # one call to the host, where utime has two
_kill = libc.func("i", "kill", "ii")
_me = libc.func("i", "getpid", "")()
_due = array("l", [0] * TIMERS)
_period = array("l", [0] * TIMERS)  # ms; 0: once
_on = bytearray(TIMERS)
_call = [None] * TIMERS
_next = array("l", [0, 0])  # whether a timer runs, when the next one is due
_level = bytearray(_PINS)
_watched = bytearray(_PINS)
_pin_call = [None] * _PINS
_flags = bytearray(3)  # asked for, pins watched, the main thread waits
_radio = array("l", [0])  # the air that the device code knows
on_air = [None]
ours = array("i", [0])  # bytes of the heap that are the simulator's


def claim(callback, milliseconds, periodic):
    """Start a timer; its number, which `release` takes."""
    wait = max(1, milliseconds)
    for n in range(TIMERS):
        if not _on[n]:
            _call[n] = callback
            _period[n] = wait if periodic else 0
            _due[n] = utime.ticks_add(_clock.ticks_ms(), wait)
            _on[n] = 1
            _choose()
            return n
    raise OSError(12)


def release(n):
    _on[n] = 0
    _call[n] = None
    _choose()


def _choose():
    first = _earliest()
    if first >= 0:
        _next[1] = _due[first]
    _next[0] = first >= 0


def _earliest():
    first = -1
    for n in range(TIMERS):
        if _on[n] and (first < 0 or utime.ticks_diff(_due[first], _due[n]) > 0):
            first = n
    return first


def watch(pin, callback):
    _pin_call[pin] = callback
    _level[pin] = memory[LEVEL_IN + pin]
    _watched[pin] = callback is not None
    _flags[1] = 1


def left(now):
    """ms until a timer is due; None: there is none."""
    return utime.ticks_diff(_next[1], now) if _next[0] else None


def due(now):
    """Whether there is something to do."""
    if _next[0] and utime.ticks_diff(_next[1], now) <= 0 or page.radio != _radio[0]:
        return True
    if _flags[1]:
        for n in range(_PINS):
            if _watched[n] and memory[LEVEL_IN + n] != _level[n]:
                return True
    return False


def act():
    """Do what is due, as the chip does: not within another callback."""
    if shut[0] or not ask():
        return
    for _ in range(10):  # the interpreter looks at each turn, unless it is in a callback
        if not _flags[0]:
            break


def ask():
    if not _flags[0]:
        _flags[0] = 1
        try:
            schedule(_act, None)
        except RuntimeError:
            _flags[0] = 0
            return False
    return True


def _act(_):
    _flags[0] = 0
    shut[0] += 1
    try:
        _serve()
    finally:
        shut[0] -= 1


def _serve():
    if page.radio != _radio[0]:
        _radio[0] = page.radio
        on_air[0]()
    if not ESP32:
        _event.serve()
    now = _clock.ticks_ms()
    while True:
        n = _earliest()
        if n < 0 or utime.ticks_diff(_due[n], now) > 0:
            break
        callback = _call[n]
        if _period[n]:
            after = utime.ticks_add(_due[n], _period[n])
            late = utime.ticks_diff(now, after) >= 0
            _due[n] = utime.ticks_add(now, _period[n]) if late else after
        else:
            _on[n] = 0
        _choose()
        _safely(callback)
    if _flags[1]:
        for n in range(_PINS):
            if _watched[n] and memory[LEVEL_IN + n] != _level[n]:
                _level[n] = memory[LEVEL_IN + n]
                _safely(_pin_call[n])


def _safely(callback):
    try:
        if callback:
            callback()
    except Exception as problem:
        usys.print_exception(problem)


def waits(on):
    """The main thread waits, and looks at the clock itself."""
    _flags[2] += on


def _loop():  # noqa: C901 (a call may allocate, which this thread must not)
    waited = 0
    mercy = -1
    while True:
        called = False
        if _event.waiting():
            called = _event.look()
        else:
            _usleep(_LOOK)
        if OWN and _flags[2]:
            if called:
                ask()
            mercy = -1
            continue
        now = _clock.seen() if OWN else _clock.ticks_ms()
        if OWN:
            page.now = now & 0x3FFFFFFF
            bites = _clock.left(now)
            if bites is None or bites > 0:
                mercy = -1
            elif mercy < 0 and (_flags[0] or due(now)):
                # A busy host may have kept this thread from looking: what is due may feed it yet.
                mercy = now
            elif mercy < 0 or utime.ticks_diff(now, mercy) > _MERCY:
                _clock.bite()
        if called or due(now):
            ask()
        # Device code that never calls the simulator is struck by the signal after all.
        waited = waited + 1 if page.interrupt else 0
        if waited > _PATIENCE:
            waited = page.interrupt = 0
            _kill(_me, _SIGINT)
        if PROFILE:
            used = gc.mem_alloc() - ours[0]
            if used > page.peak:
                page.peak = used


def start():
    _radio[0] = page.radio
    # A new thread inherits what is blocked: Ctrl-C is for the one that runs the device code.
    mask = libc.func("i", "sigprocmask", "ipp")
    sigint = b"\x02" + bytes(127)
    mask(0, sigint, None)
    _thread.stack_size(32768)
    _thread.start_new_thread(_loop, ())
    mask(1, sigint, None)
