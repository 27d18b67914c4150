"""The scheduler: time over weeks, failing, blocking, cancelled and asynchronous jobs."""

import asyncio
import sys

import fake  # noqa: F401

PERIOD = 1 << 30
now = PERIOD - 5000  # the ticks wrap around soon


class Time:
    @staticmethod
    def ticks_ms():
        return now % PERIOD

    @staticmethod
    def ticks_diff(a, b):
        return (a - b + PERIOD // 2) % PERIOD - PERIOD // 2


async def first():
    """Have asyncio's parts loaded before its clock is exchanged."""
    await asyncio.sleep_ms(1)


asyncio.run(first())
sys.modules["time"] = Time
from loglines import tail  # noqa: E402

from runtime import log  # noqa: E402
from runtime.scheduler import Scheduler  # noqa: E402

log.level = 9


def weeks():
    """100 jobs over three weeks, the steps late by up to 700 ms: no run lost, no drift."""
    global now
    s = Scheduler()
    start = now
    counts = [0] * 100
    worst = [0]

    def make(i, period):
        def fn():
            counts[i] += 1
            worst[0] = max(worst[0], now - start - counts[i] * period)

        return fn

    for i in range(100):
        s.every((i + 1) * 3600_000, make(i, (i + 1) * 3600_000))
    end = start + 21 * 86400_000
    k = 0
    while now < end:
        k += 1
        s.step()
        # Hours between two jobs, in strides below the ticks' half period.
        left = min(job.left for job in s.jobs)
        now += left + k % 700
    for i in range(100):
        want = (now - start) // ((i + 1) * 3600_000)
        assert want - counts[i] in (0, 1), (i, counts[i], want)
    assert worst[0] < 1400, worst
    assert s.up == (now - start) // 1000 or abs(s.up - (now - start) // 1000) <= 3700
    print("weeks", sum(counts), "runs, latest", worst[0], "ms")


def late():
    """Runs missed while something blocked are skipped; the grid stays."""
    global now
    s = Scheduler()
    runs = []
    t0 = now
    s.every(1000, lambda: runs.append(now - t0))
    for wait in (1000, 1000, 3400, 600, 1000):
        now += wait
        s.step()
    assert runs == [1000, 2000, 5400, 6000, 7000], runs


def jitter():
    global now
    s = Scheduler()
    runs = []
    t0 = now
    s.every(1000, lambda: runs.append(now - t0), jitter=500)
    for _ in range(20_000):
        now += 1
        s.step()
    assert len(runs) in (19, 20), runs
    assert all(0 <= t - (i + 1) * 1000 <= 500 for i, t in enumerate(runs)), runs
    assert len(set(t % 1000 for t in runs)) > 3


def others_go_on():
    global now
    s = Scheduler()
    runs = []

    def bad():
        raise MemoryError

    s.every(10, bad)
    s.every(10, lambda: runs.append(1), "good")
    once = []
    s.after(25, lambda: once.append(1), "after")
    s.once(lambda: once.append(2), "once")
    gone = s.every(10, lambda: once.append(3), "gone")
    gone.cancel()
    for _ in range(10):
        now += 10
        s.step()
    assert len(runs) == 10 and once == [2, 1], (runs, once)
    assert s.tallies["bad"][:2] == [0, 10]
    assert len(s.jobs) == 2
    the_right_one_ends()
    try:
        s.every(0, bad)
    except ValueError:
        return
    raise AssertionError("a period of 0")


def the_right_one_ends():
    """A job that is over, or cancelled by another in the same step, takes nobody along."""
    global now
    s = Scheduler()
    runs = {}

    def make(name, period, then=None):
        def fn():
            runs[name] = runs.get(name, 0) + 1
            if then:
                then()

        return s.every(period, fn, name) if period else s.once(fn, name)

    for i in range(10):
        make("once%d" % i, 0)
        make("every%d" % i, 10)
    victim = make("victim", 10)
    make("killer", 10, lambda: victim.cancel())
    make("suicide", 10, lambda: mine.cancel())
    mine = s.jobs[-1]
    for _ in range(10):
        now += 10
        s.step()
    assert [runs["once%d" % i] for i in range(10)] == [1] * 10
    assert [runs["every%d" % i] for i in range(10)] == [10] * 10
    assert runs["victim"] == 1 and runs["killer"] == 10 and runs["suicide"] == 1
    assert len(s.jobs) == 11


def nested():
    """A job made by a job waits its full time, however long its maker took."""
    global now
    s = Scheduler()
    t0 = now
    when = []

    def maker():
        global now
        now += 300
        s.after(500, lambda: when.append(now - t0))

    s.once(maker)
    for _ in range(200):
        s.step()
        now += 10
    assert 800 <= when[0] <= 820, when


def asynchronous():
    global now
    s = Scheduler()
    done = []

    async def slow():
        await asyncio.sleep_ms(20)
        done.append(1)
        if len(done) == 2:
            raise ValueError("x")

    s.every(10, slow)

    async def main():
        global now
        for _ in range(20):
            now += 10
            s.step()
            await asyncio.sleep_ms(5)

    asyncio.run(main())
    assert 2 <= len(done) < 15
    good, bad, _ = s.tallies["slow"]
    assert bad == 1 and good == len(done) - 1


def blocking():
    global now
    log.level = 1
    s = Scheduler()

    def hog():
        global now
        now += 1500

    s.once(hog)
    s.step()
    assert "hog blocked the loop for 1500 ms" in tail(), tail()
    log.level = 9


def flood():
    """A steady failure shows at 1, 2, 4, 8 ... in a row; what is secret shows never."""
    global now
    log.level = 1
    s = Scheduler()

    def broken():
        raise OSError(5)

    s.every(1, broken)
    for _ in range(100):
        now += 1
        s.step()
    assert "broken failed, 64 in a row" in tail() and "70 in a row" not in tail()
    assert "OSError" in tail()
    log.secrets.append("pass word")
    log.info("%d of %s", 1, "a pass word")
    assert tail().endswith("0 I 1 of a ***\n"), tail()
    log.sinks.append(broken)  # costs nobody else the line
    log.info("%d of %d", 1, 2)
    assert tail().endswith("0 I 1 of 2\n"), tail()


for test in (weeks, late, jitter, others_go_on, nested, asynchronous, blocking, flood):
    test()
    print("passed", test.__name__)
