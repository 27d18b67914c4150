# From power-on to the REPL in the order of the stock firmware: mount, boot.py, main.py unless
# boot.py raised, REPL. All of the simulator is imported before the host's file system goes away.
import gc

import __main__
import _clock
import _flash
import _page
import _repl
import _sys
import _term
import _tick
import _wait
import esp
import hashlib
import machine
import network
import os
import select
import socket
import struct
import time
import uctypes
import uos
import usys
import vfs
import webrepl

_STORAGE = uos.getenv("SIM_STORAGE")
_IMAGE = uos.getenv("SIM_IMAGE")
_STAY = uos.getenv("SIM_STAY") == "1"
_FREE = int(uos.getenv("SIM_FREE"))  # bytes that a chip's heap has free before boot.py
_USED = int(uos.getenv("SIM_USED"))
_FILLINGS = [None] * 4096
_FROZEN = []  # the heap that frozen modules take
_ROM_PATH = []
_OURS = []  # modules that a soft reset leaves: the simulator's
if _STORAGE == "model":
    from _model import Model
if _page.ROMFS:
    import _segment
    import _vfs
if _page.OWN or _page.SPEED > 1:
    import _aio

    usys.modules["_asyncio"] = _aio


class _Frozen:
    """A module in a chip's ROM: what its first import makes of it takes heap."""

    def __init__(self, name, size):
        self._name = name
        self._size = size
        self._module = usys.modules[name]
        usys.modules[name] = self

    def __getattr__(self, name):
        if usys.modules[self._name] is self:
            usys.modules[self._name] = self._module
            _FROZEN.append(bytearray(self._size))
        return getattr(self._module, name)


def main():
    names = __main__.__dict__
    _tick.start()
    _freeze()
    _pools_of_a_chip()
    _leave_a_chips_heap()
    gc.threshold(256 if _page.PROFILE else _page.HEAP // 4)
    _mount()
    _set_path()
    usys.argv[:] = []
    _OURS.extend(usys.modules)
    _page.page.peak = 0  # so far it was the simulator's own
    _clock.begin()
    network.begin()
    for name in ("/boot.py", "/main.py"):
        if not _run(name, names):
            break
    if not _STAY:
        _page.die(_page.REPL)
    _repl.run(names, lambda: _restart(names))


def _freeze():
    # Frozen into every image with asyncio. Its sockets are to be the board's, not the host's.
    try:
        import umqtt.simple
    except ImportError:
        return  # it could not be fetched: tools/sim/umqtt.py has said so
    umqtt.simple.socket = socket
    # Two classes, fourteen functions and the dictionaries with their names, in words of 4 bytes.
    _Frozen("umqtt.simple", 832)


def _pools_of_a_chip():
    # Interned names lie in pools that double in size and are never freed (py/qstr.c). A chip has
    # its firmware's in ROM, in a pool that says it has room for ten, so its first one on the heap
    # has twenty. Here the simulator's names have filled some pools: the newest is told the same.
    newest = "newest%d" % gc.mem_alloc()  # a constant would be as old as this module
    setattr(_page, newest, None)
    name = uctypes.addressof([n for n in dir(_page) if n == newest][0])
    for line in open("/proc/self/maps"):
        low, high = [int(text, 16) for text in line.split()[0].split("-")]
        if low <= name < high:
            break
    word = struct.calcsize("P")
    kind = uctypes.UINT32 if word == 4 else uctypes.UINT64
    size = (high - low) // word
    words = uctypes.struct(low, {"of": (uctypes.ARRAY | 0, kind | size)}).of
    for i in range(size):
        # A pool: the one before, names in all those, room, names, where hashes and lengths begin,
        # then where each name is; then the hashes.
        for n in range(1, 4096) if words[i] == name else ():
            pool = i - n - 5
            if pool < 0:
                break
            room = words[pool + 2]
            if words[pool + 3] == n and words[pool + 4] == low + word * (pool + 6 + room):
                words[pool + 2] = 10
                return
    raise RuntimeError("where are the names?")


def _leave_a_chips_heap():
    # What the simulator takes of the heap, and the holes that loading it has left, vary from run to
    # run, by what old stack frames keep alive. So all but one piece is filled for good, and that
    # piece is as large as what a chip has free.
    _scrub(20)
    gc.collect()
    piece = [bytearray(_FREE - 112)]  # the rest are its own object and what the filling drops
    n = 0
    for size in (4096, 1024, 256, 64, 16):
        try:
            while True:
                _FILLINGS[n] = bytearray(size)
                n += 1
        except MemoryError:
            gc.collect()
    piece[0] = None
    gc.collect()
    for _ in range(20):
        if gc.mem_free() >= _FREE - 128:
            break
        _scrub(20)
        gc.collect()
    else:
        raise RuntimeError("what is left is no chip's heap")
    _tick.ours[0] = gc.mem_alloc() - _USED


def _scrub(deep):
    # Writes over what calls have left on the stack, which the collector takes for references.
    if deep:
        _scrub(deep - 1)
    hashlib.sha256(b"").digest()


def _mount():
    vfs.umount("/")
    _mount_segment()
    if _STORAGE == "model":
        vfs.mount(Model(_IMAGE), "/")
    else:
        vfs.mount(vfs.VfsLfs2(_flash.Flash(_IMAGE), readsize=32, progsize=32, lookahead=32), "/")
    uos.chdir("/")


def _mount_segment():
    # As the firmware does before anything of Python runs; it looks at the first bytes alone.
    del _ROM_PATH[:]
    if not _page.ROMFS:
        return
    for place in ("/rom", "/boot"):
        try:
            vfs.umount(place)
        except OSError as problem:
            del problem  # not mounted: this is no soft reset
    try:
        vfs.mount(vfs.VfsRom(_segment.mapped), "/rom")
        _ROM_PATH.extend(("/rom", "/rom/lib"))
    except OSError as problem:
        del problem  # there is no image


def _set_path():
    end = ["/lib"] if _page.ESP32 else ["/lib", "/"]
    usys.path[:] = ["", ".frozen"] + _ROM_PATH + end


def _run(name, names):
    """False when the file raised, as the ports' pyexec has it; a missing file is not an error."""
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
    _mount_segment()
    _set_path()
    gc.collect()
    _run("/boot.py", names)
    return names


main()
