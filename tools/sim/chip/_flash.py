# The flash chip: a block device on a file. Nothing here allocates, because finalisers close files
# while the heap is locked.
import uos
from _page import CUT, die, libc, page

_BLOCK = 4096
_AT = int(uos.getenv("SIM_CUT"))
_TORN = uos.getenv("SIM_TORN") == "1"
_EMPTY = b"\xff" * _BLOCK

_pread = libc.func("i", "pread", "ipii")
_pwrite = libc.func("i", "pwrite", "ipii")


def counted():
    """Count one operation; true when the power goes in the middle of it."""
    page.ops += 1
    return page.ops == _AT


def torn():
    return _TORN


class Flash:
    def __init__(self, path):
        self._fd = libc.func("i", "open", "sii")(path, 2, 0)
        self._count = libc.func("i", "lseek", "iii")(self._fd, 0, 2) // _BLOCK

    def readblocks(self, block, buf, offset=0):
        _pread(self._fd, buf, len(buf), block * _BLOCK + offset)

    def writeblocks(self, block, buf, offset=0):
        size = len(buf)
        cut = counted()
        if cut and not _TORN:
            die(CUT)
        _pwrite(self._fd, buf, size // 2 if cut else size, block * _BLOCK + offset)
        if cut:
            die(CUT)
        page.programmed += size

    def ioctl(self, op, arg):
        if op == 4:
            return self._count
        if op == 5:
            return _BLOCK
        if op == 6:
            cut = counted()
            if cut and not _TORN:
                die(CUT)
            _pwrite(self._fd, _EMPTY, _BLOCK // 2 if cut else _BLOCK, arg * _BLOCK)
            if cut:
                die(CUT)
            page.erases += 1
        return 0
