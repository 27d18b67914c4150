"""How trials end. No I/O: the table in docs/architecture.md is this."""

from micropython import const

from bootloader import record, rtc

BOOT = const(0)  # run the trial; the record has changed
AGAIN = const(1)  # run the trial; a person had stopped it, which costs nothing
CONFIRM = const(2)
BACK = const(3)  # the trial is rejected; the record has changed

# What a life that ended so says of the release it ran.
_REASON = {
    rtc.POWER: record.POWER,
    rtc.RUNNING: record.WATCHDOG,
    rtc.EXCEPTION: record.EXCEPTION,
    rtc.SLEEP: record.SLEEP,
    rtc.ASKED: record.WATCHDOG,
    rtc.VETO: record.VETO,
    rtc.TIMEOUT: record.TIMEOUT,
}
# These may be the network's fault or the power company's: the release gets another chance later.
_SOFT = (0, record.POWER, record.TIMEOUT, record.SLEEP)


def trial(r, end, digest):
    """Account for a life that ended by `end` (rtc.py) and say how to go on.

    `r` is the record with a trial open, `digest` the trial's. The caller stores the record.
    """
    if r.left < record.TRIES:  # it has had a try, so the end is its own
        if end == rtc.HEALTHY:
            return CONFIRM
        if end == rtc.STOPPED:
            return AGAIN
        reason = _REASON[end]
        if reason not in _SOFT or r.fault in _SOFT:
            r.fault = reason
        if end == rtc.VETO:
            r.left = 0
    if r.left == 0:
        reject(r, digest, r.fault, r.fault not in _SOFT)
        return BACK
    r.left -= 1
    return BOOT


def reject(r, digest, reason, hard):
    """Note that `digest` is rejected; the caller stores the record."""
    if r.bad != digest:
        r.soft = 0
        r.reached = 0
    r.bad = digest
    r.reason = reason
    r.flags = record.HARD if hard else 0
    if not hard:
        r.soft = min(r.soft + 1, 255)
    if r.trial != record.NONE:
        r.good[r.trial] = record.ZERO
    r.trial = record.NONE
    r.left = 0


def reached(r):
    """The old release reached the server after a soft rejection; True when the record changed.

    The second time it is the rejected release that cannot, not the network: hard from then on.
    """
    if r.bad == record.ZERO or r.flags:
        return False
    r.reached += 1
    r.flags = record.HARD if r.reached >= 2 else record.REACHED
    return True
