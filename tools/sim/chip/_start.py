# From power-on to the REPL in the order of the stock firmware: mount, boot.py, main.py unless
# boot.py raised, REPL. All of the simulator is imported before the host's file system goes away.
import gc

import __main__
import _flash
import _page
import _repl
import _sys
import _term
import _tick
import esp
import machine
import network
import os
import select
import socket
import time
import uctypes
import uos
import usys
import vfs
import webrepl

# Frozen into every image with asyncio. Its sockets are to be the board's, not the host's.
try:
    import umqtt.simple

    umqtt.simple.socket = socket
except ImportError:
    pass  # it could not be fetched: tools/umqtt.py has said so

_STORAGE = uos.getenv("SIM_STORAGE")
_IMAGE = uos.getenv("SIM_IMAGE")
_STAY = uos.getenv("SIM_STAY") == "1"
_HOLES = [None] * 2048
_OURS = []  # modules that a soft reset leaves: the simulator's
if _STORAGE == "model":
    from _model import Model
if _page.SPEED > 1:
    import _aio

    usys.modules["_asyncio"] = _aio


def main():
    names = __main__.__dict__
    _tick.start()
    _make_room_for_names()
    _fill_holes()
    if uos.getenv("SIM_MEASURE"):
        gc.collect()
        print(gc.mem_free(), gc.mem_alloc())
        _page.die(0)
    gc.threshold(256 if _page.PROFILE else _page.HEAP // 4)
    _mount()
    _set_path()
    usys.argv[:] = []
    _OURS.extend(usys.modules)
    for name in ("/boot.py", "/main.py"):
        if not _run(name, names):
            break
    if not _STAY:
        _page.die(_page.REPL)
    _repl.run(names, lambda: _restart(names))


def _make_room_for_names():
    # Interned names lie in pools that double in size and are never freed. A chip has its firmware's
    # in ROM and begins with small pools. Here the simulator's own decide how full the last pool is:
    # a few more, and device code would pay for one of thousands of bytes. So a new one is begun.
    n = grown = 0
    while grown < 2048:
        if n % 32 == 0:
            gc.collect()
        before = gc.mem_alloc()
        hasattr(_page, "q%d" % n)
        grown = gc.mem_alloc() - before
        n += 1


def _fill_holes():
    # Loading the simulator leaves holes between what stays of it. A chip's heap is one piece, so
    # they are filled for good, and the heap is so much larger (interpreter.py measures it).
    gc.collect()
    try:
        rest = uctypes.addressof(bytearray(16384))
    except MemoryError:
        return  # less than any chip has
    n = 0
    for size in (2048, 1024, 512, 256, 128, 64, 32, 16, 16):
        gc.collect()
        while n < len(_HOLES):
            filling = bytearray(size)
            if uctypes.addressof(filling) >= rest:
                break
            _HOLES[n] = filling
            n += 1


def _mount():
    vfs.umount("/")
    if _STORAGE == "model":
        vfs.mount(Model(_IMAGE), "/")
    else:
        vfs.mount(vfs.VfsLfs2(_flash.Flash(_IMAGE), readsize=32, progsize=32, lookahead=32), "/")
    uos.chdir("/")


def _set_path():
    usys.path[:] = ["", ".frozen", "/lib"] if _page.ESP32 else ["", ".frozen", "/lib", "/"]


def _run(name, names):
    """False when the file raised, as the ports' pyexec has it; a missing file is no failure."""
    try:
        uos.stat(name)
    except OSError:
        return True
    try:
        execfile(name, names)
    except SystemExit:
        if _page.ESP32:
            _page.die(_page.SOFT_RESET)
    except BaseException as problem:
        _term.print_exception(problem)
        return False
    return True


def _restart(names):
    """A soft reset from the raw REPL: everything forgotten, boot.py run, main.py not."""
    for n in range(_tick.TIMERS):
        _tick.release(n)
    for name in list(usys.modules):
        if name not in _OURS:
            del usys.modules[name]
    for name in list(names):
        if name != "__name__":
            del names[name]
    uos.chdir("/")
    _set_path()
    gc.collect()
    _run("/boot.py", names)
    return names


main()
