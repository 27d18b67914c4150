import gc

from _page import ESP32, ROMFS

if ROMFS:
    from _segment import flash_erase, flash_read, flash_write  # noqa: F401

_SIZE = 4 * 1024 * 1024


def flash_size():
    return _SIZE


def flash_user_start():
    return 0x200000 if ESP32 else 0x100000


def osdebug(*_):
    pass


if not ESP32:

    def flash_id():
        return 0x1640EF

    def check_fw():
        return True

    def freemem():
        return gc.mem_free()

    def sleep_type(kind=None):
        return 0
