"""The slot that a release goes into: made ready before its files come, on trial after that."""

import os
from micropython import const

import ota
from bootloader import record, slots
from bootloader.manifest import Manifest, Rejected

_INCOMING = "/state/incoming"
_BLOCK = const(4096)
_DIR = const(0x4000)
_SPARE = const(8)  # blocks


def choose(r):
    """Return the slot to install into: never the active one, unless that cannot boot."""
    return r.active if r.digests[r.active] == record.ZERO else 1 - r.active


def make_room(slot):
    """Take the slot's manifest away, then what the new release does not use; count its files.

    From here until the manifest is back the slot cannot boot: so what does not fit is refused
    before. Files of another size than listed go too, lest one is there twice while it is written.
    """
    names = slots.Names()
    root = slots.path(slot)
    ota.stage("install_files").make_folders(slots.manifest_path(slot))
    need = _SPARE
    count = most = 0
    last = ""
    with open(_INCOMING, "rb") as f:
        for name, size, _ in Manifest(f).files():
            count += 1
            # LittleFS keeps up to 128 bytes inside the folder, which takes blocks too.
            blocks = size // _BLOCK + 1
            need += blocks
            inside = name[: name.rfind("/") + 1]
            if inside != last:
                last = inside
                need += 2
            if _size(root + "/" + name) == size:
                names.add(name)
                most = max(most, blocks)
    # MicroPython's statvfs counts the two blocks of each folder below the root twice.
    if need + most > os.statvfs("/")[3] + 2 * _folders("/") + _taken(root):
        raise Rejected("space")
    if "manifest" in os.listdir(root):
        os.remove(slots.manifest_path(slot))
    slots.sweep(slot, names)
    return count


def _size(name):
    try:
        return os.stat(name)[6]
    except OSError:
        return -1


def _folders(path):
    count = 0
    for entry in os.ilistdir(path):
        if entry[1] == _DIR:
            count += 1 + _folders(path + entry[0] + "/")
    return count


def _taken(path):
    blocks = 0
    for entry in os.ilistdir(path):
        if entry[1] == _DIR:
            blocks += 2 + _taken(path + "/" + entry[0])
        else:
            blocks += entry[3] // _BLOCK + (entry[3] > 128)
    return blocks


def start_trial(r, slot, digest):
    """Make `slot`, whose files are checked, what boots next."""
    ota.stage("crash_report").clear()
    os.rename(_INCOMING, slots.manifest_path(slot))
    r.trial = slot
    r.digests[slot] = digest[:16]
    r.tries_left = record.TRIES
    r.last_failure = 0
    record.store(r)
