# A file system without LittleFS's kindness: a file opened for writing is empty at once, and every
# write lands by itself and can be torn. Logic that survives on this does not lean on LittleFS.
import io

import uos
import vfs
from _flash import counted, torn
from _page import CUT, die, libc, page

_rename = libc.func("i", "rename", "ss")


class _File(io.IOBase):
    def __init__(self, file):
        self._file = file

    def write(self, data):
        size = len(data)
        if counted():
            if torn():
                self._file.write(memoryview(data)[: size // 2])
            die(CUT)
        page.programmed += size
        return self._file.write(data)

    def readinto(self, buf):
        return self._file.readinto(buf)

    def read(self, size=-1):
        return self._file.read(size)

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Model:
    def __init__(self, folder):
        self._folder = folder
        self._disk = vfs.VfsPosix(folder)
        self._disk.mount(False, False)
        self.stat = self._disk.stat
        self.statvfs = self._disk.statvfs
        self.chdir = self._disk.chdir
        self.getcwd = self._disk.getcwd

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def ilistdir(self, path):
        # With the size, as LittleFS has it.
        for name, kind, inode in self._disk.ilistdir(path):
            yield name, kind, inode, self._disk.stat((path or ".") + "/" + name)[6]

    def open(self, path, mode):
        if "r" in mode and "+" not in mode:
            return self._disk.open(path, mode)
        if "w" in mode:
            _step()
        return _File(self._disk.open(path, mode))

    def remove(self, path):
        _step()
        self._disk.remove(path)

    def rename(self, old, new):
        _step()
        # Not VfsPosix.rename: that builds both paths in one buffer.
        if _rename(self._host(old), self._host(new)):
            raise OSError(uos.errno())

    def _host(self, path):
        return self._folder + path if path.startswith("/") else path

    def mkdir(self, path):
        _step()
        self._disk.mkdir(path)

    def rmdir(self, path):
        _step()
        self._disk.rmdir(path)


def _step():
    # A single operation either happens or does not: nothing to tear.
    if counted():
        die(CUT)
