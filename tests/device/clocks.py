"""Time zones, the clock's jumps, and jobs at a time of day over simulated weeks."""

import asyncio
import sys

import fake

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


class RTC:
    last = ()

    def datetime(self, fields):
        RTC.last = fields


asyncio.run(first())
sys.modules["time"] = Time
fake.machine.RTC = RTC
import config  # noqa: E402

config.NTP = ""
config.TIMEZONE = "CET-1CEST,M3.5.0,M10.5.0/3"
from runtime import log  # noqa: E402
from runtime.scheduler import Scheduler  # noqa: E402
from utilities import clock, daily, tz  # noqa: E402

log.level = 9
fake.ota.seq = 1
DAY = 86400


def utc(y, m, d, h=0, mi=0, s=0):
    return tz.days(y, m, d) * DAY + h * 3600 + mi * 60 + s


class App(Scheduler):
    class updater:
        time = None

    class wifi:
        up = True


def fresh(t=None):
    """A new start of the board, `t` by the clock."""
    app = App()
    clock.source = ""
    clock._said = App.updater.time = None
    clock._server = None
    clock.start(app)
    daily._jobs.clear()
    if t:
        app.updater.time = (t, 0)
        app.step()
    return app


def run(app, seconds, stride=1):
    """Let `seconds` pass by the ticks, in steps of `stride`."""
    global now
    end = now + seconds * 1000
    while now < end:
        now += min(stride * 1000, end - now)
        app.step()
    now += 1
    app.step()


def noting(into):
    def fn():
        into.append(clock.now())

    return fn


def zones():
    """Against what the host says of the same rules."""
    count = 0
    with open("/host/zones") as f:
        for line in f:
            rule, kind, given, wanted = line.strip().split("|")
            zone = tz.Zone(rule)
            if kind == "offset":
                got = zone.offset(int(given))
            else:
                day, s = divmod(int(given), DAY)
                got = zone.moment(day, s)
            assert got == int(wanted), (line, got)
            count += 1
    zone = tz.Zone("AAA3BBB,59,300/3")  # from 0, with February 29; as glibc has them
    for t, wanted in (
        (1709182800, -7200),
        (1709182799, -10800),
        (1730005199, -7200),
        (1730005200, -10800),
    ):
        assert zone.offset(t) == wanted, t
    for n in range(-30000, 60000, 13):
        assert tz.days(*tz.date(n)) == n
    for bad in ("", "CET", "C-1", "CET-1CEST", "CET-1CEST,M3.5.0", "CET-1,M3.5.0,M10.5.0", "<x-1",
                "CET-xCEST,M3.5.0,M10.5.0", "CET-1CEST,M3.5,M10.5.0", "Europe/Berlin"):  # fmt: skip
        try:
            tz.Zone(bad)
        except ValueError:
            continue
        raise AssertionError(bad)
    print("zones", count, "vectors")


