"""What the rollouts say to one board's report: the rules of `rollout` at the place of polls."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import policy
from . import rollout as rules
from .policy import Bad, Board, Known, Move, Release, Report, Target, Verdict
from .rollout import Candidate, Counts, Live, Offer, Rollout, Wait

_COUNTING = frozenset(("running", "paused", "halted", "done"))
"""In these states a report changes the counts."""
_PASSING = frozenset(("slots", "hours"))
"""These obstacles go without a change of the rollout."""


@dataclass(frozen=True, slots=True)
class Line:
    """The rollouts of one app, class and channel.

    Attributes:
        lives: those that reports and the clock look at, oldest first.
        over: by digest, the newest one of each release whose rollouts are over; without its counts.
    """

    lives: Sequence[Live] = ()
    over: Mapping[str, Live] = field(default_factory=dict[str, Live])


def over(live: Live) -> Live:
    """What has to be remembered of a rollout that is over: who may have its release."""
    rollout, members = live.rollout, live.rollout.members
    if members is not None:
        members |= rollout.canary
    short = Rollout(rollout.id, rollout.digest, rollout.state, members=members, why=rollout.why)
    return replace(live, rollout=short, counts=Counts())


@dataclass(frozen=True, slots=True)
class Gate:
    """See `policy.Gate`.

    Args:
        line: the rollouts of the board's app, class and channel.
        minute: of the day.
    """

    line: Line
    minute: int

    def judge(self, known: Known, report: Report, verdict: Verdict) -> None:
        """Add to the verdict what the report says of the board's targets."""
        for live in self.line.lives:
            target = known.targets.get(live.rollout.id)
            if target is None or live.rollout.state not in _COUNTING:
                continue
            bad = _rejected(live, verdict.rejection)
            confirmed = report.state == "ok" and live.rollout.digest.startswith(report.digest)
            said = rules.Verdict(confirmed and report.digest != "")
            crash = report.crash if report.digest and said.confirmed else None
            if crash and not crash.again and live.rollout.state != "done":
                said = replace(said, crashes=True)
            if bad:
                said = replace(said, reason=bad.reason, soft=bad.soft)
            new = rules.outcome(target.state, said)
            if new is None:
                continue
            told = (bad or crash) if new == "failed" else None
            reason, trace = (told.reason, told.trace) if told else ("", "")
            moved = known.board.id, live.rollout.id, target.state, new
            verdict.moves.append(Move(*moved, reason=reason, trace=trace))

    def admits(self, known: Known, release: Release, verdict: Verdict) -> bool:
        """Whether the board may be offered a release now; the target is added to the verdict."""
        live = latest(self.line, release.digest)
        if live is None:
            return True
        targets = moved(known.targets, verdict.moves, 0.0)
        found = turn(live, self.line.lives, known.board, targets, self.minute)
        if isinstance(found, Wait):
            verdict.waits = verdict.waits or found.why in _PASSING
        elif found.new:
            wave = rules.wave_of(live.rollout, known.board.id) or 0
            verdict.moves.append(Move(known.board.id, live.rollout.id, None, "offered", wave))
        return isinstance(found, Offer)


def _rejected(live: Live, bad: Bad | None) -> Bad | None:
    """What the report newly says against the rollout's release."""
    if bad is None or bad.digest != live.rollout.digest[: len(bad.digest)]:
        return None
    # Without a silence time the board is left to try again by itself.
    return None if bad.soft and not live.rollout.silence_s else bad


def latest(line: Line, digest: str) -> Live | None:
    """The newest rollout of a release; None: it has none and is for everybody.

    One that is a draft or was cancelled still stands for it: the release goes to nobody.
    """
    found = [live for live in line.lives if live.rollout.digest == digest]
    if digest in line.over:
        found.append(line.over[digest])
    return max(found, key=lambda live: live.rollout.id, default=None)


def turn(
    live: Live, line: Sequence[Live], board: Board, targets: Mapping[int, Target], minute: int
) -> Offer | Wait:
    """Whether it is this board's turn for what policy would offer it."""
    rollout = live.rollout
    if rollout.state == "done":
        if rules.wave_of(rollout, board.id) is None:
            return Wait("selection", "This rollout is not for this board.")
        return Offer(new=False)
    if rules.superseded(live, line):
        rollout = replace(rollout, state="superseded")
    mine = targets.get(rollout.id)
    candidate = Candidate(
        board.id,
        mine.state if mine else None,
        paused=board.paused,
        failed_in_a_row=failed_in_a_row(targets, rollout.id),
    )
    return rules.decide(rollout, live.counts, candidate, minute)


def failed_in_a_row(targets: Mapping[int, Target], before: int) -> int:
    """How many of the last rollouts before this one a board failed, one after another."""
    failed = 0
    for number in sorted(targets, reverse=True):
        state = targets[number].state
        if number >= before or state in ("void", "offered"):
            continue
        if state == "confirmed":
            break
        failed += 1
    return failed


def moved(targets: Mapping[int, Target], moves: Iterable[Move], now: float) -> dict[int, Target]:
    """A board's targets after these moves; of the oldest ones as many go as are too many."""
    after = dict(targets)
    for move in moves:
        if move.new is None:
            after.pop(move.rollout, None)
        elif move.rollout in after:
            after[move.rollout] = replace(after[move.rollout], state=move.new)
        else:
            after[move.rollout] = Target(move.rollout, move.new, now)
    for number in sorted(after)[: -rules.TARGETS_KEPT]:
        del after[number]
    return after


def may_get(known: Known, release: Release, releases: Sequence[Release], now: float) -> bool:
    """Whether policy would offer a board this release at once if there were no rollouts."""
    board = known.board
    if board.retired is not None:
        return False
    rejected = frozenset(digest for digest, bad in known.rejected.items() if not bad.soft)
    report = Report(board.seq, board.digest, "ok", 0, 0)
    found = policy.offer(
        board, report, releases, rejected, policy.latest_seq(now), lambda one: one is release
    )
    return found is release


def minute_of_day(now: float) -> int:
    """In the server's zone, in which people mean the hours of a rollout."""
    local = time.localtime(now)
    return local.tm_hour * 60 + local.tm_min
