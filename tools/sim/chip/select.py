# Polls in slices of real time: scheduled callbacks (timers) and Ctrl-C get their turn while
# waiting, and timeouts follow the board's clock. asyncio stands on this.
import uselect
import utime

from _event import idle
from _page import SPEED, check

POLLIN = uselect.POLLIN
POLLOUT = uselect.POLLOUT
POLLERR = uselect.POLLERR
POLLHUP = uselect.POLLHUP
_SLICE = 5


class poll:
    def __init__(self):
        self._poll = p = uselect.poll()
        self.register = p.register
        self.unregister = p.unregister
        self.modify = p.modify

    def ipoll(self, timeout=-1, flags=0):
        left = -1 if timeout is None or timeout < 0 else -(-timeout // SPEED)
        start = utime.ticks_ms()
        while True:
            idle()
            check()
            passed = utime.ticks_diff(utime.ticks_ms(), start)
            wait = _SLICE if left < 0 else max(0, min(_SLICE, left - passed))
            found = False
            for event in self._poll.ipoll(wait, flags):
                found = True
                yield event
            if found or 0 <= left <= passed + wait:
                return

    def poll(self, timeout=-1):
        return [tuple(event[:2]) for event in self.ipoll(timeout)]
