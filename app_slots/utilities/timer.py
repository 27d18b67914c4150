"""A countdown for conditions that take their time: a light that goes out, a door open too long."""

from time import ticks_diff, ticks_ms


class Timer:
    """Counts `ms` milliseconds down from `start()`; starting it again begins anew.

    It may be longer than the ticks' period of 12 days, as long as it is looked at every 6 days.
    What is to happen at a time is a job: `app.after`.
    """

    def __init__(self, ms):
        self.ms = ms
        self._left = None
        self._last = 0

    def start(self):
        self._last = ticks_ms()
        self._left = self.ms

    def stop(self):
        self._left = None

    def left(self):
        """Return the milliseconds left, 0 when it is over; None when it was not started."""
        if self._left is not None:
            now = ticks_ms()
            self._left = max(self._left - ticks_diff(now, self._last), 0)
            self._last = now
        return self._left

    def over(self):
        """Return True from when it has run out until it is started or stopped."""
        return self.left() == 0
