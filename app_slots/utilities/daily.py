"""Jobs at a time of day, by the local clock: `daily.at(app, "07:30", fn)`.

- They run once the time is known (clock.py), and not for what was before that.
- Summer time: a time that comes twice counts once, one that is skipped comes as much later.
- A clock that jumps forward over a time, by two hours at most, runs the job at once; one that jumps
  back behind it, by six hours at most, does not run it again.
"""

from micropython import const

from runtime import log
from runtime.scheduler import rand
from utilities import clock

_LATE = const(7200)  # s after which a run is missed
_BACK = const(21600)  # s that the clock may go back without a job's day beginning anew

_jobs = []
_app = None


class Daily:
    """A job at a time of day; `cancel()` ends it."""

    def __init__(self, app, at, fn, name, days, jitter):
        self.app = app
        self.at = at  # s after midnight
        self.fn = fn
        self.name = name or getattr(fn, "__name__", "job")
        self.days = days
        self.jitter = jitter
        self.due = None
        self.most = 0  # s that `due` may lie ahead

    def cancel(self):
        self.fn = None

    def plan(self, t):
        """Set `due` to the next time after `t`."""
        zone = clock.zone
        n = (t + zone.offset(t)) // 86400
        while True:
            due = zone.moment(n, self.at)
            if due > t and (n + 3) % 7 in self.days:
                break
            n += 1
        self.due = due
        self.most = due - t + _BACK

    def look(self, t):
        """Run the job when it is due."""
        due = self.due
        if due is None or due - t > self.most:
            self.plan(t)
        elif t >= due:
            self.plan(t)
            if t - due < _LATE:
                try:
                    self.app.after(rand(self.jitter) * 1000, self.fn, self.name)
                except MemoryError:
                    self.due = due  # again in a second
                    raise
            else:
                log.warning("%s was missed, the clock has jumped", self.name)


def at(app, time, fn, name=None, days=range(7), jitter=0):
    """Run `fn` each day at `time` ("07:30" or "07:30:15"), up to `jitter` s late; return the job.

    days: weekdays, Monday is 0. Raises ValueError for what is no time of day.
    """
    global _app
    parts = [int(part) for part in time.split(":")]
    seconds = 0
    for part, unit in zip(parts, (3600, 60, 1)):
        seconds += part * unit
    if len(parts) not in (2, 3) or min(parts) < 0 or max(parts[1:]) > 59 or parts[0] > 23:
        raise ValueError("a time is like 07:30")
    if app is not _app:
        _app = app
        clock.start(app)
        app.every(1000, _tick, "daily")
    job = Daily(app, seconds, fn, name, days, jitter)
    _jobs.append(job)
    return job


def _tick():
    t = clock.now()
    if t:
        _jobs[:] = [job for job in _jobs if job.fn]
        for job in _jobs:
            job.look(t)
