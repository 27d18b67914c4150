"""The slot that a release goes into: made ready before its files come, on trial after that."""

import os
from micropython import const

import ota
from bootloader import record, slots
from bootloader.lines import Manifest, Refused

_INCOMING = "/state/incoming"
_BLOCK = const(4096)
_DIR = const(0x4000)
_SPARE = const(8)  # blocks


def make_room(target):
    """Take the slot's manifest away, then what the new release does not use; count its files.

    From here until the manifest is back the slot cannot boot: so what does not fit is refused
    before. Files of another size than listed go too, lest one is there twice while it is written.
    """
    names = slots.Names()
    root = slots.path(target)
    for folder in ("/app_slots", root):
        try:
            os.mkdir(folder)
        except OSError as e:
            if e.args[0] != 17:  # EEXIST
                raise
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
        raise Refused("space")
    if "manifest" in os.listdir(root):
        os.remove(slots.manifest(target))
    slots.sweep(target, names)
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


def open_trial(r, target, digest):
    """Make the slot `target`, whose files are checked, what boots next."""
    ota.stage("why").drop()
    os.rename(_INCOMING, slots.manifest(target))
    r.trial = target
    r.good[target] = digest[:16]
    r.left = record.TRIES
    r.fault = 0
    record.store(r)
