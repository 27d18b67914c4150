"""Boots that are not the normal one: an open trial, a damaged slot, a release that is left."""

import ota
from bootloader import admit, board, decide, record, rtc, slots, why
from bootloader.lines import Manifest, Refused


def trial(r, end, want):
    """Return the trial's Manifest when it is to run; else the record has no trial any more."""
    # The app may have deleted its manifest; the rejection must name it all the same.
    digest = slots.digest(r.trial) or r.good[r.trial]
    if want == rtc.ROLLBACK:
        decide.reject(r, digest, record.ORDER, True)
        record.store(r)
        return None
    todo = decide.trial(r, end, digest)
    if todo == decide.CONFIRM:
        with open(slots.manifest(r.trial), "rb") as f:
            m = Manifest(f)
        # What a dev key signed raises neither, or a push would lock out the next release.
        _, dev = admit.verify(slots.manifest(r.trial), board.load())
        record.confirm(r, digest, (0, 0) if dev else (m.seq, m.floor))
        record.store(r)
        print("ota: confirmed", m.seq)
        return None
    if todo != decide.AGAIN:
        # Before the trial is verified: were that to hang, it would cost a try.
        record.store(r)
        ota.end = rtc.STOPPED  # pyright: ignore
    if todo == decide.BACK:
        return None
    try:
        admit.admit(slots.manifest(r.trial), r, board.load())
        return slots.check_files(r.trial, slots.manifest(r.trial))
    except (OSError, ValueError, Refused) as e:
        print("trial:", repr(e))
        why.keep(repr(e))
        decide.reject(r, digest, record.VERIFY, True)
        record.store(r)
        return None


def other(r):
    """Fall back to the other slot when it is confirmed, whole and not below the floor.

    What is damaged is rejected softly: the server learns of it and may repair it.
    """
    m = slots.check_confirmed(r, 1 - r.active)
    if not m or m.seq < r.floor:
        return None
    decide.reject(r, r.good[r.active], record.VERIFY, False)
    r.good[r.active] = record.ZERO
    r.active = 1 - r.active
    record.store(r)
    return m


def go_back(r, reason):
    """Reject what is active and make the other slot so, in one write; True when it can be."""
    if r.good[1 - r.active] == r.bad and r.flags & record.HARD:
        return False  # the board has come from there
    m = slots.check_confirmed(r, 1 - r.active)
    if not m or m.seq < r.floor:
        return False
    decide.reject(r, r.good[r.active], reason, True)
    r.active = 1 - r.active
    record.store(r)
    return True
