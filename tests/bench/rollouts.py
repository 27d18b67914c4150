"""How rollouts end that are watched by the shipped rules: `python -m tests.bench.rollouts`.

A fleet of simulated boards: each is offered the release when it polls, and confirms it, goes back,
or is never heard of again. What is simulated is the fleet; the rules are ota_server/rollout.py.
"""

from __future__ import annotations

import heapq
import random
import statistics
import sys
from dataclasses import dataclass, replace

from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.rollout import Candidate, Counts, Offer, Rollout, TargetState, Verdict

POLL_S = 300
INSTALL_S = (60, 400)
"""Until a board that took the release is heard of again."""


@dataclass
class Course:
    """How one rollout went: its end, the boards it touched, and those when it halted."""

    state: str
    touched: int
    at_halt: int
    open_at_halt: int
    most_in_flight: int
    hours: float
    why: str


class Fleet:
    """Boards of which a share is bad, and one rollout among them."""

    def __init__(self, boards: int, bad: float, silent: bool, seed: int) -> None:
        self.chance = random.Random(seed)
        names = [f"b{n}" for n in range(boards)]
        plan = rules.plan(boards)
        self.rollout = Rollout(
            id=seed,
            digest="",
            state="running",
            canary=rules.lowest(seed, names, plan.canary),
            waves=plan.waves,
            in_flight=plan.in_flight,
            strict=plan.strict,
        )
        self.bad = {name for name in names if self.chance.random() < bad}
        self.silent = silent
        self.counts = Counts()
        self.now = 0.0
        self.targets: dict[str, TargetState] = {}
        self.ends: list[tuple[float, str]] = []
        self.most = 0
        self.by_wave: list[list[str]] = [[] for _ in range(self.rollout.last_wave + 1)]
        for name in names:
            self.by_wave[rules.wave_of(self.rollout, name) or 0].append(name)
        self.ready: list[str] = []
        self.opened = -1

    def run(self) -> Course:
        """Until the rollout ends, or nothing more can happen."""
        halted: Course | None = None
        while True:
            self._open()
            self._offer()
            if not self.ends:
                if self.rollout.state != "running" or not self._soak():
                    break
                continue
            self.now, name = heapq.heappop(self.ends)
            self._end(name)
            if self.rollout.state == "halted" and halted is None:
                halted = self._course()
        end = self._course()
        if halted:
            end = replace(end, at_halt=halted.touched, open_at_halt=halted.open_at_halt)
        return end

    def _course(self) -> Course:
        touched, still_open = len(self.targets), self.counts.offered
        state, why = self.rollout.state, self.rollout.why
        return Course(state, touched, touched, still_open, self.most, self.now / 3600, why)

    def _open(self) -> None:
        while self.opened < self.rollout.wave:
            self.opened += 1
            self.ready += self.by_wave[self.opened]

    def _offer(self) -> None:
        """Boards poll in random order; each asks the rules."""
        while self.ready and self.rollout.state == "running":
            at = self.chance.randrange(len(self.ready))
            name = self.ready[at]
            if not isinstance(rules.decide(self.rollout, self.counts, Candidate(name), 0), Offer):
                return
            self.ready[at] = self.ready[-1]
            self.ready.pop()
            polled = self.now + self.chance.random() * POLL_S
            wait = rules.SILENCE_S if self._mute(name) else self.chance.uniform(*INSTALL_S)
            heapq.heappush(self.ends, (polled + wait, name))
            self._move(name, "offered")
            self.most = max(self.most, self.counts.offered)

    def _mute(self, name: str) -> bool:
        return self.silent and name in self.bad

    def _end(self, name: str) -> None:
        if self._mute(name):
            self._move(name, "silent")
        else:
            verdict = Verdict(reason="exception") if name in self.bad else Verdict(confirmed=True)
            new = rules.outcome(self.targets[name], verdict)
            assert new
            self._move(name, new)
        self._tick()

    def _soak(self) -> bool:
        """Let the soak time pass; whether anything can still happen."""
        self.now += self.rollout.soak_s + 1
        before = self.rollout
        self._tick()
        return self.rollout != before

    def _tick(self) -> None:
        closed = sum(map(len, self.by_wave[self.opened + 1 :]))
        pending = len(self.ready)
        self.rollout = rules.tick(self.rollout, self.counts, pending, pending + closed, self.now)

    def _move(self, name: str, new: TargetState) -> None:
        self.counts = self.counts.moved(self.targets.get(name), new)
        self.targets[name] = new


def courses(boards: int, bad: float, runs: int, silent: bool = False) -> list[Course]:
    """How `runs` rollouts of a release go that fails on a share `bad` of the boards."""
    return [Fleet(boards, bad, silent, seed).run() for seed in range(1, runs + 1)]


def row(name: str, found: list[Course], boards: int) -> str:
    """A line of the table."""
    halted = [one for one in found if one.state == "halted"]
    touched = sorted(one.touched for one in halted)
    p99 = touched[min(len(touched) - 1, int(len(touched) * 0.99))] if touched else 0
    over = max((one.touched - one.at_halt for one in halted), default=0)
    open_then = max((one.open_at_halt for one in halted), default=0)
    done = [one.hours for one in found if one.state == "done"]
    hours = f"{statistics.median(done):.1f} h" if done else "-"
    median = f"{statistics.median(touched):.0f} / {p99}" if touched else "-"
    return (
        f"{boards:>6} boards, {name:<22} halted {len(halted) / len(found):>6.1%}   touched, median"
        f" / p99 {median:<12} open at the halt <= {open_then}, offers after it {over}   done in"
        f" {hours}"
    )


def main() -> None:
    """Print the table: `python -m tests.bench.rollouts [RUNS]`."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{runs} runs each; tolerated failures {rules.TOLERATED:.0%}")
    for bad in (0.0, 0.02, 0.05, 0.10, 0.30, 1.0):
        print(row(f"{bad:.0%} bad", courses(1000, bad, runs), 1000), flush=True)
    for bad in (0.10, 0.30, 1.0):
        found = courses(1000, bad, runs, silent=True)
        print(row(f"{bad:.0%} fall silent", found, 1000), flush=True)
    for boards in (5, 12, 50):
        print(row("100% bad", courses(boards, 1.0, runs), boards), flush=True)
    for bad in (0.0, 0.02, 0.30):
        found = courses(10_000, bad, max(1, runs // 40))
        print(row(f"{bad:.0%} bad", found, 10_000), flush=True)


if __name__ == "__main__":
    main()
