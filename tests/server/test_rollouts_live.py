"""Rollouts at the running server: who is offered what, what halts them, and what people can do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server.rollout import Rollout
from mipy_ota.ota_server.storage import rollout_clock
from mipy_ota.tools.fleet.serve import running
from tests.server.test_people import added, call
from tests.server.test_server import SEQ
from tests.support.broker import wait
from tests.support.fake_board import FakeBoard
from tests.support.live_fleet import TRACE, Fleet


def test_three_boards_just_get_it(data: Path) -> None:
    with running(data, interval=2) as server:
        fleet = Fleet(server, 3)
        rollout = fleet.publish()
        assert (rollout["canary"], rollout["waves"], rollout["silence_s"]) == ([], [100], 0)
        digest = rollout["digest"]
        assert fleet.offered() == dict.fromkeys(fleet.boards, digest)
        # What the board will try again by itself is left to it.
        assert fleet.fail("b0", digest, soft=1, why="timeout")["m"] == digest
        for name in fleet.boards:
            fleet.confirm(name, digest)
        fleet.tick()
        assert fleet.state(rollout["id"]) == "done"
        # Whoever comes later gets it too.
        late = FakeBoard(server.url, id="late")
        fleet.owner.enrol(late.file())
        assert late.boot()["m"] == digest
        for board in (late, *fleet.boards.values()):
            board.close()


def test_boards_that_died_keep_no_slot_of_those_to_come(data: Path) -> None:
    """A fleet of one whose board never reports again: the boards after it get the release."""
    with running(data, interval=2) as server:
        fleet = Fleet(server, 1)
        digest = fleet.publish()["digest"]
        for n in range(1, 6):
            late = FakeBoard(server.url, id=f"late{n}")
            fleet.owner.enrol(late.file())
            assert late.boot()["m"] == digest
            late.close()  # it was offered the release, and is never heard of again
        fleet.boards["b0"].close()


def test_a_rollout_that_fails_stops_no_other_ones_clock(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in one is told once; the other goes on to its end, by the server's own clock."""
    real = rollout_clock.rules.tick

    def tick(rollout: Rollout, *args: Any) -> Rollout:
        if rollout.id == 1:
            raise ZeroDivisionError
        return real(rollout, *args)

    monkeypatch.setattr(rollout_clock.rules, "tick", tick)
    monkeypatch.setattr(rollout_clock, "TICK_SECONDS", 0.01)
    with running(data, interval=2) as server:
        fleet = Fleet(server, 1)
        first = fleet.publish(channel="beta")
        second = fleet.publish(SEQ + 1)
        assert first["id"] == 1
        fleet.offered()
        fleet.confirm("b0", second["digest"], SEQ + 1)
        assert wait(lambda: fleet.state(second["id"]) == "done")
        assert caplog.text.count("rollout 1 has no clock") == 1
        fleet.boards["b0"].close()


def test_failure_in_the_canary_halts_and_nobody_else_is_reached(five: Fleet) -> None:
    rollout = five.publish()
    number, digest = rollout["id"], rollout["digest"]
    (first,) = rollout["canary"]
    assert five.offered() == {first: digest}
    assert five.offered() == {first: digest}
    assert "m" not in five.fail(first, digest)
    shown = five.owner.rollout(number)
    assert shown["state"] == "halted"
    assert shown["why"] == "1 of 1 board in the canary failed"
    assert shown["counts"] == {"offered": 0, "confirmed": 0, "failed": 1, "silent": 0, "void": 0}
    (failed,) = shown["boards"]
    assert (failed["board"], failed["reason"], failed["trace"]) == (first, "exception", TRACE)
    assert {one["why"] for one in shown["waiting"]} == {"halted"}
    assert five.offered() == {}
    five.tick(later=10_000)
    assert five.offered() == {} and five.state(number) == "halted"


def test_next_wave_opens_when_the_canary_has_confirmed_and_lasted(five: Fleet) -> None:
    rollout = five.publish(soak_s=60)
    number, digest = rollout["id"], rollout["digest"]
    (first,) = rollout["canary"]
    assert five.offered() == {first: digest}
    five.confirm(first, digest)
    five.tick()
    assert five.offered() == {}
    assert {one["why"] for one in five.owner.rollout(number)["waiting"]} == {"wave"}
    five.tick(later=61)
    # One at a time, in a fleet of five.
    second = five.offered()
    assert len(second) == 1 and set(second.values()) == {digest} and first not in second
    assert five.owner.rollout(number)["counts"]["offered"] == 1
    five.confirm(*second.popitem())
    assert len(five.offered()) == 1


