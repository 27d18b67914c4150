"""The two record writes that happen while an app runs. Little, because the heap is the app's."""

import ota
from bootloader import record


def settle():
    """Confirm the trial; True."""
    r = record.load()
    if r.trial != record.NONE:
        record.confirm(r, ota.digest, ota.raises)
        record.store(r)
        print("ota: confirmed", ota.seq)
    ota.trial = False
    ota.alarms = []
    ota.answered()
    return True


def reached():
    """The server has answered the release before the one that was softly rejected."""
    r = record.load()
    if ota.stage("decide").reached(r):
        record.store(r)
    ota.bad = record.rejection(r)
