"""Takes a release from a developer's computer (docs/webrepl.md, "mipy push").

The computer has stopped the app and put the manifest to /state/incoming. begin() admits it as an
install would and names the files that are missing; when they lie in the slot, end() opens the
trial. Nothing here is believed by the next boot, which verifies the release like every trial.
"""

import ota
from bootloader import board, record, slots
from bootloader.lines import PREFIX, Manifest, Refused, hexa, signed

_INCOMING = "/state/incoming"
_digest = None


def begin():
    """Make the other slot ready, and print the name of each file that is on neither slot.

    Raises Refused as admit.admit() does, and "busy" when a trial is open.
    """
    global _digest
    r = record.load()
    if r.trial != record.NONE:
        raise Refused("busy")
    with open(_INCOMING, "rb") as f:
        _digest = signed(f, PREFIX)[0]
    # What failed before may be tried again: a person wishes it.
    ota.forget(_digest[:16])
    r = record.load()
    admitted = True
    try:
        ota.stage("admit").admit(_INCOMING, r, board.load())
    except MemoryError:
        admitted = False
    if not admitted:
        # The app has left the heap in pieces. The next boot, which has it whole, is who decides.
        # Not in the handler, which holds on to what was loaded.
        with open(_INCOMING, "rb") as f:
            ota.stage("strict").manifest(f)
    slot = target(r)
    ota.stage("target").make_room(slot)
    folder = ota.stage("fill").folder
    buf = bytearray(256)
    with open(_INCOMING, "rb") as f:
        for name, _, sha in Manifest(f).files():
            folder(slots.path(slot) + "/" + name)
            if not _here(slots.path(slot), slots.path(1 - slot), name, sha, buf):
                print(name)


def end():
    """Check all files and open the trial, which begins with the next reset.

    Raises Refused as slots.check_files() does.
    """
    r = record.load()
    slot = target(r)
    slots.check_files(slot, _INCOMING)
    ota.stage("held").keep(_digest[:16])
    ota.stage("target").open_trial(r, slot, _digest)


def target(r):
    """The slot that is not to boot; in recovery the one that could not."""
    return r.active if r.good[r.active] == record.ZERO else 1 - r.active


def _here(root, other, name, sha, buf):
    """Whether the file lies under `root`, by now: one that `other` has is copied."""
    h = slots.file_hash(root + "/" + name, buf)
    if h and hexa(h) == sha:
        return True
    h = slots.file_hash(other + "/" + name, buf)
    if not h or hexa(h) != sha:
        return False
    f = open(other + "/" + name, "rb")
    out = open(root + "/" + name, "wb")
    try:
        while True:
            n = f.readinto(buf)
            if not n:
                return True
            out.write(memoryview(buf)[:n])
    finally:
        out.close()
        f.close()
