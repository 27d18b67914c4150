"""Puts a device script on a LittleFS disk of its own, with stand-ins for what the chip has.

Words on the command line: the disk's file, the folder that holds the modules, then the script's.
The disk is made when its file is empty. Host folders are under /host afterwards.
"""

import os
import sys
import vfs

BLOCKS = 128
args = sys.argv[3:]


class Disk:
    def __init__(self, path):
        new = os.stat(path)[6] == 0
        self._f = open(path, "r+b")
        if new:
            for _ in range(BLOCKS * 4):
                self._f.write(b"\xff" * 1024)
            vfs.VfsLfs2.mkfs(self)

    def readblocks(self, n, buf, off=0):
        self._f.seek(n * 4096 + off)
        self._f.readinto(buf)

    def writeblocks(self, n, buf, off=0):
        self._f.seek(n * 4096 + off)
        self._f.write(buf)

    def ioctl(self, op, arg):
        if op in (3, 2):
            self._f.flush()
        return {4: BLOCKS, 5: 4096}.get(op, 0)


disk = Disk(sys.argv[1])
_modules = sys.argv[2]
vfs.umount("/")
vfs.mount(vfs.VfsLfs2(disk), "/")
vfs.mount(vfs.VfsPosix(_modules), "/host")
sys.path[:] = ["/host", ".frozen"]
for folder in ("/data", "/state", "/trust", "/trust/0", "/trust/1", "/app_slots"):
    try:
        os.mkdir(folder)
    except OSError:
        break
for n in "01":
    with open("/trust/%s/trust" % n, "w") as f:
        f.write("ota-trust 1\napp demo\nversion 1\n")
os.chdir("/data")


class Pin:
    OUT = 1
    levels = {}

    def __init__(self, number, mode, value=0):
        self._number = number
        self.value(value)

    def value(self, level):
        Pin.levels[self._number] = level


class WLAN:
    up = True

    def __init__(self, interface):
        pass

    def isconnected(self):
        return WLAN.up

    def ifconfig(self):
        return ("127.0.0.1", "", "", "")


class RTC:
    bytes = bytes(8) + b"\xff" * 8

    def memory(self):
        return RTC.bytes


class Module:
    pass


machine = sys.modules["machine"] = Module()
machine.Pin = Pin
machine.RTC = RTC
network = sys.modules["network"] = Module()
network.WLAN = WLAN
import fake_ota as ota  # noqa: E402

sys.modules["ota"] = ota
