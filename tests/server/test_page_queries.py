"""What the pages of releases and rollouts read from the database."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.dashboard import first_run
from mipy_ota.ota_server.policy import Board, Release
from mipy_ota.ota_server.rollout_gate import may_get
from mipy_ota.ota_server.storage import (
    model,
    queries,
    release_queries,
    rollout_listing,
    rollouts,
)
from mipy_ota.ota_server.storage.rollout_listing import Part
from mipy_ota.ota_server.storage.rollout_queries import not_offered
from mipy_ota.ota_server.storage.rollouts import Start
from tests.server.conftest import Make

NOW = 1_790_000_000.0
NEW = Release("e" * 64, "app", "esp32", 9, 0, "1.1", 1, NOW)
OLD = Release("d" * 64, "app", "esp32", 8, 0, "1.0", 1, NOW - 9)


def board(name: str, **more: Any) -> Board:
    seen = {"last_seen": NOW, "digest": OLD.short, "high": OLD.seq, "state": "ok"} | more
    return Board(name, f"room {name}", "app", "esp32", bytes(32), False, NOW - 99, **seen)


def asked(
    make: Make, rows: Callable[[Connection], Any], question: Callable[..., Any], *args: Any
) -> Any:
    """What the question finds in a database with two releases and these rows."""

    async def work() -> Any:
        storage = make()
        await storage.start()
        try:
            for release in (OLD, NEW):
                await storage.write(rollouts.publish, release, None, NOW, catalog=True)
            await storage.write(rows)
            return await storage.read(question, *args)
        finally:
            await storage.close()

    return asyncio.run(work())


def enrolled(*some: Board) -> Callable[[Connection], None]:
    def rows(db: Connection) -> None:
        for one in some:
            row = {column.name: getattr(one, column.name) for column in model.boards.c
                   if hasattr(one, column.name)}  # fmt: skip
            db.execute(insert(model.boards), row)

    return rows


# --- releases ---


def test_where_a_release_runs(make: Make):
    rows = enrolled(
        board("b1"),
        board("b2", state="crashing"),
        board("b3"),
        board("b4", digest=NEW.short, state="trial"),
        board("b5", retired=NOW),
    )
    found = asked(make, rows, release_queries.where_it_runs, OLD.short, NOW)
    assert found == {"ok": 2, "crashing": 1}


def test_failures_of_a_release(make: Make):
    """Of rollouts, of rejections and of crashes, a board once, and none that a person ordered."""

    def rows(db: Connection) -> None:
        enrolled(
            board("b1"),
            board("b2"),
            board("b3", digest=NEW.short, confirmed=NEW.short, crashes=2, reason="exception",
                  trace="crash", last_seen=NOW + 5),
            board("b4", digest=NEW.short, confirmed=NEW.short, crashes=2, reason="job"),
            board("b5"),
        )(db)  # fmt: skip
        number = rollouts.start(db, NEW, Start(), NOW).rollout.id
        for name, state, trace in (
            ("b1", "failed", "first"), ("gone", "failed", ""), ("b2", "silent", ""),
        ):  # fmt: skip
            target = {"rollout": number, "board": name, "state": state, "offered_at": NOW,
                      "ended_at": NOW + 1, "reason": "exception", "trace": trace}  # fmt: skip
            db.execute(insert(model.targets), target)
        for name, digest, reason, trace in (
            ("b1", NEW.short, "exception", ""), ("b2", NEW.short, "order", ""),
            ("b5", NEW.short, "space", ""), ("b5", OLD.short, "veto", ""),
        ):  # fmt: skip
            bad = {"board": name, "digest": digest, "reason": reason, "trace": trace, "at": NOW}
            db.execute(insert(model.rejections), bad)

    found = asked(make, rows, release_queries.failures, NEW)
    assert [(one.board, one.name, one.reason, one.trace) for one in found] == [
        ("b3", "room b3", "exception", "crash"),
        ("b1", "room b1", "exception", "first"),
        ("gone", "", "exception", ""),
        ("b5", "room b5", "space", ""),
    ]


def test_failures_read_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(release_queries, "FAILURES_READ", 3)

    def rows(db: Connection) -> None:
        for n in range(9):
            bad = {"board": f"b{n}", "digest": NEW.short, "reason": "veto", "at": NOW + n}
            db.execute(insert(model.rejections), bad)

    found = asked(make, rows, release_queries.failures, NEW)
    assert [one.board for one in found] == ["b8", "b7", "b6"]


def test_rollouts_of_a_release(make: Make):
    def rows(db: Connection) -> None:
        for channel in ("beta", "stable", "wide"):
            rollouts.start(db, NEW, Start(channel=channel), NOW)

    total, found = asked(make, rows, release_queries.rollouts_of, NEW.digest, 2)
    assert (total, [one.channel for one in found]) == (3, ["wide", "stable"])


# --- rollouts ---


def page_of(make: Make, only: str = "", **more: Any) -> Part:
    """The page of a rollout to a fleet of which every board is at another point."""
    return pages_of(make, [(50, 0)], only, **more)[0]


def pages_of(make: Make, parts: list[tuple[int, int]], only: str = "", **more: Any) -> list[Part]:
    """Parts of it: so many boards from one on."""

    def rows(db: Connection) -> None:
        enrolled(
            *(board(f"b{n}") for n in range(6)),
            board("has-it", digest=NEW.short, high=NEW.seq),
            board("newer", high=NEW.seq + 1),
            board("paused", paused=True),
            board("never", last_seen=None, digest="", high=0),
            board("refuses"),
            board("retired", retired=NOW),
            board("other", channel="beta"),
        )(db)
        live = rollouts.start(db, NEW, Start(canary=["b0"], waves=(100,), in_flight=1), NOW)
        assert live.rollout.id == 1
        bad = {"board": "refuses", "digest": NEW.short, "reason": "veto", "at": NOW}
        db.execute(insert(model.rejections), bad)
        for n, state in enumerate(("confirmed", "confirmed", "failed", "silent", "offered")):
            ended = None if state == "offered" else NOW + n
            target = {"rollout": 1, "board": f"b{n}", "state": state, "wave": min(n, 1),
                      "offered_at": NOW - 1, "ended_at": ended, "reason": "exception" * (n == 2),
                      "trace": "T" * (n == 2)}  # fmt: skip
            db.execute(insert(model.targets), target)

    def question(db: Connection) -> list[Part]:
        row = rollout_listing.row(db, 1)
        live = rollouts.live_of(row)
        live.rollout = replace(live.rollout, **({"wave": 1} | more))
        # Bound to one offer at a time, of which one is under way.
        live.counts = replace(live.counts, offered=1)
        asked_for = (row, live, [live], NEW, [NEW, OLD], NOW)
        return [rollout_listing.part(db, *asked_for, *part, only) for part in parts]

    return asked(make, rows, question)


def test_rollout_lists_those_first_of_whom_people_ask(make: Make):
    found = page_of(make)
    assert [(one.id, one.state, one.reason, one.trace) for one in found.boards] == [
        ("b2", "failed", "exception", "T"),
        ("b3", "silent", "", ""),
        ("b4", "offered", "", ""),
        ("b5", "waiting", "", ""),
        ("never", "waiting", "", ""),
        ("paused", "waiting", "", ""),
        ("b1", "confirmed", "", ""),
        ("b0", "confirmed", "", ""),
    ]
    assert found.total == 8
    assert found.boards[0].name == "room b2" and found.boards[2].since == NOW - 1
    assert sorted(found.targets) == [
        (0, "confirmed", 1), (1, "confirmed", 1), (1, "failed", 1), (1, "offered", 1),
        (1, "silent", 1),
    ]  # fmt: skip
    assert found.waiting == {1: 3}
    assert sorted(found.ended) == [
        (NOW, "confirmed", 1), (NOW + 1, "confirmed", 1), (NOW + 2, "failed", 1),
        (NOW + 3, "silent", 1),
    ]  # fmt: skip


def test_waiting_boards_are_told_why(make: Make):
    told = {one.id: one.text for one in page_of(make, "waiting").boards}
    assert told == {
        "b5": "At most 1 board at a time may update.",
        "never": "At most 1 board at a time may update.",
        "paused": "The board is paused.",
    }


def test_rollout_in_parts(make: Make):
    """Each board once, in the same order, however the list is cut."""
    cuts = [(50, 0), *((3, offset) for offset in range(0, 9, 3))]
    whole, *parts = ([one.id for one in part.boards] for part in pages_of(make, cuts))
    assert [name for part in parts for name in part] == whole


@pytest.mark.parametrize(
    ("only", "total"), [("confirmed", 2), ("failed", 1), ("waiting", 3), ("void", 0), ("no", 0)]
)
def test_rollout_by_state(make: Make, only: str, total: int):
    found = page_of(make, only)
    assert (found.total, len(found.boards)) == (total, total)
    assert {one.state for one in found.boards} <= {only}


def test_cancelled_rollout_is_waited_for_by_nobody(make: Make):
    found = page_of(make, state="cancelled")
    assert (found.waiting, found.total) == ({}, 5)


def test_boards_wait_in_the_order_of_their_waves(make: Make):
    def question(db: Connection) -> Any:
        row = rollout_listing.row(db, 1)
        live = rollouts.live_of(row)
        return live, rollout_listing.part(db, row, live, [live], NEW, [NEW, OLD], NOW, 50, 0)

    def rows(db: Connection) -> None:
        enrolled(*(board(f"b{n:03}") for n in range(100)))(db)
        rollouts.start(db, NEW, Start(), NOW)

    live, found = asked(make, rows, question)
    places = [rules.wave_of(live.rollout, one.id) for one in found.boards]
    assert places == sorted(one or 0 for one in places) and places[0] == 0 and len(places) == 50
    assert sum(found.waiting.values()) == found.total == 100


def test_who_has_yet_to_be_offered_it_is_whom_policy_would_offer_it(make: Make):
    """Whatever a board runs, has confirmed or rejected: the short question and the rules agree."""
    newest = replace(NEW, digest="f" * 64, seq=NEW.seq + 1)
    releases, far = [newest, NEW, OLD], 2**31 - 1
    seqs = (0, OLD.seq, NEW.seq, newest.seq, newest.seq + 1, far)
    boards_of = [
        {"digest": digest, "high": high, "seq": seq, **more}
        for digest in ("", OLD.short, NEW.short, newest.short, "a" * 32)
        for high in seqs
        for seq in seqs
        for more in ({}, {"paused": True}, {"retired": NOW}, {"channel": "beta"})
    ]

    def rows(db: Connection) -> None:
        enrolled(*(board(f"b{n:04}", **facts) for n, facts in enumerate(boards_of)))(db)
        for n in range(0, len(boards_of), 3):
            bad = {"board": f"b{n:04}", "reason": "veto", "soft": n % 2 == 0, "at": NOW}
            for digest in (NEW.short, newest.short)[: 1 + n % 4]:
                db.execute(insert(model.rejections), bad | {"digest": digest})
        rollouts.start(db, NEW, Start(), NOW)

    def question(db: Connection) -> Any:
        live = rollouts.live_of(rollout_listing.row(db, 1))
        asked_for = db, live, NEW, releases, NOW
        rules_say = {
            name
            for name, known in queries.known(db).items()
            if known.board.channel == "stable" and may_get(known, NEW, releases, NOW)
        }
        return rules_say, {one.id for one in not_offered(*asked_for, paused=False)}

    rules_say, found = asked(make, rows, question)
    assert 20 < len(rules_say) < len(boards_of) // 4
    assert found == rules_say


# --- the first run ---


def test_facts_of_the_first_run(make: Make):
    def question(db: Connection, storage: Any) -> first_run.Facts:
        return first_run.facts(db, storage)

    async def work() -> list[first_run.Facts]:
        storage = make()
        await storage.start()
        found = [await storage.read(question, storage)]
        try:
            await storage.add_trust(1, b"t", None, NOW)
            await storage.write(rollouts.publish, NEW, None, NOW, catalog=True)
            await storage.enrol(board("b1", last_seen=None))
            await storage.enrol(board("b2", confirmed=OLD.short))
            await storage.enrol(board("b3", confirmed=NEW.short))
            await storage.enrol(board("b4", confirmed=NEW.short, retired=NOW))
            found.append(await storage.read(question, storage))
            await storage.withdraw(NEW.digest, NOW)
            found.append(await storage.read(question, storage))
        finally:
            await storage.close()
        return found

    assert asyncio.run(work()) == [
        first_run.Facts(),
        first_run.Facts(trust=1, releases=1, boards=3, heard=2, confirmed=1),
        first_run.Facts(trust=1, releases=0, boards=3, heard=2, confirmed=0),
    ]


def test_steps_of_the_first_run():
    def done(**known: int) -> list[bool]:
        return [one.done for one in first_run.steps(first_run.Facts(**known))]

    assert done() == [True, False, False, False, False]
    assert done(trust=1) == [True, True, False, False, False]
    assert done(trust=1, boards=1) == [True, True, False, True, False]
    whole = first_run.Facts(trust=2, releases=3, boards=1, heard=1, confirmed=1)
    assert [one.found for one in first_run.steps(whole)][1:] == [
        "Trust file version 2 is registered.",
        "3 releases are published.",
        "1 board is enrolled.",
        "1 board confirmed a release.",
    ]
    silent = first_run.steps(first_run.Facts(trust=1, releases=1, boards=2))
    assert silent[3].found == "2 boards are enrolled; none has called yet."
