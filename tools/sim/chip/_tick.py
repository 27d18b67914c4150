# Everything that happens by itself: timers, pin interrupts, a change of the air. A second thread
# watches the clock and only ever asks the main thread to act (micropython.schedule), so that
# callbacks run where a chip runs them. The thread must not allocate: nothing stops it for the GC.
import _thread
import _event
import gc
import usys
import utime
from array import array
from micropython import schedule

from _page import ESP32, LEVEL_IN, PROFILE, SPEED, libc, memory, page, shut

TIMERS = 16
_PINS = 40
_LOOK = 1000 if SPEED > 50 else 2000  # real microseconds between two looks at the clock
_PATIENCE = 500000 // _LOOK  # looks
_SIGINT = 2
_usleep = libc.func("i", "usleep", "I")  # one call to the host, where utime has two
_kill = libc.func("i", "kill", "ii")
_me = libc.func("i", "getpid", "")()
_due = array("i", [0] * TIMERS)
_period = array("i", [0] * TIMERS)  # real milliseconds; 0: once
_on = bytearray(TIMERS)
_fired = bytearray(TIMERS)
_call = [None] * TIMERS
_level = bytearray(_PINS)
_watched = bytearray(_PINS)
_changed = bytearray(_PINS)
_pin_call = [None] * _PINS
_flags = bytearray(3)  # asked for, pins watched, the air changed
on_air = [None]
ours = array("i", [0])  # bytes of the heap that are the simulator's


def claim(callback, milliseconds, periodic):
    """Start a timer; its number, which `release` takes."""
    wait = max(1, milliseconds // SPEED)
    for n in range(TIMERS):
        if not _on[n] and not _fired[n]:
            _call[n] = callback
            _period[n] = wait if periodic else 0
            _due[n] = utime.ticks_add(utime.ticks_ms(), wait)
            _on[n] = 1
            return n
    raise OSError(12)


def release(n):
    _on[n] = _fired[n] = 0
    _call[n] = None


def watch(pin, callback):
    _pin_call[pin] = callback
    _level[pin] = memory[LEVEL_IN + pin]
    _watched[pin] = callback is not None
    _flags[1] = 1


def _act(_):
    _flags[0] = 0
    shut[0] += 1
    try:
        _serve()
    finally:
        shut[0] -= 1


def _serve():
    if _flags[2]:
        _flags[2] = 0
        on_air[0]()
    if not ESP32:
        _event.serve()
    for n in range(TIMERS):
        if _fired[n]:
            _fired[n] = 0
            _safely(_call[n])
    if _flags[1]:
        for n in range(_PINS):
            if _changed[n]:
                _changed[n] = 0
                _safely(_pin_call[n])


def _safely(callback):
    try:
        if callback:
            callback()
    except Exception as problem:
        usys.print_exception(problem)


def _loop():
    air = page.radio
    waited = 0
    while True:
        ask = False
        if _event.waiting():
            ask = _event.look()
        else:
            _usleep(_LOOK)
        now = utime.ticks_ms()
        for n in range(TIMERS):
            if _on[n] and utime.ticks_diff(now, _due[n]) >= 0:
                _fired[n] = 1
                ask = True
                if _period[n]:
                    _due[n] = utime.ticks_add(now, _period[n])
                else:
                    _on[n] = 0
        if _flags[1]:
            for n in range(_PINS):
                if _watched[n] and memory[LEVEL_IN + n] != _level[n]:
                    _level[n] = memory[LEVEL_IN + n]
                    _changed[n] = 1
                    ask = True
        if page.radio != air:
            air = page.radio
            _flags[2] = 1
            ask = True
        # Device code that never calls the simulator is struck by the signal after all.
        waited = waited + 1 if page.interrupt else 0
        if waited > _PATIENCE:
            waited = page.interrupt = 0
            _kill(_me, _SIGINT)
        if PROFILE:
            used = gc.mem_alloc() - ours[0]
            if used > page.peak:
                page.peak = used
        if ask and not _flags[0]:
            _flags[0] = 1
            try:
                schedule(_act, None)
            except RuntimeError:
                _flags[0] = 0


def start():
    # A new thread inherits what is blocked: Ctrl-C is for the one that runs the device code.
    mask = libc.func("i", "sigprocmask", "ipp")
    sigint = b"\x02" + bytes(127)
    mask(0, sigint, None)
    _thread.stack_size(32768)
    _thread.start_new_thread(_loop, ())
    mask(1, sigint, None)