def test_silence_is_a_failure_and_a_late_report_corrects_it(five: Fleet) -> None:
    rollout = five.publish(canary=["b2"])
    number, digest = rollout["id"], rollout["digest"]
    assert five.offered() == {"b2": digest}
    five.tick(later=3599)
    assert five.state(number) == "running"
    five.tick(later=3700)
    shown = five.owner.rollout(number)
    assert (shown["state"], shown["counts"]["silent"]) == ("halted", 1)
    assert "by silence" in shown["why"]
    five.confirm("b2", digest)
    shown = five.owner.rollout(number)
    assert (shown["state"], shown["counts"]["confirmed"]) == ("halted", 1)


def test_silent_board_is_offered_it_again_at_its_next_poll(five: Fleet) -> None:
    """Although it says what it said before, to which the answer was nothing."""
    rollout = five.publish(canary=["b1", "b3"], strict=False, soak_s=0)
    number, digest = rollout["id"], rollout["digest"]
    board = five.boards["b1"]
    assert board.poll()["m"] == digest
    five.tick(later=3700)
    assert five.owner.rollout(number)["counts"]["silent"] == 1
    assert ["m" in board.poll() for _ in range(3)] == [False] * 3
    five.owner.steer_rollout(number, "retry", board="b1")
    assert board.poll()["m"] == digest


def test_person_pauses_resumes_and_retries(five: Fleet) -> None:
    rollout = five.publish(canary=["b1", "b3"], strict=False, soak_s=0)
    number, digest = rollout["id"], rollout["digest"]
    five.owner.steer_rollout(number, "pause", reason="lunch")
    assert five.offered() == {}
    assert "lunch" in five.owner.rollout(number)["waiting"][0]["text"]
    five.owner.steer_rollout(number, "resume")
    assert len(five.offered()) == 1  # one at a time in so small a fleet
    failed = next(iter(five.offered()))
    five.fail(failed, digest)
    assert five.state(number) == "running"
    assert five.owner.board(failed)["orders"] == []
    five.owner.steer_rollout(number, "retry")
    assert five.owner.rollout(number)["counts"]["failed"] == 0
    assert five.boards[failed].poll()["do"] == [f"retry {digest[:32]}"]
    offered = five.offered()  # the order is done, and it is offered again if the slot is free
    assert len(offered) == 1
    five.owner.steer_rollout(number, "cancel")
    assert five.offered() == {} and five.state(number) == "cancelled"
    actions = [row["action"] for row in five.owner.audit()]
    assert actions[:4] == ["cancel rollout", "retry rollout", "resume rollout", "pause rollout"]


def test_who_resumes_accepts_the_failures_so_far(five: Fleet) -> None:
    rollout = five.publish(canary=["b0"], soak_s=0)
    number, digest = rollout["id"], rollout["digest"]
    five.offered()
    five.fail("b0", digest)
    assert five.state(number) == "halted"
    five.owner.steer_rollout(number, "resume")
    five.tick()
    five.tick(later=1)
    assert five.state(number) == "running"
    assert len(five.offered()) == 1


def test_retry_of_the_board_that_halted_it_lets_it_go_on(five: Fleet) -> None:
    rollout = five.publish(canary=["b0"])
    digest = rollout["digest"]
    five.offered()
    five.fail("b0", digest)
    five.owner.order("b0", f"retry {digest[:32]}")
    assert five.state(rollout["id"]) == "running"
    five.boards["b0"].poll()
    assert five.boards["b0"].poll()["m"] == digest


def test_newer_release_takes_the_place_of_a_halted_one(five: Fleet) -> None:
    first = five.publish(canary=["b0"])
    five.offered()
    five.fail("b0", first["digest"])
    second = five.publish(SEQ + 1, canary=["b1"])
    assert five.offered() == {"b1": second["digest"]}
    five.tick()
    assert five.state(first["id"]) == "superseded"
    refused = call(
        five.server, five.server.token, "POST", f"/api/v1/rollouts/{first['id']}", action="resume"
    )
    assert (refused.status_code, refused.json()["error"]) == (409, "state")


def test_crash_of_the_confirmed_app_fails_its_target(five: Fleet) -> None:
    rollout = five.publish(canary=["b0"])
    digest = rollout["digest"]
    five.offered()
    five.confirm("b0", digest)
    board = five.boards["b0"]
    board.boot(life="0123456789abcdef", crash={"n": 1, "trace": TRACE})
    shown = five.owner.rollout(rollout["id"])
    assert (shown["state"], shown["boards"][0]["trace"]) == ("halted", TRACE)


def test_restart_keeps_who_was_offered_what(data: Path) -> None:
    with running(data, interval=2) as server:
        fleet = Fleet(server, 5)
        rollout = fleet.publish(canary=["b2"])
        assert fleet.offered() == {"b2": rollout["digest"]}
        for board in fleet.boards.values():
            board.close()
        keys = {name: board.key for name, board in fleet.boards.items()}
    with running(data, interval=2) as server:
        boards = {n: FakeBoard(server.url, id=n, key=keys[n]) for n in ("b1", "b2")}
        assert "m" not in boards["b1"].boot()
        assert boards["b2"].boot()["m"] == rollout["digest"]
        for board in boards.values():
            board.close()


