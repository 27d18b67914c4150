# The ROMFS segment of the stock variant ESP8266_GENERIC-FLASH_2M_ROMFS: raw flash behind
# esp.flash_*, and the same flash as the chip maps it into memory, outside the heap.
import uctypes
import uos
import vfs
from _flash import counted, torn
from _page import CUT, check, die, libc, page

START = 0xB0000
SIZE = 0x50000
_SECTOR = 4096
_EMPTY = b"\xff" * _SECTOR
# What the map shows of flash that this life has written is not known of the chip: the content of
# the last reset (a cache that keeps it), or the new one at once. Device code must work on both.
_LIVE = uos.getenv("SIM_MAP") == "live"
_PATH = uos.getenv("SIM_SEGMENT")
_STUCK = int(uos.getenv("SIM_STUCK"))  # of this byte the lowest bit stays 0
_READ = 1
_READ_WRITE = 3
_SHARED = 1
_PRIVATE = 2

_mmap = libc.func("p", "mmap", "piiiii")
_fd = libc.func("i", "open", "sii")(_PATH, 2, 0)
_cells = uctypes.bytearray_at(_mmap(0, SIZE, _READ_WRITE, _SHARED, _fd, 0), SIZE)


def _map():
    if _LIVE:
        address = _mmap(0, SIZE, _READ, _SHARED, _fd, 0)
    else:
        # Pages of a private mapping become its own when they are written.
        address = _mmap(0, SIZE, _READ_WRITE, _PRIVATE, _fd, 0)
        own = uctypes.bytearray_at(address, SIZE)
        for at in range(0, SIZE, _SECTOR):
            own[at] = own[at]
        libc.func("i", "mprotect", "pii")(address, SIZE, _READ)
    return address


_mounted = []  # beginnings and ends, as addresses, of what this life has mounted


def VfsRom(content):
    """The interpreter's own, noted: names and bytecode in it are used where they lie."""
    at = uctypes.addressof(content)
    _mounted.append((at, at + len(content)))
    return vfs.VfsRom(content)


def _changes(at, size):
    for low, high in _mounted:
        if low < _low + at + size and _low + at < high:
            print("chip: mounted flash changes")  # it would not say so


_address = _map()
mapped = memoryview(uctypes.bytearray_at(_address, SIZE))
_low = uctypes.addressof(mapped)  # an address of its kind: unsigned


def _at(offset, size):
    if not START <= offset <= START + SIZE - size:
        raise OSError(5)  # firmware or file system: of no use to device code
    return offset - START


def flash_read(offset, buf):
    if isinstance(buf, int):
        buf = bytearray(buf)
        flash_read(offset, buf)
        return buf
    if len(buf) & 3:
        raise OSError(5)  # the SDK reads words
    at = _at(offset, len(buf))
    memoryview(buf)[:] = memoryview(_cells)[at : at + len(buf)]
    return None


def flash_write(offset, buf):
    size = len(buf)
    if size & 3:
        raise ValueError("len must be multiple of 4")
    source = uctypes.addressof(buf)
    if (offset | source) & 3 or _low <= source < _low + SIZE:
        raise OSError(5)
    at = _at(offset, size)
    _changes(at, size)
    cut = counted()
    if cut and not torn():
        die(CUT)
    for i in range(size // 2 if cut else size):
        _cells[at + i] &= buf[i]  # bits only fall
    _stick()
    if cut:
        die(CUT)
    page.programmed += size


def _stick():
    if _STUCK >= 0:
        _cells[_STUCK] &= 0xFE


def flash_erase(sector):
    check()
    at = _at(sector * _SECTOR, _SECTOR)
    _changes(at, _SECTOR)
    cut = counted()
    if cut and not torn():
        die(CUT)
    size = _SECTOR // 2 if cut else _SECTOR
    memoryview(_cells)[at : at + size] = memoryview(_EMPTY)[:size]
    _stick()
    if cut:
        die(CUT)
    page.erases += 1


def rom_ioctl(op, *arguments):
    if op == 1:
        return 1
    if op == 2 and arguments == (0,):
        return mapped
    if op == 3:
        # WRITE_PREPARE erases from the segment's beginning, whatever lies there.
        for sector in range((arguments[1] + _SECTOR - 1) // _SECTOR):
            flash_erase(START // _SECTOR + sector)
        return 4
    if op == 4:
        flash_write(START + arguments[1], arguments[2])
        return 0
    return -22
