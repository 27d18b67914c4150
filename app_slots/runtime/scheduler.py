"""Jobs on monotonic ticks.

Each job counts down the milliseconds it has left, so neither the wrap-around of the ticks nor a
jump of the clock shows, and a late run does not move the next one.
"""

import asyncio
import os
from micropython import const
from time import ticks_diff, ticks_ms

import ota
from runtime import log

_LONGEST = const(1000)  # ms between two steps, far below half the ticks' period
_RESCUE = const(2400)  # ticks: 20 minutes
_BLOCKS = const(1000)  # ms after which a job counts as blocking


def rand(n):
    """Return a random number below `n` (at most 16,777,216)."""
    return int.from_bytes(os.urandom(3), "little") % n if n else 0


class Job:
    """A function with its time; `cancel()` ends it, a run under way is let finish."""

    # Most jobs have no need of their own for these.
    jitter = late = 0  # ms a run may be late by choice, and is
    busy = False  # its coroutine has not ended

    def __init__(self, fn, name, left, period, jitter, tally):
        self.fn = fn
        self.name = name
        self.left = left  # ms until it is due
        self.period = period  # ms, 0: runs once
        if jitter:
            self.jitter = jitter
            self.late = rand(jitter)
        self.tally = tally  # [good runs, failed runs, failed runs in a row]

    def cancel(self):
        self.fn = None

    def good(self):
        self.tally[0] += 1
        self.tally[2] = 0

    def failed(self, e):
        if isinstance(e, MemoryError):  # it may be what keeps the updater from its server
            ota.rescue_in(_RESCUE)
        tally = self.tally
        tally[1] += 1
        tally[2] += 1
        row = tally[2]
        if not row & (row - 1):  # 1, 2, 4, 8 ...: a steady failure must not flood the log
            try:
                log.error("%s failed, %d in a row\n%s", self.name, row, log.trace(e))
            except MemoryError:  # not even for that; the loop goes on
                print(self.name)


class Scheduler:
    def __init__(self):
        self.jobs = []
        self.tallies = {}  # by name, kept when a job is over
        self.up = 0  # s
        self._ended = ""  # name of the last job whose coroutine ended since the last step
        self._named = 0  # ms since then for which somebody was named in the log
        self._ms = 0
        self._last = ticks_ms()

    def every(self, ms, fn, name=None, jitter=0):
        """Run `fn` every `ms` milliseconds, each time up to `jitter` ms late; return the Job.

        `fn` is a function or returns a coroutine. Runs that were missed are skipped, and so is
        one while the coroutine of the last has not ended.
        """
        if ms <= 0 or jitter > ms:
            raise ValueError("a job needs a period above 0, no shorter than its jitter")
        return self._add(fn, name, ms, ms, jitter)

    def after(self, ms, fn, name=None):
        """Run `fn` once in `ms` milliseconds; return the Job."""
        return self._add(fn, name, ms, 0, 0)

    def once(self, fn, name=None):
        """Run `fn` once, as soon as the loop runs; return the Job."""
        return self._add(fn, name, 0, 0, 0)

    def _add(self, fn, name, left, period, jitter):
        name = name or getattr(fn, "__name__", "job")
        tally = self.tallies.setdefault(name, [0, 0, 0])
        left += ticks_diff(ticks_ms(), self._last)
        job = Job(fn, name, left, period, jitter, tally)
        self.jobs.append(job)
        return job

    def step(self):
        """Run what is due; return the ms until something is again, at most a second."""
        jobs = self.jobs
        now = ticks_ms()
        passed = ticks_diff(now, self._last)
        self._last = now
        self._ended = ""
        self._ms += passed
        self.up += self._ms // 1000
        self._ms %= 1000
        for job in jobs:
            job.left -= passed
        i = 0
        while i < len(jobs):
            job = jobs[i]
            if job.fn and job.left + job.late <= 0:
                self._run(job)
            if job.fn or job.busy:
                i += 1
            else:
                jobs.pop(i)
        wait = _LONGEST
        for job in jobs:
            if job.fn:
                wait = min(wait, job.left + job.late)
        self._named = 0
        return max(wait - ticks_diff(ticks_ms(), now), 1)

    def _run(self, job):
        fn = job.fn
        if job.period:
            job.left = job.left % job.period or job.period
            if job.jitter:
                job.late = rand(job.jitter)
        else:
            job.fn = None
        if not job.busy:
            self.attempt(job, fn)

    def attempt(self, job, fn, *args):
        """Call `fn(*args)` as a run of `job`: counted, timed, and finished if it is a coroutine."""
        begin = ticks_ms()
        try:
            result = fn(*args)
            if hasattr(result, "send"):
                asyncio.create_task(self._finish(job, result))
                job.busy = True  # not before: where there is no room for a task, nobody ends it
            else:
                job.good()
        except Exception as e:
            job.failed(e)
        took = ticks_diff(ticks_ms(), begin)
        if took >= _BLOCKS:
            self._named += took
            log.warning("%s blocked the loop for %d ms", job.name, took)

    async def _finish(self, job, coroutine):
        try:
            await coroutine
            job.good()
        except Exception as e:
            job.failed(e)
        finally:
            # asyncio's queue goes on pointing at the last task that slept for long.
            coroutine = None
            job.busy = False
            self._ended = job.name

    def check_late(self, ms):
        """Log who may have kept the loop, `ms` late now, since the last step."""
        ms -= self._named
        if ms >= _BLOCKS:
            names = [job.name for job in self.jobs if job.busy]
            names.append(self._ended or "unnamed task")
            log.warning("%s blocked the loop for %d ms", "/".join(names), ms)
