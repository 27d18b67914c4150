"""The rules of a rollout: tables, the invariants under every order of reports, simulated fleets."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.rollout import (
    Candidate,
    Counts,
    Offer,
    Rollout,
    TargetState,
    Verdict,
    Wait,
)
from tests.bench.rollouts import courses

RUNNING = Rollout(7, "d" * 64, "running", frozenset({"kitchen"}), (5, 25, 100), in_flight=2)
NOON = 12 * 60


def why(found: Offer | Wait) -> str:
    return found.why if isinstance(found, Wait) else "new" if found.new else "again"


@pytest.mark.parametrize(
    ("change", "counts", "board", "expected"),
    [
        ({}, {}, {"id": "kitchen"}, "new"),
        ({}, {}, {"id": "hall"}, "wave"),
        ({"wave": 3}, {}, {"id": "hall"}, "new"),
        ({}, {"offered": 2}, {"id": "kitchen"}, "slots"),
        ({}, {"offered": 2}, {"id": "kitchen", "target": "offered"}, "again"),
        ({"members": frozenset({"x"})}, {}, {"id": "kitchen"}, "new"),
        ({"members": frozenset({"x"}), "wave": 3}, {}, {"id": "hall"}, "selection"),
        ({}, {}, {"id": "kitchen", "runs": True}, "runs"),
        ({}, {}, {"id": "kitchen", "paused": True}, "board-paused"),
        ({}, {}, {"id": "kitchen", "paused": True, "target": "offered"}, "board-paused"),
        ({}, {}, {"id": "kitchen", "target": "failed"}, "failed"),
        ({}, {}, {"id": "kitchen", "target": "silent"}, "failed"),
        ({}, {}, {"id": "kitchen", "target": "confirmed"}, "confirmed"),
        ({}, {}, {"id": "kitchen", "target": "void"}, "void"),
        ({}, {}, {"id": "kitchen", "failed_in_a_row": 3}, "quarantine"),
        ({}, {}, {"id": "kitchen", "failed_in_a_row": 2}, "new"),
        ({"hours": (60, 300)}, {}, {"id": "kitchen"}, "hours"),
        ({"hours": (60, 300)}, {}, {"id": "kitchen", "target": "offered"}, "again"),
        ({"hours": (NOON, NOON + 1)}, {}, {"id": "kitchen"}, "new"),
        ({"hours": (NOON - 1, NOON)}, {}, {"id": "kitchen"}, "hours"),
        ({"hours": (23 * 60, NOON + 1)}, {}, {"id": "kitchen"}, "new"),
        ({"hours": (23 * 60, 60)}, {}, {"id": "kitchen"}, "hours"),
        *(
            ({"state": state}, {}, {"id": "kitchen", "target": "offered"}, state)
            for state in ("draft", "paused", "halted", "done", "cancelled", "superseded")
        ),
    ],
)
def test_who_gets_it_and_why_not(change, counts, board, expected: str) -> None:
    found = rules.decide(
        replace(RUNNING, **change), Counts(**counts), Candidate(**board), minute=NOON
    )
    assert why(found) == expected
    if isinstance(found, Wait):
        assert found.text[0].isupper() and found.text.endswith(".")


@pytest.mark.parametrize(
    ("old", "verdict", "new"),
    [
        ("offered", Verdict(), None),
        ("offered", Verdict(confirmed=True), "confirmed"),
        ("offered", Verdict(reason="exception"), "failed"),
        ("offered", Verdict(reason="timeout", soft=True), "failed"),  # it lost Wi-Fi or server
        ("offered", Verdict(reason="power", soft=True), None),
        ("offered", Verdict(reason="order"), None),
        ("offered", Verdict(reason="hash"), None),  # of the way: it tries again
        ("offered", Verdict(reason="class"), "failed"),
        ("offered", Verdict(reason="class", soft=True), None),
        ("silent", Verdict(), None),
        ("silent", Verdict(confirmed=True), "confirmed"),
        ("silent", Verdict(reason="watchdog"), "failed"),
        ("confirmed", Verdict(confirmed=True), None),
        ("confirmed", Verdict(confirmed=True, crashes=True), "failed"),
        ("confirmed", Verdict(reason="crashes"), "failed"),
        ("failed", Verdict(confirmed=True), None),
        ("failed", Verdict(reason="exception"), None),
        ("void", Verdict(confirmed=True), None),
        ("void", Verdict(reason="exception"), None),
    ],
)
def test_what_a_report_makes_of_a_target(
    old: TargetState, verdict: Verdict, new: TargetState | None
) -> None:
    assert rules.outcome(old, verdict) == new


def test_chance_is_the_binomial_tail() -> None:
    for boards in (1, 2, 5, 10, 30, 100):
        for failures in range(boards + 2):
            share = Fraction(1, 20)
            exact = sum(
                comb(boards, k) * share**k * (1 - share) ** (boards - k)
                for k in range(failures, boards + 1)
            )
            assert rules.chance(failures, boards, 0.05) == pytest.approx(float(exact), abs=1e-9)
    assert rules.chance(3, 10, 0.0) == 0.0 and rules.chance(0, 10, 0.0) == 1.0
    assert rules.chance(1, 10, 1.0) == 1.0


@pytest.mark.parametrize(
    ("counts", "halts"),
    [
        ({"failed": 1}, False),
        ({"failed": 1, "confirmed": 40}, False),
        ({"failed": 2, "confirmed": 2}, True),  # 2 of 4: 1.4 %
        ({"failed": 2, "confirmed": 3}, False),  # 2 of 5: 2.3 %
        ({"silent": 2, "confirmed": 2}, True),
        ({"failed": 1, "silent": 1, "confirmed": 2}, True),
        ({"failed": 3, "confirmed": 8}, True),  # 3 of 11: 1.5 %
        ({"failed": 3, "confirmed": 10}, False),  # 3 of 13: 2.5 %
        ({"failed": 2, "confirmed": 2, "void": 90}, True),
        ({"failed": 5, "confirmed": 95}, False),
    ],
)
def test_when_chance_does_not_explain_it(counts, halts: bool) -> None:
    found = rules.tick(RUNNING, Counts(**counts), 50, 50, 0.0)
    assert (found.state == "halted") is halts
    assert bool(found.why) is halts


def test_a_strict_canary_halts_at_its_first_failure() -> None:
    strict = replace(RUNNING, strict=True)
    one = Counts(failed=1)
    assert rules.tick(strict, one, 0, 9, 0.0).why == "1 of 1 board in the canary failed"
    silent = rules.tick(strict, Counts(silent=1), 0, 9, 0.0)
    assert silent.why == "1 of 1 board in the canary failed, 1 of them by silence"
    assert rules.tick(replace(strict, wave=1), one, 5, 9, 0.0).state == "running"


def test_the_next_wave_waits_for_the_confirmed_share_and_its_soak() -> None:
    now, waves = 1000.0, RUNNING
    waves = rules.tick(waves, Counts(offered=2, confirmed=7), 1, 90, now)
    assert (waves.wave, waves.met_at) == (0, None)
    waves = rules.tick(waves, Counts(offered=1, confirmed=8), 1, 90, now)
    assert (waves.wave, waves.met_at) == (0, now)
    waves = rules.tick(waves, Counts(offered=1, confirmed=8), 1, 90, now + 599)
    assert waves.wave == 0
    # A board that crashes meanwhile starts the soak anew.
    waves = rules.tick(waves, Counts(offered=1, confirmed=7, failed=1), 1, 90, now + 600)
    assert (waves.wave, waves.met_at, waves.state) == (0, None, "running")
    waves = rules.tick(waves, Counts(offered=0, confirmed=9, failed=1), 0, 90, now + 700)
    waves = rules.tick(waves, Counts(offered=0, confirmed=9, failed=1), 0, 90, now + 1300)
    assert (waves.wave, waves.met_at) == (1, None)


def test_a_wave_without_enough_confirmed_boards_halts() -> None:
    careful = replace(RUNNING, share=0.95)
    found = rules.tick(careful, Counts(confirmed=10, failed=1), 0, 90, 0.0)
    assert found.state == "halted"
    assert found.why == "only 10 of 11 boards confirmed it; the next wave needs 11"


def test_another_person_lets_a_wave_pass() -> None:
    asked = replace(RUNNING, approval=True, soak_s=0)
    asked = rules.tick(asked, Counts(confirmed=1), 0, 9, 5.0)
    assert (asked.wave, asked.met_at) == (0, 5.0)
    wait = rules.decide(asked, Counts(confirmed=1), Candidate("hall"), NOON)
    assert isinstance(wait, Wait) and "waits for approval" in wait.text
    asked = rules.tick(replace(asked, approved=1), Counts(confirmed=1), 0, 9, 6.0)
    assert asked.wave == 1


def test_it_is_done_when_nobody_is_left() -> None:
    last = replace(RUNNING, wave=3)
    assert rules.tick(last, Counts(confirmed=9, offered=1), 0, 0, 0.0).state == "running"
    assert rules.tick(last, Counts(confirmed=9), 0, 1, 0.0).state == "running"
    assert rules.tick(last, Counts(confirmed=9, failed=1), 0, 0, 0.0).state == "done"


def test_a_sleeper_is_given_three_of_its_intervals() -> None:
    assert rules.overdue(RUNNING, 0.0, 300, 3601)
    assert not rules.overdue(RUNNING, 0.0, 300, 3600)
    assert not rules.overdue(RUNNING, 0.0, 7200, 21600)
    assert rules.overdue(RUNNING, 0.0, 7200, 21601)


def test_places_are_even_and_waves_only_grow() -> None:
    boards = [f"b{n}" for n in range(4000)]
    waves = [rules.wave_of(RUNNING, board) for board in boards]
    assert [waves.count(n) / len(boards) for n in (1, 2, 3)] == pytest.approx(
        [0.05, 0.20, 0.75], abs=0.02
    )
    assert rules.wave_of(RUNNING, "kitchen") == 0
    # The order of the next rollout is another one: nobody is first for ever.
    first = rules.lowest(1, boards, 40)
    assert len(first) == 40 and len(first & rules.lowest(2, boards, 40)) < 5
    assert first < rules.lowest(1, boards, 41)


@pytest.mark.parametrize("boards", [1, 3, 4, 19, 20, 100, 1000, 10_000])
def test_plans_are_sound(boards: int) -> None:
    plan = rules.plan(boards)
    assert plan.waves[-1] == 100 and list(plan.waves) == sorted(set(plan.waves))
    # Where silence does not end an offer, a slot could be lost for good: there is no bound.
    assert 1 <= plan.in_flight <= (max(5, boards // 100) if plan.silence_s else rules.BUCKETS)
    assert plan.canary < boards
    assert (plan.canary == 0) == (boards <= 3)
    assert plan.strict == (boards < 20)


BOARDS = [f"b{n}" for n in range(12)]


class Fleet(RuleBasedStateMachine):
    """One rollout among twelve boards whose reports come late, twice, never, or are lies."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout = Rollout(
            1, "d" * 64, "running", rules.lowest(1, BOARDS, 2), (50, 100), in_flight=3, soak_s=60
        )
        self.counts = Counts()
        self.targets: dict[str, TargetState] = {}
        self.offered_at: dict[str, float] = {}
        self.away: set[str] = set()
        self.now = 0.0
        self.told = 0
        self.bound = 0  # how many may have been told at most since the last halt

    # --- what the storage does

    def move(self, board: str, new: TargetState) -> None:
        self.counts = self.counts.moved(self.targets.get(board), new)
        self.targets[board] = new

    def tick(self) -> None:
        left = [board for board in BOARDS if board not in self.targets]
        there = [board for board in left if board not in self.away]
        turns = {board: rules.wave_of(self.rollout, board) or 0 for board in left}
        pending = sum(turns[board] <= self.rollout.wave for board in there)
        absent = sum(turn <= self.rollout.wave for turn in turns.values()) - pending
        population = self.counts.ended + self.counts.offered + pending
        before = self.rollout
        self.rollout = rules.tick(before, self.counts, pending, len(left), self.now, absent)
        if self.rollout.state != before.state:
            assert self.rollout.state in rules.MOVES[before.state]
        if self.rollout.wave > before.wave:
            assert self.rollout.wave == before.wave + 1
            assert population or not absent, "a wave passed that nobody has confirmed"
        if self.rollout.wave > before.wave and population:
            assert self.counts.confirmed >= before.share * population
            assert before.met_at is not None and self.now - before.met_at >= before.soak_s
        if self.rollout.state == "halted" != before.state:
            self.bound = self.counts.ended + self.rollout.in_flight

    # --- what may happen

    @rule(paused=st.sets(st.sampled_from(BOARDS), max_size=2))
    def everybody_polls(self, paused: set[str]) -> None:
        for board in BOARDS:
            self.poll(board, board in paused)

    def poll(self, board: str, paused: bool) -> None:
        candidate = Candidate(board, self.targets.get(board), paused=paused)
        found = rules.decide(self.rollout, self.counts, candidate, 0)
        if isinstance(found, Wait):
            return
        assert self.rollout.state == "running" and not paused
        assert found.new == (board not in self.targets)
        turn = rules.wave_of(self.rollout, board)
        assert turn is not None and turn <= self.rollout.wave
        if found.new:
            self.told += 1
            self.offered_at[board] = self.now
            self.move(board, "offered")

    @precondition(lambda self: self.counts.offered)
    @rule(place=st.integers(0, 2), reason=st.sampled_from(["", "", "", "exception"]))
    def an_updating_board_reports(self, place: int, reason: str) -> None:
        updating = sorted(board for board, state in self.targets.items() if state == "offered")
        self.report(updating[place % len(updating)], reason, False, 1)

    @rule(
        board=st.sampled_from(BOARDS),
        reason=st.sampled_from(["", "", "", "exception", "timeout", "power", "hash", "class"]),
        crashes=st.booleans(),
        again=st.integers(1, 3),
    )
    def any_board_reports(self, board: str, reason: str, crashes: bool, again: int) -> None:
        self.report(board, reason, crashes, again)

    def report(self, board: str, reason: str, crashes: bool, again: int) -> None:
        verdict = Verdict(not reason, reason, crashes=crashes and not reason)
        for _ in range(again):
            before = self.counts
            old = self.targets.get(board)
            new = rules.outcome(old, verdict) if old else None
            if new:
                self.move(board, new)
                assert rules.outcome(new, verdict) is None, "a repeated report changes nothing"
                assert (old, new) in {
                    ("offered", "confirmed"),
                    ("offered", "failed"),
                    ("silent", "confirmed"),
                    ("silent", "failed"),
                    ("confirmed", "failed"),
                }
                self.tick()
            else:
                assert self.counts == before

    @rule(board=st.sampled_from(BOARDS))
    def replaced(self, board: str) -> None:
        """Re-flashed, retired or given another app: the target says nothing any more."""
        if self.targets.get(board) == "offered":
            self.move(board, "void")
            self.tick()

    @rule(board=st.sampled_from(BOARDS))
    def goes(self, board: str) -> None:
        self.away ^= {board}
        self.tick()

    @rule(seconds=st.sampled_from([1, 60, 3601]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for board, at in self.offered_at.items():
            late = rules.overdue(self.rollout, at, 300, self.now)
            if self.targets[board] == "offered" and late:
                self.move(board, "silent")
        self.tick()

    @precondition(lambda self: self.rollout.state in ("paused", "halted"))
    @rule()
    def a_person_resumes(self) -> None:
        self.rollout = replace(self.rollout, state="running", why="")
        self.tick()

    @precondition(lambda self: self.rollout.state == "running")
    @rule()
    def a_person_pauses(self) -> None:
        self.rollout = replace(self.rollout, state="paused", why="lunch")

    # --- what must hold, always

    @invariant()
    def counts_are_those_of_the_targets(self) -> None:
        kept = list(self.targets.values())
        assert self.counts == Counts(**{state: kept.count(state) for state in set(kept)})

    @invariant()
    def never_more_in_flight_than_allowed(self) -> None:
        assert self.counts.offered <= self.rollout.in_flight

    @invariant()
    def nobody_is_reached_after_a_halt(self) -> None:
        if self.rollout.state == "halted":
            assert self.told - self.counts.void <= self.bound

    @invariant()
    def a_halt_has_a_reason(self) -> None:
        assert self.rollout.state != "halted" or self.rollout.why


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_simulated_fleets() -> None:
    """A sample of `python -m tests.bench.rollouts`, with the same seeds each time."""
    good = courses(1000, 0.02, 30)
    assert [one.state for one in good].count("halted") <= 1
    for bad, silent in ((0.10, False), (0.30, False), (0.30, True), (1.0, True)):
        for one in courses(1000, bad, 15, silent):
            assert one.state == "halted", (bad, silent)
            assert one.most_in_flight <= 10
            assert one.touched == one.at_halt, "offered after the halt"
            if bad == 0.30 and not silent:
                assert one.touched <= 50
    for boards, most in ((5, 1), (19, 1), (50, 5)):
        assert all(one.touched <= most for one in courses(boards, 1.0, 10))
