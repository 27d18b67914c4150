"""Crashes of a confirmed app, and jobs that never succeed, from the board to what people read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import apps
from tests.support.apps import BEGIN, LOOP, story, with_runtime

# The board's ticks pass a hundred times as fast: it crashes after ten minutes and a half, so the
# count of crashes in a row never gets anywhere.
NOW_AND_THEN = f"""{BEGIN}\
while True:
    ota.check()
    ota.ticks += 100
    if ota.ticks > 1260 and ota.server_seen_at:
        raise ValueError('dust')  # here
    time.sleep(1)
"""
HANGS = f"""{BEGIN}\
ota.watch()
while ota.ticks < 1260 or not ota.server_seen_at:
    ota.check()
    ota.ticks += 100
    time.sleep(1)
while True:
    pass
"""
ON_RUNTIME = """\
def dust():
    raise ValueError('dust')
def end():
    app.step = dust  # what a job raises ends nothing but itself; this is the loop's
app.after(100000, end)
"""
NEVER = """\
def measure():
    raise OSError('no sensor')
app.every(2000, measure)
"""


def test_app_that_crashes_every_ten_minutes(tmp_path: Path) -> None:
    """It never reaches the limit; the server shows it as crashing, with the line that raises."""
    with story(tmp_path, NOW_AND_THEN) as it:
        it.board.start()
        now = it.until(lambda record: record["crashes"] >= 3)
        assert (now["state"], now["reason"]) == ("crashing", "exception")
        assert "ValueError: dust" in now["trace"]
        assert apps.line_of(NOW_AND_THEN) in now["trace"]
        # One crash counts once, though two lives and many polls tell it. The last one to begin may
        # have crashed or not.
        assert now["crashes"] in (it.begun(1000), it.begun(1000) - 1)
        told = [e["text"] for e in it.fleet.get("/api/boards/b1/events") if e["kind"] == "crashed"]
        assert told[0].startswith("crashed once since it was confirmed\n")
        assert told[1].startswith("crashed 2 times since it was confirmed\n")


def test_hang_is_not_told_with_the_traceback_of_another_crash(tmp_path: Path) -> None:
    """What was kept of an earlier crash is gone when the watchdog bites."""
    with story(tmp_path, HANGS, speed=100) as it:
        it.board.write("/state/crash", b"ValueError: years ago")
        it.board.start()
        now = it.until(lambda record: record["crashes"])
        assert (now["state"], now["reason"], now["trace"]) == ("crashing", "watchdog", "")


@pytest.mark.parametrize("lasts", [30_000, 100_000])
def test_app_on_the_runtime_that_crashes(tmp_path: Path, lasts: int) -> None:
    """Each life tells how the one before ended; the fifth crash leads to recovery, which tells."""
    setup = ON_RUNTIME.replace("100000", str(lasts))
    with story(tmp_path, with_runtime(setup)) as it:
        it.board.start()
        now = it.until(lambda record: record["state"] == "crashing" and record["crashes"] == 3)
        assert now["reason"] == "exception"
        assert "ValueError: dust" in now["trace"]
        now = it.until(lambda record: record["state"] == "recovery")
        assert now["crashes"] == 5
        assert "ValueError: dust" in now["trace"]
        # After it the app is tried again.
        it.until(lambda record: record["state"] == "crashing")


def test_app_that_crashes_before_it_can_poll(tmp_path: Path) -> None:
    """The life that prepares a plain app's tells, and recovery does."""
    with story(tmp_path, BEGIN + "raise ValueError('dust')  # here\n") as it:
        it.board.start()
        now = it.until(lambda record: record["crashes"] == 2)
        assert (now["state"], "ValueError: dust" in now["trace"]) == ("crashing", True)
        now = it.until(lambda record: record["state"] == "recovery")
        assert (now["crashes"], now["reason"]) == (5, "exception")


def test_rescue_by_the_boot_stage_is_no_crash(tmp_path: Path) -> None:
    """The app never asks the server; the boot stage's alarm resets the board to ask."""
    silent = BEGIN + "while True:\n    ota.ticks += 20000\n    ota.feed()\n    time.sleep(1)\n"
    with story(tmp_path, silent) as it:
        it.board.start()
        # The third such life begins when the second has told what it had to.
        assert it.board.wait(lambda board: board.console.count("/install") == 3, apps.HOURS)
        now = it.until(lambda record: record["state"] == "installing")
        assert now["crashes"] == 0


def test_orderly_resets_are_no_crash(tmp_path: Path) -> None:
    """An app that resets the board by `ota.reset()`, as it may."""
    source = BEGIN + LOOP.replace("time", "ota.ticks > 60 and ota.reset()\n    time")
    with story(tmp_path, source) as it:
        it.board.start()
        assert it.board.wait(lambda _: it.begun(1000) == 4, apps.HOURS)
        now = it.record()
        assert (now["state"], now["crashes"]) == ("ok", 0)


def test_job_that_never_succeeds_is_told_with_its_traceback(tmp_path: Path) -> None:
    """Once in a life, in the words of the log."""
    with story(tmp_path, with_runtime(NEVER)) as it:
        it.board.start()
        now = it.until(lambda record: record["reason"] == "job")
        assert now["trace"].startswith("measure failed\n")
        assert now["trace"].endswith("OSError: no sensor")
        assert ", in measure\n" in now["trace"]
        it.polls(4)
        told = [e for e in it.fleet.get("/api/boards/b1/events") if e["kind"] == "job-fails"]
        assert len(told) == 1
