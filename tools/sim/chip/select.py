# Waits as the board does: timers and Ctrl-C get their turn, timeouts follow the board's clock.
# asyncio stands on this.
import uselect
import utime

from _clock import ticks_ms
from _wait import glance, wait

POLLIN = uselect.POLLIN
POLLOUT = uselect.POLLOUT
POLLERR = uselect.POLLERR
POLLHUP = uselect.POLLHUP


class poll:
    def __init__(self):
        self._poll = p = uselect.poll()
        self.register = p.register
        self.unregister = p.unregister
        self.modify = p.modify

    def ipoll(self, timeout=-1, flags=0):
        if timeout == 0:
            glance()
        else:
            ever = timeout is None or timeout < 0
            wait(self._poll, None if ever else utime.ticks_add(ticks_ms(), timeout))
        return self._poll.ipoll(0, flags)

    def poll(self, timeout=-1):
        return [tuple(event[:2]) for event in self.ipoll(timeout)]
