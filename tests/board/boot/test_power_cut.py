"""Power cuts: a sample of every scenario, and the mistakes that they must find (powercut.py).

`make sweep` cuts at every flash operation. POWERCUT_SEED chooses another sample.
"""

from __future__ import annotations

import os

import pytest

from tests.support import mutants, powercut
from tests.support.powercut import IN_PLACE, STORAGES, Job

SEED = int(os.environ.get("POWERCUT_SEED", "1"))
SAMPLE = 3
"""Cuts in each scenario on each storage."""
IN_PLACE_SAMPLE = 1
RANDOM_LIVES = 8
ROTTEN = ("record rots at byte 8", "record rots at byte 70")


def _sample() -> list[Job]:
    jobs = [
        Job(name, storage, sample=IN_PLACE_SAMPLE if storage in IN_PLACE else SAMPLE, seed=SEED)
        for n, name in enumerate(powercut.names())
        if powercut.scenario(name).cut
        for storage in powercut.storages(name)
        # In one of the two map modes, in turn.
        if storage not in IN_PLACE or storage is IN_PLACE[(n + SEED) % 2]
    ]
    jobs += [Job(name, "littlefs") for name in (*ROTTEN, "installer that errs")]
    return jobs + powercut.random_jobs(range(1000 * SEED, 1000 * SEED + RANDOM_LIVES))


@pytest.mark.timeout(900)
def test_a_cut_anywhere_loses_no_board(capsys: pytest.CaptureFixture[str]) -> None:
    rows = powercut.collect(powercut.run(_sample()))
    with capsys.disabled():
        print(f"\nseed {SEED}\n{powercut.table(rows)}")
    assert [failure for tally in rows.values() for failure in tally.failures] == []
    struck = sum(tally.clean + tally.torn for tally in rows.values())
    missed = sum(tally.missed for tally in rows.values())
    assert missed * 10 < struck


def test_a_normal_boot_writes_nothing() -> None:
    for storage in STORAGES:
        with powercut.Bench(powercut.scenario("normal boot"), storage) as bench:
            assert set(bench.course()) == {0}


@pytest.mark.timeout(600)
def test_each_mutant_is_killed_by_the_invariant_it_breaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = {
        Job(m.scenario, m.storage, sample=400, edits=m.edits, first=True): m
        for m in reversed(mutants.MUTANTS)  # those that take the most runs stand last
    }
    found = {}
    for job, tally in powercut.run(list(jobs)):
        found[jobs[job].name] = [invariant for invariant, _ in tally.failures], tally.runs
    with capsys.disabled():
        print(f"\n{'mutant':63}{'killed by':12}{'runs':>5}")
        for name, (broken, runs) in found.items():
            print(f"{name:63}{', '.join(broken) or 'nobody':12}{runs:5}")
    for mutant in mutants.MUTANTS:
        broken = found[mutant.name][0]
        assert broken and set(broken) <= set(mutant.breaks), (mutant.name, broken)
