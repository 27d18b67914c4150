"""Which board gets a release when, and what stops it: rules over plain values.

There is no HTTP, no SQL and no clock in here; the storage keeps what these functions return.

1. A rollout goes in waves. The canary comes first: named boards, frozen at the start. Then come
   the boards whose bucket, by a hash over rollout and board, lies below the wave's percentage. A
   board's place never changes, a wave only adds boards, and a newcomer falls into its place.
2. A selection is frozen at the start. None means every board of the channel, newcomers included.
3. A board is offered the release when its wave is open, a slot is free, the hour is right and
   nothing of its own stands against it. The offer is recorded as a target before the reply leaves.
   At most `in_flight` targets are open. A board with an open target hears the same release or none.
4. A target ends as confirmed or failed by the board's report, as silent by the time, and as void
   when the board can no longer take the release. Silence counts as failure: a release that takes
   the Wi-Fi away looks like that. A late report corrects a silent target, and a crash of the
   confirmed app makes a confirmed one failed; neither undoes a halt. A rollout without a silence
   time, as three boards or fewer get it, leaves to the board what the board will try again.
5. A rollout halts by itself when its failures are more than chance explains: two at least, and
   so many that a release which fails on no more boards than is tolerated would show them with a
   probability below `SIGNIFICANCE`. A strict canary halts at its first failure, and a wave whose
   boards have all ended without the share of confirmed ones halts as well.
6. The next wave opens when the share of the open waves' boards that has confirmed is reached, has
   lasted for the soak time, and, where that is asked for, another person has approved.
7. After a halt or a pause no reply names the release. Only a person resumes, and whom a halted
   rollout had reached is bounded: all that had ended then, and `in_flight` more. Who resumes a
   halted rollout accepts its failures so far: they count no more.
8. Of the rollouts to the same boards only the newest goes on. One that is done has made its release
   the one that newcomers get.
9. Of rollouts that are over only the last few still count late reports (`needed`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .policy import RELEASE_REASONS, ROLLBACK_REASONS, TargetState
from .words import many

State = Literal["draft", "running", "paused", "halted", "done", "cancelled", "superseded"]

BUCKETS = 10_000
SIGNIFICANCE = 0.02
"""Chance at most of a halt by failures that the tolerated share explains."""
FAILURES_TO_HALT = 2
TOLERATED = 0.05
"""Share of boards that may fail without a halt, by default."""
SHARE = 0.8
"""Share of the open waves' boards that must have confirmed before the next wave."""
SMALL_FLEET = 20
"""Below so many boards statistics say nothing: any failure of the canary halts."""
WITHOUT_CANARY = 3
"""A fleet of so many boards or fewer gets a release at once."""
WAVES = (5, 25, 100)
SOAK_S = 600
AWAY_S = 900.0
"""A board that has not polled for so long is not waited for before the next wave."""
SLEEPER_UP_S = 120
"""A board in deep sleep polls once in a life, this long after its start at most."""
SILENCE_S = 3600
QUARANTINE_AFTER = 3
"""Releases that one board failed in a row before it is left alone."""
TARGETS_KEPT = QUARANTINE_AFTER + 1
"""Known of one board: those that quarantine looks at, and the one that is under way."""

# A trial that ended for want of network or power says nothing of the release by itself, but a
# release that takes the network away ends just so: a rollback counts, whatever its reason, except
# those that a person or the mains caused.
_NOT_ITS_FAULT = frozenset(("order", "power"))