def test_flashed_again_board_frees_its_slot(five: Fleet) -> None:
    rollout = five.publish(canary=["b2"])
    five.offered()
    five.owner.enrol(five.boards["b2"].file())
    five.tick()
    counts = five.owner.rollout(rollout["id"])["counts"]
    assert (counts["offered"], counts["void"]) == (0, 1)


def test_rehearsal_starts_nothing_and_roles_count(five: Fleet) -> None:
    rollout = five.publish(draft=True)
    digest, number = rollout["digest"], rollout["id"]
    assert five.offered() == {} and rollout["state"] == "draft"
    told = five.owner.start_rollout(digest, rehearse=True, canary=["b4"], waves=[50, 100])
    waves = {one["id"]: one["wave"] for one in told["waiting"]}
    assert (waves["b4"], len(waves)) == (0, 5)
    assert len(five.owner.rollouts()) == 1
    token = added(five.server, "anna", "publish")["token"]
    path = f"/api/v1/rollouts/{number}"
    refused = call(five.server, token, "POST", path, action="start")
    assert (refused.status_code, refused.json()["error"]) == (403, "role")
    assert call(five.server, token, "GET", path).ok
    five.owner.steer_rollout(number, "start")
    assert len(five.offered()) == 1
    for wrong in ({"waves": [50, 20, 100]}, {"waves": [50]}, {"canary": ["nobody"]}, {"hours": 1}):
        answer = call(
            five.server, five.server.token, "POST", "/api/v1/rollouts", digest=digest, **wrong
        )
        assert answer.status_code in (404, 422), answer.text
        assert set(answer.json()) == {"error", "text", "hint"}


def test_another_person_approves(five: Fleet) -> None:
    """Who started it does not, unless he is an admin."""
    tokens = {name: added(five.server, name, "operate")["token"] for name in ("anna", "ben")}
    digest = five.publish(draft=True)["digest"]
    asked = {"digest": digest, "canary": ["b0"], "approval": True, "soak_s": 0}
    begun = call(five.server, tokens["anna"], "POST", "/api/v1/rollouts", **asked)
    path = f"/api/v1/rollouts/{begun.json()['id']}"
    assert five.offered() == {"b0": digest}
    five.confirm("b0", digest)
    five.tick()
    five.tick()
    assert five.offered() == {}
    refused = call(five.server, tokens["anna"], "POST", path, action="approve")
    assert (refused.status_code, refused.json()["error"]) == (403, "approval")
    five.tick()
    assert five.offered() == {}
    assert call(five.server, tokens["ben"], "POST", path, action="approve").ok
    five.tick()
    assert len(five.offered()) == 1


def test_promotion_to_another_channel(five: Fleet) -> None:
    five.owner.change("b0", channel="beta")
    rollout = five.publish(channel="beta")
    digest = rollout["digest"]
    assert five.offered() == {"b0": digest}
    five.confirm("b0", digest)
    assert five.offered() == {}
    promoted = five.owner.start_rollout(digest, channel="stable", canary=["b3"])
    assert five.offered() == {"b3": digest}
    assert promoted["channel"] == "stable"


def test_verbs(five: Fleet, tmp_path: Path) -> None:
    def mipy(*words: str, code: int = 0) -> str:
        environment = os.environ | {
            "MIPY_HOME": str(tmp_path),
            "MIPY_SERVER": five.server.url,
            "MIPY_TOKEN_FILE": str(tmp_path / "data" / "token"),
        }
        command = [sys.executable, "-m", "mipy_ota.tools.cli", "rollout", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "no rollouts yet" in mipy("show")
    rollout = five.publish(canary=["b2"])
    number = str(rollout["id"])
    five.offered()
    five.fail("b2", rollout["digest"])
    assert "halted" in mipy("show")
    said = mipy("show", number)
    assert "1 of 1 board in the canary failed" in said and "ValueError: 3" in said
    assert json.loads(mipy("show", number, "--json"))["state"] == "halted"
    assert "running" in mipy("resume", number)
    assert "paused" in mipy("pause", number, "--reason", "lunch")
    assert "is not paused or halted" not in mipy("resume", number)
    assert "running" in mipy("retry", number, "--board", "b2")
    assert "cancelled" in mipy("cancel", number)
    assert "there is no rollout 99" in mipy("show", "99", code=1)
    assert "wave" in mipy("start", rollout["digest"], "--waves", "50,100", "--rehearse")
    assert "--waves takes growing percentages" in mipy(
        "start", rollout["digest"], "--waves", "50", code=1
    )
    assert "--hours takes two times" in mipy(
        "start", rollout["digest"], "--hours", "25:00-1:00", code=1
    )
