"""The demo tells what happened, so what it tells is a test of the whole."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mipy_ota.tools.console import Failure
from mipy_ota.tools.sim import demo

STEPS = ["first start", "update", "bad release", "fixed release", "power cut", "re-issue"]


@pytest.fixture(scope="module")
def told() -> tuple[demo.Story, str]:
    """The demo played once, and what was printed."""
    out = io.StringIO()
    story = demo.run(demo.Teller(Console(file=out, width=100)))
    return story, out.getvalue()


Told = tuple[demo.Story, str]


def test_every_step_happened(told: Told) -> None:
    story, _ = told
    assert [step.name for step in story.steps] == STEPS
    assert story.running == "release 2 again"
    assert all(step.boots and step.operations and step.received for step in story.steps)


def test_the_bad_release_had_three_tries_and_says_why(told: Told) -> None:
    story, text = told
    assert story.rejected["tries"] == demo.TRIES
    assert story.rejected["reason"] == "exception"
    assert not story.rejected["soft"]
    assert '/main.py", line ' in story.rejected["trace"]
    assert 'runtime.loop", line ' in story.rejected["trace"]
    assert "'evry'" in text


def test_a_later_good_release_leaves_the_reason_as_it_was(told: Told) -> None:
    story, _ = told
    assert story.last["reason"] == "exception"
    assert story.last["confirmed"] == story.last["digest"]


def test_a_power_cut_leaves_one_slot_whole_and_the_other_unbootable(told: Told) -> None:
    story, _ = told
    assert story.cut["finished"] < story.cut["files"]
    assert not story.cut["bootable"]


def test_it_fits_the_heap(told: Told) -> None:
    story, _ = told
    assert 0 < story.peak <= story.heap


def test_no_codes_for_terminals_in_a_pipe(told: Told) -> None:
    assert "\x1b" not in told[1]
    assert "\r" not in told[1]


def test_what_does_not_come_in_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 0.0)
    before = dict(os.environ)
    with pytest.raises(Failure, match="has not started release 1 within 0 seconds"):
        demo.run(demo.Teller(Console(file=io.StringIO())))
    assert dict(os.environ) == before


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mipy_ota.tools.sim.demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdout and process.stderr
    for line in process.stdout:
        if line.startswith("2."):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing is left running" in said
    assert list(tmp_path.iterdir()) == []