# from -> to, as people and `tick` may do it. Only a person leaves "halted".
MOVES: dict[State, frozenset[State]] = {
    "draft": frozenset(("running", "cancelled")),
    "running": frozenset(("paused", "halted", "done", "cancelled", "superseded")),
    "paused": frozenset(("running", "cancelled", "superseded")),
    "halted": frozenset(("running", "cancelled", "superseded")),
    "done": frozenset(("superseded",)),
    "cancelled": frozenset(),
    "superseded": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One release on its way to the boards of one app and channel.

    Attributes:
        canary: ids of the boards that come first; empty: no canary.
        waves: percentages of the fleet, growing; the last is 100.
        members: ids of the selected boards; None: all, newcomers included.
        in_flight: how many boards may have an open offer at a time.
        tolerated: share of boards that may fail, 0 to 1.
        strict: the first failure in the canary halts.
        silence_s: seconds after the offer until a board without an outcome counts as silent; 0:
            silence does not count, nor does a rollback after which the board will try again.
        soak_s: seconds for which the confirmed share must last before the next wave.
        hours: minutes of the day (first, end) in which boards may be offered it; None: always.
        approval: each wave after the first waits for a person.
        wave: index of the highest open wave; the canary, if any, is wave 0.
        approved: index of the highest wave that a person has let pass.
        met_at: since when the open waves' confirmed share is reached (seconds since 1970).
        why: the rule that halted it, or the reason a person gave.
        accepted_bad, accepted: failures, and all outcomes, that a person accepted by resuming.
    """

    id: int
    digest: str
    state: State = "draft"
    canary: frozenset[str] = frozenset()
    waves: tuple[int, ...] = (100,)
    members: frozenset[str] | None = None
    in_flight: int = 10
    tolerated: float = TOLERATED
    strict: bool = False
    share: float = SHARE
    silence_s: int = SILENCE_S
    soak_s: int = SOAK_S
    hours: tuple[int, int] | None = None
    approval: bool = False
    wave: int = 0
    approved: int = 0
    met_at: float | None = None
    why: str = ""
    accepted_bad: int = 0
    accepted: int = 0

    @property
    def last_wave(self) -> int:
        """Index of the last wave."""
        return len(self.waves) - (0 if self.canary else 1)

    @property
    def in_canary(self) -> bool:
        """Whether the canary is the only open wave."""
        return bool(self.canary) and self.wave == 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Targets by state: a row that is kept, never counted anew for a poll."""

    offered: int = 0
    confirmed: int = 0
    failed: int = 0
    silent: int = 0
    void: int = 0

    @property
    def bad(self) -> int:
        """Failures, silence included."""
        return self.failed + self.silent

    @property
    def ended(self) -> int:
        """Boards of which the outcome is known; void ones say nothing."""
        return self.confirmed + self.bad

    def moved(self, old: TargetState | None, new: TargetState | None) -> Counts:
        """The counts after one target went from `old` to `new`; None: there is none."""
        change = {} if new is None else {new: getattr(self, new) + 1}
        if old is not None:
            change[old] = getattr(self, old) - 1
        return replace(self, **change)


@dataclass(slots=True)
class Live:
    """A rollout with its counts, as the storage has it now, and the boards it is for."""

    rollout: Rollout
    counts: Counts
    app: str
    cls: str
    channel: str

    @property
    def line(self) -> tuple[str, str, str]:
        """Rollouts of one line take each other's place."""
        return self.app, self.cls, self.channel


class Forbidden(Exception):
    """A rollout in this state cannot be brought to that one; args[0] says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a rollout needs to know of a board that asks.

    Attributes:
        target: the state of its target in this rollout; None: it was never offered it.
        runs: it runs this release and has confirmed it, or is above it.
        paused: people keep it as it is.
        failed_in_a_row: releases that it failed one after another, the newest ones.
    """

    id: str
    target: TargetState | None = None
    runs: bool = False
    paused: bool = False
    failed_in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """Name the release; `new`: a target is to be written first."""

    new: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a board is not offered it: a code for programs, a sentence for people."""

    why: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a poll reports of one target's release.

    Attributes:
        confirmed: the board runs it, confirmed.
        reason: reason code of a rejection of it; "" for none.
        soft: the board will try it again by itself.
        crashes: the confirmed release crashes.
    """

    confirmed: bool = False
    reason: str = ""
    soft: bool = False
    crashes: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a release goes out by default."""

    canary: int
    waves: tuple[int, ...]
    in_flight: int
    strict: bool
    silence_s: int = SILENCE_S


def plan(boards: int) -> Plan:
    """Defaults for a fleet of so many boards: three just get it, more see a canary first."""
    if boards <= WITHOUT_CANARY:
        # Silence ends no offer here: boards that died must not keep the slots of those to come.
        return Plan(0, (100,), BUCKETS, strict=True, silence_s=0)
    if boards < SMALL_FLEET:
        return Plan(1, (100,), max(1, boards // 4), strict=True)
    return Plan(max(5, boards // 50), WAVES, max(5, boards // 100), strict=False)


def bucket(rollout: int, board: str) -> int:
    """The board's place in this rollout's order, 0 to BUCKETS - 1."""
    digest = hashlib.sha256(f"{rollout}\0{board}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def lowest(rollout: int, boards: Sequence[str], n: int) -> frozenset[str]:
    """The n boards that come first: the canary of a rollout that names none."""
    return frozenset(sorted(boards, key=lambda board: (bucket(rollout, board), board))[:n])


def wave_of(rollout: Rollout, board: str) -> int | None:
    """The wave in which it is this board's turn; None: it is not selected."""
    if rollout.members is not None and board not in rollout.members | rollout.canary:
        return None
    if board in rollout.canary:
        return 0
    place = bucket(rollout.id, board)
    first = 1 if rollout.canary else 0
    for index, percent in enumerate(rollout.waves):
        if place < percent * BUCKETS // 100:
            return first + index
    return None


def decide(rollout: Rollout, counts: Counts, board: Candidate, minute: int) -> Offer | Wait:
    """Whether this board is offered the release now.

    Args:
        minute: of the day, in the zone that the rollout's hours are meant in.
    """
    obstacle = _obstacle(rollout, board)
    if obstacle:
        return obstacle
    if board.target == "offered":
        return Offer(new=False)
    turn = wave_of(rollout, board.id)
    if turn is None:
        return Wait("selection", "This rollout is not for this board.")
    if turn > rollout.wave:
        text = f"Its turn is wave {turn + 1} of {rollout.last_wave + 1}; {_open_wave(rollout)}"
        return Wait("wave", text)
    if not _within(rollout.hours, minute):
        return Wait("hours", f"Updates start only between {_clock(rollout.hours)}.")
    if counts.offered >= rollout.in_flight:
        return Wait("slots", f"At most {many(rollout.in_flight, 'board')} at a time may update.")
    return Offer(new=True)


def _obstacle(rollout: Rollout, board: Candidate) -> Wait | None:
    """What of the rollout's state or the board's own stands against any offer."""
    if rollout.state != "running":
        because = f": {rollout.why}" if rollout.why else ""
        return Wait(rollout.state, f"The rollout is {_STATE_WORDS[rollout.state]}{because}.")
    if board.runs:
        return Wait("runs", "It runs this release.")
    if board.paused:
        return Wait("board-paused", "The board is paused.")
    if board.target in ("failed", "silent"):
        return Wait("failed", "It failed this release; `mipy rollout retry` offers it again.")
    if board.target is not None and board.target != "offered":
        return Wait(board.target, "Its part in this rollout has ended.")
    if board.failed_in_a_row >= QUARANTINE_AFTER:
        text = f"It failed {board.failed_in_a_row} releases in a row and is left alone."
        return Wait("quarantine", text)
    return None


_STATE_WORDS: dict[State, str] = {
    "draft": "not started",
    "running": "running",
    "paused": "paused",
    "halted": "halted",
    "done": "done",
    "cancelled": "cancelled",
    "superseded": "superseded by a newer release",
}


def _open_wave(rollout: Rollout) -> str:
    if rollout.approval and rollout.approved <= rollout.wave and rollout.met_at is not None:
        return "the next one waits for approval."
    return f"wave {rollout.wave + 1} is under way."


def outcome(target: TargetState, verdict: Verdict) -> TargetState | None:
    """The state that a report takes a target to; None: it says nothing new.

    A report counts in whichever order it comes, and a repeated one changes nothing.
    """
    if target in ("void", "failed"):
        return None
    if verdict.crashes or _failed(verdict):
        return "failed"
    if verdict.confirmed and target != "confirmed":
        return "confirmed"
    return None


def _failed(verdict: Verdict) -> bool:
    if verdict.confirmed or verdict.reason in _NOT_ITS_FAULT:
        return False
    if verdict.reason in ROLLBACK_REASONS:
        return True
    return verdict.reason in RELEASE_REASONS and not verdict.soft


def overdue(rollout: Rollout, offered_at: float, interval: float, now: float) -> bool:
    """Whether a board with an open target has been silent for too long.

    Args:
        interval: seconds between the polls of this board; a sleeper's are hours.
    """
    return rollout.silence_s > 0 and now - offered_at > max(rollout.silence_s, 3 * interval)


def steered(rollout: Rollout, counts: Counts, state: State, why: str = "") -> Rollout:
    """The rollout after a person brought it to another state.

    Raises:
        Forbidden: that is not possible from where it is.
    """
    if state not in MOVES[rollout.state]:
        raise Forbidden(f"rollout {rollout.id} is {_STATE_WORDS[rollout.state]}")
    if rollout.state == "halted" and state == "running":
        rollout = replace(rollout, accepted_bad=counts.bad, accepted=counts.ended, met_at=None)
    return replace(rollout, state=state, why=why)


def halted(rollout: Rollout, counts: Counts) -> Rollout:
    """The rollout, halted if these counts break a rule; to be called at each change of them."""
    rule = halting_rule(rollout, counts) if rollout.state == "running" else ""
    return replace(rollout, state="halted", why=rule) if rule else rollout


def superseded(live: Live, others: Sequence[Live]) -> bool:
    """Whether a newer rollout to the same boards was started, and this one is not done."""
    return live.rollout.state not in ("draft", "done", "cancelled") and any(
        other.rollout.id > live.rollout.id
        and other.line == live.line
        and other.rollout.state not in ("draft", "cancelled")
        for other in others
    )


def needed(line: Sequence[Live]) -> list[Live]:
    """Those rollouts of one line that reports and the clock still look at.

    These are all that are not over, and of the others the newest that were not cancelled: as many
    as a board has targets. What came before those is superseded by them, for they stay as they are.
    """
    over = sorted(live.rollout.id for live in line if live.rollout.state in ("done", "superseded"))
    gone = frozenset(over[:-TARGETS_KEPT])
    return [
        live for live in line if live.rollout.state != "cancelled" and live.rollout.id not in gone
    ]


def tick(
    rollout: Rollout, counts: Counts, pending: int, waiting: int, now: float, absent: int = 0
) -> Rollout:
    """The rollout after the rules were applied to its counts; the same object if none applies.

    Call it after each change of the counts, and now and then for the soak.

    Args:
        pending: boards of the open waves that are there to take the release and were not offered
            it yet; who is offline or asleep for long is not counted.
        waiting: boards of all waves that could still get it, wherever they are.
        now: seconds since 1970.
        absent: boards of the open waves that could still get it, and are offline or asleep.
    """
    if rollout.state != "running":
        return rollout
    after = halted(rollout, counts)
    if after is not rollout:
        return after
    if rollout.wave == rollout.last_wave:
        if counts.offered == 0 and waiting == 0:
            return replace(rollout, state="done")
        return rollout
    if counts.ended + counts.offered + pending == 0:
        # Nobody of the open waves is there: wait for them, or go on where there is nobody at all.
        return rollout if absent else replace(rollout, wave=rollout.wave + 1)
    if counts.confirmed < _needed(rollout, counts, pending):
        if counts.offered == 0 and pending == 0:
            return replace(rollout, state="halted", why=_too_few(rollout, counts))
        return rollout if rollout.met_at is None else replace(rollout, met_at=None)
    if rollout.met_at is None:
        rollout = replace(rollout, met_at=now)
    return _next_wave(rollout, now)


def _needed(rollout: Rollout, counts: Counts, pending: int) -> int:
    """How many of the open waves' boards must have confirmed."""
    known = counts.ended - min(rollout.accepted_bad, counts.bad)
    return math.ceil(rollout.share * (known + counts.offered + pending))


def _too_few(rollout: Rollout, counts: Counts) -> str:
    needed = f"the next wave needs {_needed(rollout, counts, 0)}"
    return f"only {counts.confirmed} of {many(counts.ended, 'board')} confirmed it; {needed}"


def _next_wave(rollout: Rollout, now: float) -> Rollout:
    soaked = rollout.met_at is not None and now - rollout.met_at >= rollout.soak_s
    if not soaked or (rollout.approval and rollout.approved <= rollout.wave):
        return rollout
    return replace(rollout, wave=rollout.wave + 1, met_at=None)


def halting_rule(rollout: Rollout, counts: Counts) -> str:
    """The rule that these counts break, in a sentence; "" for none."""
    bad = max(0, counts.bad - rollout.accepted_bad)
    ended = max(bad, counts.ended - rollout.accepted)
    failed = f"{bad} of {many(ended, 'board')}"
    silent = f", {counts.silent} of them by silence" if counts.silent else ""
    if rollout.strict and rollout.in_canary and bad:
        return f"{failed} in the canary failed{silent}"
    if rollout.strict and not rollout.canary and bad:
        return f"{failed} failed{silent}"
    if bad < FAILURES_TO_HALT or chance(bad, ended, rollout.tolerated) >= SIGNIFICANCE:
        return ""
    tolerated = f"{rollout.tolerated:.0%} are tolerated"
    return f"{failed} failed{silent}; {tolerated}, chance does not explain it"


def chance(failures: int, boards: int, share: float) -> float:
    """The chance of so many failures or more when each board fails with probability `share`.

    The upper tail of the binomial distribution, exact but for rounding.
    """
    if failures <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    below = math.fsum(_binomial(k, boards, share) for k in range(min(failures, boards + 1)))
    return max(0.0, 1.0 - below)


def _binomial(k: int, n: int, share: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def _within(hours: tuple[int, int] | None, minute: int) -> bool:
    if hours is None:
        return True
    first, end = hours
    if first <= end:
        return first <= minute < end
    return minute >= first or minute < end  # over midnight


def _clock(hours: tuple[int, int] | None) -> str:
    return " and ".join(f"{at // 60:02}:{at % 60:02}" for at in hours or ())
