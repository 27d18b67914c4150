"""How a release on trial is handed over: what it must show, and when its time is up."""

from micropython import const

import ota
from bootloader import rtc

# Ticks of resident.py, two a second
_TRIAL = const(1800)  # 15 minutes
_DOUBLE = const(10)  # as in start.py
_LASTS_DEV = const(6)
_GRACE = const(60)


def apply(m, ready):
    """Set the resident part up for the trial of the Manifest `m`."""
    ota.alarms = [(_DOUBLE, rtc.PRESSES, 0, False), (_TRIAL, rtc.END, rtc.TIMEOUT, True)]
    if ready & rtc.DEV:
        ota.min_uptime = _LASTS_DEV
    else:
        ota.raise_to = (m.seq, m.floor)
    if ota.server_seen_at or not ota.has_server:
        ota.confirm_at = ota.min_uptime
        if ota.plain:
            # For an app that never calls check(). A reset, because a timer may not write to
            # flash under the app's feet.
            ota.alarms.insert(1, (ota.min_uptime + _GRACE, rtc.END, rtc.HEALTHY, True))
