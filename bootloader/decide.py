"""How trials end. No I/O: the table in docs/architecture.md is this."""

from micropython import const

from bootloader import record, rollback, rtc

BOOT = const(0)  # run the trial; the record has changed
AGAIN = const(1)  # run the trial; a person had stopped it, which costs nothing
CONFIRM = const(2)
ROLLBACK = const(3)  # the trial is rejected; the record has changed

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
    if r.tries_left < record.TRIES:  # it has had a try, so the end is its own
        if end == rtc.HEALTHY:
            return CONFIRM
        if end == rtc.STOPPED:
            return AGAIN
        reason = _REASON[end]
        if reason not in _SOFT or r.last_failure in _SOFT:
            r.last_failure = reason
        if end == rtc.VETO:
            r.tries_left = 0
    if r.tries_left == 0:
        rollback.reject(r, digest, r.last_failure, r.last_failure not in _SOFT)
        return ROLLBACK
    r.tries_left -= 1
    return BOOT