def weeks():
    """Eight weeks with the change to summer time, jumps of an hour each way, and 100 jobs."""
    global now
    begin = utc(2026, 3, 1, 5, 59, 30)
    app = fresh(begin)
    runs = {}

    def make(name):
        def fn():
            runs.setdefault(name, []).append(clock.now())

        return fn

    times = {}
    for i in range(50):
        times["d%d" % i] = at = i * 1700 + 11
        daily.at(app, "%02d:%02d:%02d" % (at // 3600, at // 60 % 60, at % 60), make("d%d" % i))
    counts = [0] * 50

    def count(i):
        def fn():
            counts[i] += 1

        return fn

    for i in range(50):
        app.every((i + 1) * 600_000, count(i), "e%d" % i)
    start = now
    stride = 240
    for week in range(8):
        run(app, 3 * DAY, stride)
        # An NTP answer that is an hour off, and the right one after a quarter of an hour.
        jump = 3600 if week % 2 else -3600
        clock._set((clock.now() + jump) * 1000, "ntp")
        run(app, 900, 60)
        clock._set((clock.now() - jump) * 1000, "ntp")
        run(app, 4 * DAY - 900, stride)
    passed = now - start
    assert clock.now() == begin + passed // 1000, "the clock has drifted"
    for i in range(50):
        period = (i + 1) * 600_000
        assert counts[i] == passed // period, (i, counts[i], passed // period)
    latest = 0
    for name, at in times.items():
        found = runs[name]
        due = [clock.zone.moment(begin // DAY + n, at) for n in range(58)]
        due = [t for t in due if begin < t <= clock.now()]
        assert len(found) == len(due), (name, len(found), len(due))
        for t in found:
            y, m, d, h, mi, s, _ = clock.zone.local(t)
            off = abs(h * 3600 + mi * 60 + s - at)
            off = min(off, DAY - off)
            if (m, d) == (3, 29) and 7200 <= at < 10800:
                off -= 3600  # skipped: an hour later
            latest = max(latest, off)
    assert latest <= 3600 + stride, latest  # late by a jump at the most
    exact = [
        n for n in range(50) if all(_late(t, times["d%d" % n]) <= stride for t in runs["d%d" % n])
    ]
    # Late are those that fall into the hour that is skipped, or that a jump forward passes over.
    assert len(exact) == 44, exact
    print("weeks: 100 jobs,", passed // 1000, "s, drift 0;", len(exact), "of 50 never late")


def _late(t, at):
    y, m, d, h, mi, s, _ = clock.zone.local(t)
    return (h * 3600 + mi * 60 + s - at) % DAY


def summer():
    """02:30 on the days of the two changes."""
    for day, wanted in (
        (
            utc(2026, 3, 28),
            [utc(2026, 3, 28, 1, 30), utc(2026, 3, 29, 1, 30), utc(2026, 3, 30, 0, 30)],
        ),
        (
            utc(2026, 10, 24),
            [utc(2026, 10, 24, 0, 30), utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)],
        ),
    ):
        runs = []
        app = fresh(day)
        daily.at(app, "02:30", noting(runs))
        run(app, 3 * DAY, 10)
        assert [t // 60 * 60 for t in runs] == wanted, (runs, wanted)


def jumps():
    """An hour on or back, before and after 07:30: always one run a day."""
    half = utc(2026, 1, 5, 6, 30)  # 07:30 there
    for at, jump, wanted in (
        (half - 1800, 3600, half + 1800),  # over it: at once
        (half - 1800, -3600, half),
        (half + 60, -3600, half),
        (half + 60, 3600, half),
    ):
        runs = []
        app = fresh(half - 7200)
        daily.at(app, "07:30", noting(runs))
        run(app, at - (half - 7200))
        clock._set((clock.now() + jump) * 1000, "ntp")
        run(app, 4 * 3600, 5)
        assert len(runs) == 1 and abs(runs[0] - wanted) <= 6, (at - half, jump, runs, wanted)
    # Years off, then right: it does not wait for years, and does not run for what it missed.
    runs = []
    app = fresh(utc(2036, 5, 1))
    daily.at(app, "07:30", noting(runs))
    run(app, 60)
    clock._set((half - 600) * 1000, "ntp")
    run(app, 1200)
    assert len(runs) == 1 and abs(runs[0] - half) <= 1, runs
    clock._set((half + 40 * DAY + 3 * 3600) * 1000, "ntp")
    run(app, 3600, 5)
    assert len(runs) == 1


def beginnings():
    """Nothing runs before the time is known, nor for what was before that."""
    runs = []
    app = fresh()
    job = daily.at(app, "12:00", noting(runs))
    daily.at(app, "06:00:30", noting(runs), days=(5, 6))
    run(app, 100)
    assert not runs and clock.now() == 0 and clock.text() == ""
    app.updater.time = (utc(2026, 1, 5, 11, 30), app.up)  # a Monday, 12:30 there
    run(app, 100)
    assert not runs and clock.text()[:14] == "2026-01-05 12:", clock.text()
    assert RTC.last[:4] == (2026, 1, 5, 0) and RTC.last[4:6] == (11, 30)
    run(app, DAY, 10)
    assert len(runs) == 1
    job.cancel()
    run(app, 7 * DAY, 20)
    assert [clock.zone.local(t)[6] for t in runs[1:]] == [5, 6], runs
    for bad in ("7", "24:00", "07:60", "x", "-1:00", "1:2:3:4", ""):
        try:
            daily.at(app, bad, noting(runs))
        except ValueError:
            continue
        raise AssertionError(bad)


def behaved():
    """A daily job that raises is counted like any other and comes again; one may be jittered."""
    app = fresh(utc(2026, 1, 5, 6))
    runs = []

    def bad():
        raise OSError("no")

    daily.at(app, "07:30", bad)
    daily.at(app, "07:30", noting(runs), "late", jitter=60)
    run(app, 3 * DAY, 7)
    assert app.tallies["bad"][:2] == [0, 3] and app.tallies["late"][0] == 3
    assert all(-1 <= _late(t, 27000) <= 75 for t in runs), runs


def sanity():
    """What the server says is taken when it can be; far from it nothing else is."""
    app = fresh()
    fake.ota.seq = 3_400_000  # minutes since 2020: of June 2026
    for bad in (0, None, "x", utc(2026, 1, 1), utc(2101, 1, 1)):
        app.updater.time = (bad, app.up)
        run(app, 2)
        assert not clock.now(), bad
    app.updater.time = (utc(2026, 11, 24), app.up)
    run(app, 3)
    assert abs(clock.now() - utc(2026, 11, 24) - 3) <= 1 and clock.source == "server"
    fake.ota.seq = 1
    config.TIMEZONE = "nonsense"
    clock.zone = tz.Zone("UTC0")
    run(fresh(utc(2026, 1, 5)), 2)
    assert clock.text()[:13] == "2026-01-05 00", clock.text()
    config.TIMEZONE = "CET-1CEST,M3.5.0,M10.5.0/3"
    fresh()


for test in (zones, summer, jumps, beginnings, behaved, sanity, weeks):
    test()
    print("passed", test.__name__)
