"""What the page of a rollout says, made of values: waves, curve, what halts it, what is next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from .. import rollout as rules
from ..policy import TargetState
from ..rollout import Counts, Rollout
from ..words import duration, many

STEPS = 48
"""Of the curve."""
WIDTH, HEIGHT = 600.0, 200.0
"""Of the curve, in its own units."""
CURVES: tuple[TargetState, ...] = ("confirmed", "failed", "silent")


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave, with the boards that are in it.

    Attributes:
        title: for people.
        open: its boards are offered the release.
        waiting: boards that were not offered it yet.
    """

    number: int
    title: str
    open: bool
    counts: Counts
    waiting: int


def waves(
    rollout: Rollout, targets: Iterable[tuple[int, TargetState, int]], waiting: Mapping[int, int]
) -> list[Wave]:
    """All waves in their order.

    Args:
        targets: (wave, state, how many boards).
        waiting: how many boards have not been offered the release, by wave.
    """
    counts: dict[int, Counts] = {}
    for wave, state, number in targets:
        known = counts.get(wave, Counts())
        counts[wave] = replace(known, **{state: getattr(known, state) + number})
    return [
        Wave(
            number,
            _title(rollout, number),
            number <= rollout.wave and rollout.state != "draft",
            counts.get(number, Counts()),
            waiting.get(number, 0),
        )
        for number in range(rollout.last_wave + 1)
    ]


def _title(rollout: Rollout, number: int) -> str:
    if rollout.canary and number == 0:
        return "Canary"
    percent = rollout.waves[number - (1 if rollout.canary else 0)]
    return "All boards" if percent == 100 else f"Up to {percent}%"


@dataclass(frozen=True, slots=True)
class Point:
    """How many boards had ended, and how, at a time (seconds since 1970)."""

    at: float
    confirmed: int
    failed: int
    silent: int


def curve(
    ended: Iterable[tuple[float, TargetState, int]], start: float, end: float, steps: int = STEPS
) -> list[Point]:
    """How the boards' outcomes came in, at equal distances from `start` to `end`.

    Args:
        ended: when boards ended, in which state they are now, and how many; in any order.
    """
    end = max(end, start + 1.0)
    told: list[dict[TargetState, int]] = [dict.fromkeys(CURVES, 0) for _ in range(steps + 1)]
    for at, state, number in ended:
        if state in CURVES:
            # An outcome counts from the next point on; clocks that were set back count at once.
            place = -int(-(at - start) * steps // (end - start))
            told[min(max(place, 0), steps)][state] += number
    for before, here in pairwise(told):
        for state in CURVES:
            here[state] += before[state]
    return [
        Point(start + n * (end - start) / steps, one["confirmed"], one["failed"], one["silent"])
        for n, one in enumerate(told)
    ]


def told_apart(points: Sequence[Point]) -> list[Point]:
    """The points at which something changed, with the first and the last: for a table."""
    changed = [
        after for before, after in pairwise(points)
        if replace(after, at=0.0) != replace(before, at=0.0)
    ]  # fmt: skip
    found = [points[0], *changed]
    return found if found[-1] is points[-1] else [*found, points[-1]]


def lines(points: Sequence[Point]) -> dict[str, str]:
    """The curve as the `d` of SVG paths, in a box of WIDTH x HEIGHT, steps as they were."""
    start, end = points[0].at, points[-1].at
    most = top(points)
    drawn: dict[str, str] = {}
    for state in CURVES:
        level = [HEIGHT - getattr(one, state) * HEIGHT / most for one in points]
        path = [f"M0 {level[0]:.1f}"]
        for one, y in zip(points[1:], level[1:], strict=True):
            path.append(f"H{(one.at - start) * WIDTH / (end - start):.1f}V{y:.1f}")
        drawn[state] = "".join(path)
    return drawn


def top(points: Sequence[Point]) -> int:
    """The highest number of the curve, 1 at least."""
    return max(1, *(max(one.confirmed, one.failed, one.silent) for one in points))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rollout stands against its rule.

    Attributes:
        failed, ended: those that count: what a person accepted by resuming does not.
        chance: of so many failures or more, if it failed on no more boards than is tolerated.
        left: so many more failures halt it; None: it is not running, or none would.
    """

    failed: int
    ended: int
    chance: float
    left: int | None


def standing(rollout: Rollout, counts: Counts) -> Standing:
    """How far a rollout is from its halt, or was."""
    failed = max(0, counts.bad - rollout.accepted_bad)
    ended = max(failed, counts.ended - rollout.accepted)
    chance = rules.chance(failed, ended, rollout.tolerated)
    left = _failures_to_halt(rollout, counts) if rollout.state == "running" else None
    return Standing(failed, ended, chance, left)


def _failures_to_halt(rollout: Rollout, counts: Counts) -> int | None:
    """How many more failures would break a rule, none of them a board that confirmed."""

    def halts(more: int) -> bool:
        after = replace(counts, failed=counts.failed + more)
        return bool(rules.halting_rule(rollout, after))

    most = 1
    while not halts(most):
        most *= 2
        if most > rules.BUCKETS:
            return None
    least = most // 2
    while least + 1 < most:
        middle = (least + most) // 2
        least, most = (least, middle) if halts(middle) else (middle, most)
    return most


def in_words(rollout: Rollout, counts: Counts, now: float) -> str:
    """What a rollout does now and waits for, in a sentence or two."""
    because = f": {rollout.why}" if rollout.why else ""
    match rollout.state:
        case "draft":
            return "It has not been started: no board is offered the release."
        case "paused":
            return f"A person paused it{because}. Nobody new is offered the release."
        case "halted":
            return f"It halted by itself{because}. Nobody new is offered the release."
        case "cancelled":
            return f"It was cancelled{because}."
        case "superseded":
            return "A newer release took its place."
        case "done":
            return "It is done. Boards that come later get this release too."
        case "running":
            return _running(rollout, counts, now)


def _running(rollout: Rollout, counts: Counts, now: float) -> str:
    under_way = f"Wave {rollout.wave + 1} of {rollout.last_wave + 1} is open."
    if rollout.wave == rollout.last_wave:
        return f"{under_way} It is the last; {many(counts.offered, 'board')} at it now."
    if rollout.met_at is None:
        needed = f"{rollout.share:.0%} of the boards of the open waves have confirmed the release"
        return f"{under_way} The next one opens when {needed}{_soak(rollout)}."
    left = rollout.soak_s - (now - rollout.met_at)
    if left > 0:
        return f"{under_way} Enough boards have confirmed; the next wave opens in {duration(left)}."
    if rollout.approval and rollout.approved <= rollout.wave:
        return f"{under_way} Enough boards have confirmed; the next wave waits for approval."
    return f"{under_way} The next one opens now."


def _soak(rollout: Rollout) -> str:
    return f", for {duration(rollout.soak_s)}" if rollout.soak_s else ""
