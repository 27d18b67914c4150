"""The two record writes that happen while an app runs. Little, because the heap is the app's."""

import ota
from bootloader import record


def commit():
    """Confirm the trial; True."""
    r = record.load()
    if r.trial != record.NONE:
        record.confirm(r, ota.digest16, ota.raise_to)
        record.store(r)
        print("ota: confirmed", ota.seq)
    ota.trial = False
    ota.alarms = []
    ota.answered()
    return True


def server_reached():
    """The server has answered the release before the one that was softly rejected."""
    r = record.load()
    if ota.stage("rollback").server_reached(r):
        record.store(r)
    ota.rejection = record.rejection(r)
