# `vfs` as the variant with a ROMFS segment has it: beside the interpreter's own, rom_ioctl().
import _segment
import usys
import vfs


class _Vfs:
    VfsLfs2 = vfs.VfsLfs2
    VfsFat = vfs.VfsFat
    VfsRom = staticmethod(_segment.VfsRom)
    mount = staticmethod(vfs.mount)
    umount = staticmethod(vfs.umount)
    rom_ioctl = staticmethod(_segment.rom_ioctl)


usys.modules["vfs"] = _Vfs()
