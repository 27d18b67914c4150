"""What a trial waits for, and the poll before an app that does not poll by itself."""

from micropython import const

import ota

from bootloader import board, rtc

_LASTS = const(120)  # ticks that a trial must have lasted: 60 s
_LASTS_ALONE = const(1200)  # on a board that names no server: 10 minutes
_GRACE = const(60)  # so much later the timer ends the trial of a plain app that never calls check()


def acquaint():
    """Set what confirms the trial; poll for a plain app."""
    b = board.load()
    ota.server = bool(b["server"])
    ota.lasts = _LASTS if ota.server else _LASTS_ALONE
    if not ota.server:
        ota.ripe = ota.lasts
    if not ota.plain:
        return
    if ota.server:
        ota.stage("plain").at_start(b)
    if ota.trial and (ota.heard or not ota.server):
        # A reset is the only safe way: a timer may not write to flash under the app's feet.
        ota.alarms.insert(0, (ota.lasts + _GRACE, rtc.END, rtc.HEALTHY, True))
