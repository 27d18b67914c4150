"""Rollbacks: which release is rejected, and which slot runs instead.

Every rollback is decided here or in decide.py (a trial's); everything else only asks for one.
"""

from bootloader import record


def reject(r, digest16, reason, hard):
    """Note in the record `r` that a release is rejected, for `reason` (record.py).

    A hard rejection is for good; after a soft one the release is offered again later. The caller
    stores the record.
    """
    if r.rejected != digest16:
        r.soft_count = 0
        r.reached = 0
    r.rejected = digest16
    r.reason = reason
    r.flags = record.HARD if hard else 0
    if not hard:
        r.soft_count = min(r.soft_count + 1, 255)
    if r.trial != record.NONE:
        r.digests[r.trial] = record.ZERO
    r.trial = record.NONE
    r.tries_left = 0


def server_reached(r):
    """Account for the old release reaching the server after a soft rejection.

    The second time the network is cleared of blame: the rejection is hard from then on. Return
    whether the record has changed; the caller stores it.
    """
    if r.rejected == record.ZERO or r.flags:
        return False
    r.reached += 1
    r.flags = record.HARD if r.reached >= 2 else record.REACHED
    return True


def from_damaged(r):
    """The active slot is damaged: roll back to the other one, if it may run.

    The damaged release is rejected softly: the server learns of it and may repair it. Return
    whether there was a slot to roll back to; the record is stored then.
    """
    if not _may_run(r, 1 - r.active):
        return False
    reject(r, r.digests[r.active], record.VERIFY, False)
    r.digests[r.active] = record.ZERO
    r.active = 1 - r.active
    record.store(r)
    return True


def to_other(r, reason):
    """Reject the active release for good and roll back to the other slot, in one write.

    Return whether that slot may run; the record is stored then.
    """
    if r.digests[1 - r.active] == r.rejected and r.flags & record.HARD:
        return False  # the board has rolled back from there
    if not _may_run(r, 1 - r.active):
        return False
    reject(r, r.digests[r.active], reason, True)
    r.active = 1 - r.active
    record.store(r)
    return True


def _may_run(r, slot):
    """Whether a slot is confirmed, whole and not below the floor."""
    from bootloader import slots

    m = slots.check_confirmed(r, slot)
    return m and m.seq >= r.floor
