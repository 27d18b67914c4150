"""The loop itself: drivers, what leaves it and what does not, and the judgement of a trial."""

import asyncio
import os
import time

import fake  # first: the rest lies on its disk
from loglines import tail

import runtime
from runtime import health, loop, report
from runtime.driver import Driver

ota = fake.ota


class Part(Driver):
    period = 20

    def __init__(self, faults=()):
        self.calls = []
        self._faults = faults
        self.polls = 0

    def start(self):
        self.calls.append("start")
        if "start" in self._faults and self.calls.count("start") < 3:
            raise OSError("no answer")

    def poll(self):
        self.polls += 1
        if "poll" in self._faults and self.polls < 4:
            raise OSError("gone")

    def stop(self):
        self.calls.append("stop")
        if "stop" in self._faults:
            raise OSError("cannot")

    def health(self):
        return "worn" if "health" in self._faults else ""


def live(setup, ms=400):
    """Run the loop for `ms`; return (how it ended, the App)."""
    seen = []

    def more(app):
        seen.append(app)
        setup(app)

        def done():
            raise KeyboardInterrupt

        app.after(ms, done)

    try:
        runtime.run(more)
    except BaseException as e:
        return type(e), seen[0]


def drivers():
    good, late, flaky, ill = Part(), Part("start"), Part(("poll", "stop")), Part(("health",))
    late._faults = ("start",)

    def setup(app):
        app.driver(good, "good")
        app.driver(late, "late")
        app.driver(flaky, "flaky")
        app.driver(ill)

    how, app = live(setup)
    assert how is KeyboardInterrupt
    assert good.calls == ["start", "stop"] and good.polls > 10
    assert late.calls[:3] == ["start", "start", "start"] and late.polls > 5, late.calls
    assert flaky.calls == ["start", "stop", "start", "stop"] and flaky.polls > 10, flaky.calls
    assert app.tallies["good"][1] == 0 and app.tallies["flaky"][1] == 4
    assert app.tallies["Part"][0] == 0 and "OSError: worn" in tail()
    worst = report.failures(app.tallies)
    assert worst["late"][0] == 2 and "good" not in worst, worst


def leaves():
    def broken(app):
        raise ValueError("setup")

    assert live(broken)[0] is ValueError

    async def lost():
        raise ValueError("nobody waits for me")

    async def start():
        asyncio.create_task(lost())

    runs = []

    def hog():
        if not runs:
            time.sleep_ms(1100)
        runs.append(1)

    async def slow_part():
        await asyncio.sleep_ms(10)
        time.sleep_ms(1100)

    def setup(app):
        app.every(50, hog)
        app.once(start)
        app.after(1500, slow_part)

    assert live(setup, 3200)[0] is KeyboardInterrupt
    text = tail()
    assert "nobody waits for me" in text and len(runs) > 10, text
    assert "hog blocked the loop for 11" in text, text
    assert "slow_part blocked the loop for 1" in text, text

    class Broken(loop.App):
        def step(self):
            raise RuntimeError

    try:
        asyncio.run(loop._main(Broken()))
    except RuntimeError:
        return
    raise AssertionError("the loop's own failure stays in it")


def judged(names, setup):
    """What holds a trial, given the names that succeeded under the former release."""
    with open("/data/jobs", "w") as f:
        f.write("00\n" + "\n".join(names))
    ota.trial = True
    ota.server_seen_at = True
    ota.events.clear()
    app = live(setup, 1500)[1]
    return app.blocked_by, "confirmed" in ota.events


def trials():
    def never():
        raise OSError("never")

    turns = []

    def sometimes():
        turns.append(1)
        if len(turns) % 2:
            raise OSError("now and then")

    def fine():
        pass

    def jobs(app):
        app.every(100, never)
        app.every(100, sometimes)
        app.every(100, fine)
        app.every(86400_000, fine, "daily")

    assert judged(["fine", "sometimes", "daily", "gone"], jobs) == ("", True)
    assert judged(["fine", "never"], jobs) == ("unproven job never", False)
    assert judged(["later"], lambda app: app.after(300_000, fine, "later")) == (
        "unproven job later",
        False,
    )
    assert judged([], lambda app: app.check(lambda: False)) == ("failing check <lambda>", False)
    assert judged([], lambda app: app.check(never)) == ("failing check never", False)
    assert judged([], lambda app: app.check(lambda: True)) == ("", True)


def remembered():
    app = loop.App()
    app.tallies = {"good": [5, 1, 0], "bad": [0, 9, 9]}
    health.remember(app)
    former = health._former()
    assert former[1] == ["good"] and len(former[0]) == 32
    app.tallies = {}
    stamp = os.stat("/data/jobs")
    health.remember(app)
    assert health._former() == former and os.stat("/data/jobs") == stamp


def sleeps():
    ended = []

    def setup(app):
        app.driver(Part())

        def tired():
            ended.append(1)
            app.sleep(1000)

        app.after(100, tired)

    assert live(setup)[0] is SystemExit and ended == [1] and ota.events[-1] == "sleep"


for test in (drivers, leaves, trials, remembered, sleeps):
    test()
    print("passed", test.__name__)
