"""Crashes of confirmed apps and jobs that never succeed, as the server tells people of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server import policy
from mipy_ota.ota_server.device import poll_message
from mipy_ota.ota_server.policy import Bad, Board, Known
from mipy_ota.ota_server.storage import queries
from mipy_ota.signing import reasons
from mipy_ota.tools.fleet import boards, client
from mipy_ota.tools.fleet.serve import Running
from tests.support.fake_board import FakeBoard

TRACE = 'File "main", line 7\nValueError: dust'
RUNS = "a1" * 16


@pytest.fixture
def board(server: Running, people: client.Client) -> Iterator[FakeBoard]:
    """An enrolled board whose first life went well."""
    fake = FakeBoard(server.url)
    people.enrol(fake.file())
    fake.boot(life=life(0))
    yield fake
    fake.close()


def life(n: int) -> str:
    return f"{n:016x}"


def crashed(people: client.Client) -> list[dict[str, Any]]:
    return [event for event in people.events("sim-01") if event["kind"] == "crashed"]


def test_crash_of_a_confirmed_app_is_shown_with_its_traceback(
    people: client.Client, board: FakeBoard
):
    board.boot(up=2, life=life(1), crash={"n": 1, "trace": TRACE})
    now = people.board("sim-01")
    assert (now["state"], now["crashes"]) == ("crashing", 1)
    assert (now["reason"], now["trace"]) == ("exception", TRACE)
    assert [one["id"] for one in people.search(state="crashing")] == ["sim-01"]
    assert boards.state(now) == "crashing (1 crash)"
    (event,) = crashed(people)
    assert (event["reason"], event["digest"]) == ("exception", RUNS)
    assert event["text"] == f"crashed once since it was confirmed\n{TRACE}"


def test_board_stays_crashing_until_it_has_lasted_ten_minutes(
    people: client.Client, board: FakeBoard
):
    board.boot(up=2, life=life(1), crash={"n": 1, "trace": TRACE})
    board.poll(up=599)
    assert people.board("sim-01")["state"] == "crashing"
    board.poll(up=600)
    now = people.board("sim-01")
    assert (now["state"], now["crashes"]) == ("ok", 1)


def test_start_without_a_crash_ends_it_at_once(people: client.Client, board: FakeBoard):
    board.boot(up=2, life=life(1), crash={"n": 1, "trace": TRACE})
    board.boot(up=2, life=life(2))
    assert people.board("sim-01")["state"] == "ok"


def test_hang_has_no_traceback(people: client.Client, board: FakeBoard):
    board.boot(up=2, life=life(1), crash={"n": 2, "trace": ""})
    now = people.board("sim-01")
    assert (now["reason"], now["trace"], now["crashes"]) == ("watchdog", "", 2)
    assert crashed(people)[0]["text"] == "crashed 2 times since it was confirmed"


def test_one_crash_counts_once_however_often_it_is_told(people: client.Client, board: FakeBoard):
    for _ in range(3):
        board.boot(up=2, life=life(1), crash={"n": 1, "trace": TRACE})
        board.poll(up=9, **board.facts(), life=life(2), crash={"n": 1})
    now = people.board("sim-01")
    assert (now["state"], now["crashes"], now["trace"]) == ("crashing", 3, TRACE)
    # Between its lives 1 and 2 the board has told the same life again: nothing is counted.
    board.boot(up=2, life=life(2), crash={"n": 1, "trace": TRACE})
    assert people.board("sim-01")["crashes"] == 3


def test_app_that_crashes_all_day_leaves_few_events(people: client.Client, board: FakeBoard):
    for n in range(1, 41):
        board.boot(up=2, life=life(n), crash={"n": 1, "trace": f"{TRACE} {n}"})
    now = people.board("sim-01")
    assert (now["crashes"], now["trace"]) == (40, f"{TRACE} 40")
    counts = [event["text"].split(" since")[0] for event in crashed(people)]
    assert counts == ["crashed once", *(f"crashed {n} times" for n in (2, 4, 8, 16, 32))]


def test_recovery_tells_the_crashes_that_led_there(people: client.Client, board: FakeBoard):
    board.boot(state="recovery", up=2, life=life(1), crash={"n": 5, "trace": TRACE})
    now = people.board("sim-01")
    assert (now["state"], now["crashes"], now["trace"]) == ("recovery", 5, TRACE)
    assert boards.state(now) == "recovery (5 crashes)"


def test_next_release_begins_with_none(people: client.Client, board: FakeBoard):
    board.boot(up=2, life=life(1), crash={"n": 3, "trace": TRACE})
    board.boot(up=2, life=life(2), seq=2, m="b2" * 16)
    now = people.board("sim-01")
    assert (now["state"], now["crashes"]) == ("ok", 0)


def test_crashes_outlast_the_server(tmp_path: Path, server: Running, people: client.Client, board):
    board.boot(up=2, life=life(1), crash={"n": 3, "trace": TRACE})
    stored = server.do(server.storage.read(queries.known, ["sim-01"]))["sim-01"].board
    assert (stored.state, stored.crashes, stored.trace) == ("crashing", 3, TRACE)


def test_what_a_soak_asks():
    crashing = Board("b1", "", "demo", "unix", bytes(32), False, 0, confirmed=RUNS, crashes=4)
    left = Bad("b2" * 16, "crashes", soft=False, trace=TRACE)
    refused = Bad("c3" * 16, "exception", soft=False, trace=TRACE)
    known = Known(crashing, {bad.digest: bad for bad in (left, refused)})
    asked = (RUNS, left.digest, refused.digest, "d4" * 16)
    assert [policy.crashes_since_confirmation(known, one) for one in asked] == [4, 5, 0, 0]


@pytest.mark.parametrize(
    "wrong", [7, [], {}, {"n": 0}, {"n": 16}, {"n": -1}, {"n": True}, {"n": "1"}, {"n": 1.0}]
)
def test_crash_that_breaks_the_protocol_is_a_400(
    people: client.Client, board: FakeBoard, wrong: Any
):
    assert board.send(board.message(crash=wrong)).status == 400
    assert people.board("sim-01")["crashes"] == 0


def test_traceback_is_bounded_and_escaped(people: client.Client, board: FakeBoard):
    board.boot(up=2, life=life(1), crash={"n": 1, "trace": "\x1b[2J" + "x" * 600})
    trace = people.board("sim-01")["trace"]
    assert trace.startswith("\\x1b[2J")
    assert len(trace) == poll_message.TRACE_CHARS


def test_job_that_never_succeeds_is_told_with_its_traceback(
    people: client.Client, board: FakeBoard
):
    text = f"measure failed\n{TRACE}"
    for _ in range(3):
        board.poll(jobs={"measure": [4, 0]}, job=text)
    now = people.board("sim-01")
    assert (now["state"], now["reason"], now["trace"]) == ("ok", "job", text)
    told = [event for event in people.events("sim-01") if event["kind"] == "job-fails"]
    assert [event["text"] for event in told] == [text]
    assert now["reason"] in reasons.SENTENCES
