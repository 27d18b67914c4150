"""What a board does with apps that misbehave, and what its server learns of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import apps
from tests.apps import BAD, BEGIN, GOOD, story


@pytest.mark.parametrize("name", BAD)
def test_bad_release_on_trial(tmp_path: Path, name: str) -> None:
    """Three tries at most; the old release runs, the server knows why, the next one is taken."""
    bad = BAD[name]
    first = apps.TIDY if name == "fills" else GOOD
    # The watchdog bites no sooner than after a real second, which must be short of a trial.
    speed = 20 if name == "hangs" else 100
    with story(tmp_path, first, speed=speed, blocks=128) as it:
        it.board.start()
        it.polls(1)
        source = BEGIN + bad.source
        digest = it.publish(source)
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == (bad.reason, bad.soft)
        if name == "memory":  # there is none for a traceback
            return
        assert bad.text in told["trace"]
        if name != "fills":  # where there is no room for a traceback
            assert apps.line_of(source) in told["trace"]
        it.polls(3)
        assert it.begun(1001) == bad.tries
        it.confirmed(it.publish(GOOD))
        assert it.begun(1001) == bad.tries


@pytest.mark.parametrize("name", [name for name in BAD if name != "sleeps"])
def test_confirmed_release_turns_bad(tmp_path: Path, name: str) -> None:
    """Five short lives, then the other slot, for good."""
    bad = BAD[name]
    first = apps.TIDY if name == "fills" else GOOD
    # The watchdog bites no sooner than after a real second, which must be short of a trial.
    speed = 20 if name == "hangs" else 100
    with story(tmp_path, first, speed=speed, blocks=128) as it:
        it.board.start()
        it.polls(1)
        source = apps.turning(bad.source)
        digest = it.publish(source)
        it.confirmed(digest)
        before = it.begun(1001)
        it.turn()
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == (bad.later, bad.later == "verify")
        if name == "memory":  # there is none for a traceback
            return
        assert bad.text in told["trace"]
        if name != "fills":
            assert apps.line_of(source) in told["trace"]
        it.polls(3)
        assert it.begun(1001) - before == (1 if bad.later == "verify" else 5)
        it.confirmed(it.publish(GOOD))
