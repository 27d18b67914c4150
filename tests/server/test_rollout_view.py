"""What the page of a rollout says, before it is a page."""

from dataclasses import replace
from typing import Any

import pytest

from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.dashboard import rollout_view
from mipy_ota.ota_server.dashboard.rollout_view import Point
from mipy_ota.ota_server.rollout import Counts, Rollout

RUNNING = Rollout(7, "d" * 64, "running", frozenset({"kitchen"}), (5, 25, 100), in_flight=2)
NOW = 1_790_000_000.0


def test_waves_with_their_boards():
    targets: list[Any] = [
        (0, "confirmed", 1),
        (1, "failed", 2),
        (1, "confirmed", 5),
        (1, "offered", 1),
    ]
    found = rollout_view.waves(replace(RUNNING, wave=1), targets, {1: 3, 2: 40, 3: 150})
    assert [(one.title, one.open, one.waiting) for one in found] == [
        ("Canary", True, 0),
        ("Up to 5%", True, 3),
        ("Up to 25%", False, 40),
        ("All boards", False, 150),
    ]
    assert found[0].counts == Counts(confirmed=1)
    assert found[1].counts == Counts(offered=1, confirmed=5, failed=2)
    assert found[2].counts == Counts()


def test_waves_without_a_canary():
    found = rollout_view.waves(Rollout(7, "d" * 64, "draft"), [], {0: 3})
    assert [(one.number, one.title, one.open) for one in found] == [(0, "All boards", False)]


def test_curve_adds_up():
    ended: list[tuple[float, Any, int]] = [
        (NOW + 40, "failed", 1), (NOW, "confirmed", 1), (NOW + 10, "confirmed", 1),
        (NOW + 11, "confirmed", 2),
        (NOW + 15, "void", 1), (NOW + 100, "silent", 1),
    ]  # fmt: skip
    points = rollout_view.curve(ended, NOW, NOW + 100, steps=10)
    assert [one.at - NOW for one in points] == [10.0 * n for n in range(11)]
    assert [one.confirmed for one in points] == [1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    assert [one.failed for one in points] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert [one.silent for one in points] == [0] * 10 + [1]


def test_curve_of_times_that_cannot_be():
    """A clock that was set back, or a report after the end: counted at the first, the last."""
    points = rollout_view.curve([(0.0, "failed", 1), (NOW + 9, "failed", 1)], NOW, NOW, steps=2)
    assert [one.failed for one in points] == [1, 1, 2]


def test_table_has_the_points_at_which_something_changed():
    ended: list[tuple[float, Any, int]] = [(NOW + 10, "confirmed", 1), (NOW + 50, "failed", 1)]
    points = rollout_view.curve(ended, NOW, NOW + 100, steps=10)
    assert rollout_view.told_apart(points) == [
        Point(NOW, 0, 0, 0),
        Point(NOW + 10, 1, 0, 0),
        Point(NOW + 50, 1, 1, 0),
        Point(NOW + 100, 1, 1, 0),
    ]


def test_curve_is_drawn_in_its_box():
    ended: list[tuple[float, Any, int]] = [(NOW + 50, "confirmed", 1), (NOW + 100, "confirmed", 1)]
    points = rollout_view.curve(ended, NOW, NOW + 100, steps=2)
    drawn = rollout_view.lines(points)
    assert drawn["confirmed"] == "M0 200.0H300.0V100.0H600.0V0.0"
    assert drawn["failed"] == drawn["silent"] == "M0 200.0H300.0V200.0H600.0V200.0"


@pytest.mark.parametrize(
    ("change", "counts", "failed", "ended", "left"),
    [
        ({"strict": True}, {"confirmed": 1}, 0, 1, 1),
        ({"wave": 2}, {"confirmed": 100}, 0, 100, 12),
        ({"wave": 2}, {"confirmed": 100, "failed": 9, "silent": 1}, 10, 110, 2),
        ({"wave": 2, "accepted": 60, "accepted_bad": 10},
         {"confirmed": 100, "failed": 9, "silent": 1}, 0, 50, 8),
        ({"state": "halted"}, {"failed": 3}, 3, 3, None),
    ],
)  # fmt: skip
def test_how_far_it_is_from_its_halt(
    change: dict[str, Any], counts: dict[str, int], failed: int, ended: int, left: int | None
):
    rollout, counted = replace(RUNNING, **change), Counts(**counts)
    found = rollout_view.standing(rollout, counted)
    assert (found.failed, found.ended, found.left) == (failed, ended, left)
    assert found.chance == rules.chance(failed, ended, rollout.tolerated)
    if left is not None:
        assert not rules.halting_rule(rollout, replace(counted, failed=counted.failed + left - 1))
        assert rules.halting_rule(rollout, replace(counted, failed=counted.failed + left))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "draft"}, "It has not been started: no board is offered the release."),
        ({}, "Wave 1 of 4 is open. The next one opens when 80% of the boards of the open waves have"
             " confirmed the release, for 10 min."),
        ({"met_at": NOW - 480}, "Wave 1 of 4 is open. Enough boards have confirmed; the next wave"
                                " opens in 2 min."),
        ({"met_at": NOW - 900, "approval": True},
         "Wave 1 of 4 is open. Enough boards have confirmed; the next wave waits for approval."),
        ({"wave": 3}, "Wave 4 of 4 is open. It is the last; 1 board at it now."),
        ({"state": "halted", "why": "2 of 2 boards failed"},
         "It halted by itself: 2 of 2 boards failed. Nobody new is offered the release."),
        ({"state": "paused", "why": "lunch"},
         "A person paused it: lunch. Nobody new is offered the release."),
        ({"state": "paused"}, "A person paused it. Nobody new is offered the release."),
        ({"state": "cancelled", "why": "typo"}, "It was cancelled: typo."),
        ({"state": "superseded"}, "A newer release took its place."),
        ({"state": "done"}, "It is done. Boards that come later get this release too."),
    ],
)  # fmt: skip
def test_what_it_waits_for_in_words(change: dict[str, Any], words: str):
    rollout = replace(RUNNING, **change)
    assert rollout_view.in_words(rollout, Counts(offered=1), NOW) == words
