"""The storages' contract (ota_server/storage/base.py): the same tests for each database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from mipy_ota.ota_server import policy
from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.condition import CONDITIONS, condition
from mipy_ota.ota_server.people import access
from mipy_ota.ota_server.policy import Bad, Board, Event, Known, Move, Release, Verdict
from mipy_ota.ota_server.rollout import Counts, Rollout
from mipy_ota.ota_server.rollout_gate import Gate
from mipy_ota.ota_server.storage import model, queries, rollout_queries, rollouts, statements
from mipy_ota.ota_server.storage.base import REJECTIONS_KEPT, Storage, StorageError
from mipy_ota.ota_server.storage.memory import MemoryStorage
from mipy_ota.ota_server.storage.rollouts import Start
from mipy_ota.ota_server.storage.statements import (
    EVENTS_KEPT,
    OFFERS_KEPT,
    ORDERS_KEPT,
    Audit,
    Conflict,
)
from tests.server.conftest import Make

Work = Callable[[Storage], Awaitable[None]]
PEER = "127.0.0.9"


@pytest.fixture
def opened(make: Make) -> Callable[[], contextlib.AbstractAsyncContextManager[Storage]]:
    """Opens the storage and closes it."""

    @contextlib.asynccontextmanager
    async def use() -> AsyncIterator[Storage]:
        storage = make()
        await storage.start()
        try:
            yield storage
        finally:
            await storage.close()

    return use


Opened = Callable[[], contextlib.AbstractAsyncContextManager[Storage]]


def board(name: str = "b", label: str = "", **more: Any) -> Board:
    return Board(name, label, "app", "esp32", bytes(32), False, 1.0, **more)


async def known(storage: Storage, name: str = "b") -> Known:
    found = await storage.known(name)
    assert found is not None
    return found


async def taken(storage: Storage, verdict: Verdict, now: float = 2.0, name: str = "b") -> str:
    """Take a verdict with a good ticket; returns the next."""
    ticket = await storage.stale(await known(storage, name))
    found = await storage.take(await known(storage, name), ticket, verdict, PEER, now)
    assert found
    return found


def release(seq: int = 1, digest: str = "d", **more: Any) -> Release:
    return Release((digest * 64)[:64], "app", "esp32", seq, 0, "-", 1, 3.0, **more)


async def history(storage: Storage, name: str = "b") -> list[str]:
    return [event["kind"] for event in await storage.read(queries.history, name)]


def test_what_was_taken_in_is_there_after_a_restart(opened: Opened):
    bad = Bad("b2" * 16, "veto", False, "line\n\tä \x1b")
    changes = {"seq": 7, "held": True, "open": None, "facts": 0, "jobs": '{"a":[1,2]}'}
    del changes["facts"]

    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            assert (await known(storage)).board.last_seen is None
            verdict = Verdict(dict(changes), [Event("trial", 7)], rejection=bad)
            await taken(storage, verdict, 5.5)
            await storage.amend("b", lambda k: policy.give(k, "rollback"), 6.0)
            await storage.amend("b", lambda _: policy.pause(True), 6.0)
            before = await known(storage)
        async with opened() as storage:
            after = await known(storage)
            assert after.board == before.board
            assert (after.board.last_seen, after.board.peer) == (5.5, PEER)
            assert (after.board.held, after.board.paused, after.board.seq) == (True, True, 7)
            assert after.rejected == {bad.digest: bad}
            assert [order.text for order in after.orders] == ["rollback"]
            assert await history(storage) == ["enrolled", "trial", "ordered", "paused"]
            assert not after.tickets.admit(before.tickets.counted or "x")

    asyncio.run(work())


def test_ticket_counts_once(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            found = await known(storage)
            ticket = await storage.stale(found)
            assert await storage.stale(await known(storage)) == ticket
            tries = [
                storage.take(await known(storage), ticket, Verdict({}, [Event("x")]), PEER, 2.0)
                for _ in range(8)
            ]
            given = [new for new in await asyncio.gather(*tries) if new]
            assert len(given) == 1
            assert await history(storage) == ["enrolled", "x"]
            assert (await known(storage)).tickets.admit(given[0])
            # The one of a reply to a stale poll voids nothing, until either is used.
            other = await storage.stale(await known(storage))
            assert (await known(storage)).tickets.admit(given[0])
            assert await storage.take(await known(storage), given[0], Verdict({}), PEER, 3.0)
            assert not await storage.take(await known(storage), other, Verdict({}), PEER, 3.0)

    asyncio.run(work())


def test_orders_are_numbered_counted_and_ended(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            await storage.amend("b", lambda k: policy.give(k, "rollback"), 2.0)
            first = (await known(storage)).orders[0]
            await taken(storage, Verdict({}, orders=[first]))
            found = (await known(storage)).orders
            assert [(order.n, order.tries) for order in found] == [(first.n, 1)]
            assert (await known(storage)).tickets.carried == (first.n,)
            # An equal one takes its place.
            await storage.amend("b", lambda k: policy.give(k, "rollback"), 2.0)
            (second,) = (await known(storage)).orders
            assert (second.tries, second.n > first.n) == (0, True)
            await taken(storage, Verdict({}, ended=[(second, "done")]))
            assert (await known(storage)).orders == []
        async with opened() as storage:
            assert (await known(storage)).orders == []

    asyncio.run(work())


def test_what_one_board_makes_is_bounded(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            for n in range(max(ORDERS_KEPT, OFFERS_KEPT, REJECTIONS_KEPT) + 3):
                ended = [(order, "x") for order in (await known(storage)).orders]
                verdict = Verdict(
                    {},
                    [Event("trial", n)] * 10,
                    rejection=Bad(f"{n:032x}", "veto", False, ""),
                    ended=ended,
                    release=release(n),
                    offer=True,
                )
                await taken(storage, verdict, float(n))
                await storage.amend("b", lambda k: policy.give(k, "rollback"), 2.0)
            kept = {}
            for table in ("events", "offers", "orders", "rejections"):
                kept[table] = await storage.read(_count, table)
            assert kept == {
                "events": EVENTS_KEPT,
                "offers": OFFERS_KEPT,
                "orders": ORDERS_KEPT + 1,
                "rejections": REJECTIONS_KEPT,
            }
            assert len((await known(storage)).rejected) == REJECTIONS_KEPT
            last = await storage.read(queries.history, "b")
            assert last[-1]["kind"] == "ordered"

    asyncio.run(work())


def _count(db: Any, table: str) -> int:
    return db.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()


def test_enrolling_again_begins_anew_and_keeps_history(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            assert not await storage.enrol(board())
            old = await known(storage)
            ticket = await taken(
                storage, Verdict({"seq": 5}, rejection=Bad("a" * 32, "x", False, ""))
            )
            await storage.amend("b", lambda k: policy.give(k, "rollback"), 2.0)
            again = board()
            again.key = bytes(31) + b"1"
            assert await storage.enrol(again)
            found = await known(storage)
            assert (found.board.seq, found.board.key) == (0, again.key)
            assert (found.rejected, found.orders) == ({}, [])
            # What was known before can no longer be taken from.
            assert await storage.take(old, ticket, Verdict({"seq": 9}), PEER, 3.0) is None
            assert (await known(storage)).board.seq == 0
            assert await history(storage) == ["enrolled", "ordered", "enrolled"]
            await storage.remove("b")
            assert await storage.known("b") is None
            assert await storage.amend("b", lambda _: policy.pause(True), 3.0) is None
            assert await history(storage) == []

    asyncio.run(work())


def test_releases_and_trust_files(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            epoch = storage.epoch
            await storage.publish(release(1), b"manifest", [b"one", b"two"])
            assert storage.epoch > epoch
            with pytest.raises(Conflict):
                await storage.publish(release(1, "e"), b"other", [])
            await storage.publish(release(2, "f", publisher="anna"), b"other", [])
            await storage.withdraw("d" * 64, 9.0)
            await storage.add_trust(1, b"first", None, 1.0)
            await storage.add_trust(2, b"second", 40, 2.0)
            with pytest.raises(Conflict):
                await storage.add_trust(2, b"third", None, 2.0)
            before = storage.releases_of("app", "esp32")
        async with opened() as storage:
            assert storage.releases_of("app", "esp32") == before
            assert [(r.seq, r.withdrawn, r.publisher) for r in before] == [
                (2, None, "anna"),
                (1, 9.0, ""),
            ]
            assert before[0].channels == {"stable"}
            assert storage.manifests.plain("d" * 64) == b"manifest"
            assert (storage.trust(), storage.trust(1)) == (b"second", b"first")
            assert storage.catalog.reset_between(1, 2) == 40

    asyncio.run(work())


def test_change_and_its_audit_come_together(opened: Opened):
    entry = Audit("anna", "127.0.0.1", "pause", "b", before={"paused": False}, after="x")

    def fails(db: Any) -> None:
        statements.tag(db, "b", ["one"])
        raise ValueError

    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board(), audit=Audit("anna", "", "enrol", "b"))
            await storage.amend("b", lambda _: policy.pause(True), 2.0, entry)
            with pytest.raises(ValueError):
                await storage.write(fails, audit=entry)
            rows = await storage.read(
                lambda db: db.exec_driver_sql(
                    "SELECT operator, action, target, before, after FROM audit ORDER BY n"
                ).all()
            )
            assert [tuple(row) for row in rows] == [
                ("anna", "enrol", "b", "", ""),
                ("anna", "pause", "b", '{"paused": false}', "x"),
            ]
            assert await storage.read(_count, "tags") == 0

    asyncio.run(work())


def asked(db: Connection, wanted: queries.Wanted, sort: str = "id") -> list[str]:
    total, found = queries.page(db, wanted, sort, 10, 0, 10.0)
    assert total == len(found)
    return [known.board.id for known, _ in found]


def test_condition_is_the_rule_in_the_database_too(opened: Opened):
    """Every combination of what the rule looks at, on both sides of its limits and on them."""
    now = 1_800_000_000.0
    ages = (None, 0, 899, 900, 901, 86_399, 86_400, 86_401)
    states = ("", "ok", "installing", "trial", "crashing", "recovery")
    found = [
        board(
            f"b{number:03}", last_seen=None if age is None else now - age, up=up, state=state,
            paused=paused,
        )
        for number, (age, up, state, paused) in enumerate(
            product(ages, (119, 120), states, (False, True))
        )
    ]  # fmt: skip

    def by_the_database(db: Connection) -> dict[str, str]:
        db.execute(insert(model.boards), [asdict(one) for one in found])
        rows = db.execute(select(model.boards.c.id, queries.condition(now)))
        return {name: word for name, word in rows}

    async def work() -> None:
        async with opened() as storage:
            by_the_rule = {one.id: condition(one, now) for one in found}
            assert await storage.write(by_the_database) == by_the_rule
            assert set(by_the_rule.values()) == set(CONDITIONS)

    asyncio.run(work())


def test_pages_are_filtered_and_sorted_alike(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            for name, label in (("b1", "Kitchen"), ("b2", "attic"), ("b3", "")):
                await storage.enrol(board(name, label))
            for name, seen in (("b2", 9.0), ("b1", 5.0)):
                await taken(storage, Verdict({"state": "ok", "digest": "d" * 32}), seen, name)
            await storage.write(statements.tag, "b2", ["cold", "high"])

            async def page(sort: str = "id", **wanted: Any) -> list[str]:
                return await storage.read(asked, queries.Wanted(**wanted), sort)

            assert await page() == ["b1", "b2", "b3"]
            # The newest first, and who never polled last.
            assert await page("last_seen") == ["b2", "b1", "b3"]
            assert await page(state="never seen") == ["b3"]
            assert await page(tag="cold", app="app") == ["b2"]
            assert await page(search="KITCH") == ["b1"]
            assert await page(search="_") == []
            assert await page(retired=True) == []
            assert await storage.read(queries.states, 10.0) == {"ok": 2, "never seen": 1}
            assert await storage.read(queries.running) == {"d" * 32: 2, "": 1}
            assert await storage.read(queries.find, "attic") == "b2"
            assert await storage.read(queries.ids, "b1", 1) == ["b2"]
            await storage.read(queries.alive)

    asyncio.run(work())


def test_operators_tokens_and_sessions(opened: Opened):
    row = {"sha256": "a" * 64, "operator": "anna", "role": "read", "created": 1.0}

    async def work() -> None:
        async with opened() as storage:
            await storage.write(access.add_operator, "anna", "read", 1.0)
            await storage.write(access.add_operator, "anna", "operate", 2.0)
            n = await storage.write(access.add_token, row | {"label": "laptop", "expires": 9.0})
            assert await storage.read(access.operator_role, "anna") == "operate"
            assert (await storage.read(access._token, "a" * 64, 3.0)).limit == "operate"
            assert await storage.read(access._token, "a" * 64, 10.0) is None
            session = row | {"token": n, "expires": 9.0, "used": 1.0}
            await storage.write(access._begin, session)
            assert await storage.read(access._session, "a" * 64, 3.0)
            await storage.write(access.remove_token, n)
            assert await storage.read(access._session, "a" * 64, 3.0) is None
            with pytest.raises(LookupError):
                await storage.write(access.remove_token, n)

    asyncio.run(work())


def test_rollout_counts_and_halts_with_its_targets(opened: Opened):
    async def work() -> None:
        async with opened() as storage:
            for name in "bc":
                await storage.enrol(board(name))
            start = Start(canary=["b"], strict=True, operator="anna")
            number = await storage.publish(release(), b"manifest", [], start=start)
            assert number
            offer = Move("b", number, None, "offered")
            await taken(storage, Verdict({}, release=release(), moves=[offer], offer=True))
            asked = rollout_queries.standing, storage.rollouts()[0], release(), storage.releases()
            standing = await storage.read(*asked, 5.0, storage.targets_of)
            assert [(one.id, one.offered_at) for one in standing.open] == [("b", 2.0)]
            bad = Bad(release().short, "exception", False, "trace")
            fail = Move("b", number, "offered", "failed", reason="exception")
            await taken(storage, Verdict({}, rejection=bad, moves=[fail]))
            (live,) = storage.rollouts()
            assert (live.rollout.state, live.counts.failed) == ("halted", 1)
            shown = await storage.read(rollout_queries.show, number)
            assert shown and [(one["board"], one["state"]) for one in shown["boards"]] == [
                ("b", "failed")
            ]
            total, rows = await storage.read(rollout_queries.listed, ["halted"], 10, 0)
            assert (total, [row.state for row in rows]) == (1, ["halted"])
            standing = await storage.read(*asked, 5.0, storage.targets_of)
            assert standing.open == []
            bads = await storage.read(rollout_queries.ended_badly, number)
            assert [name for name, _ in bads] == ["b"]
        async with opened() as storage:
            assert storage.rollouts() == [live]
            assert (await known(storage)).targets[number].state == "failed"

    asyncio.run(work())


def test_memory_keeps_what_rollouts_that_are_over_forbid_and_lets_them_go(opened: Opened):
    """Who may have their releases is what it was, after a restart as well."""

    async def ended(storage: Storage, state: rules.State, seq: int, **more: Any) -> int:
        new = release(seq, f"{seq:02x}")
        number = await storage.write(
            rollouts.publish, new, Start(soak_s=0, **more), 3.0, catalog=True
        )
        assert number is not None

        def end(rollout: Rollout, counts: Counts) -> Rollout:
            return replace(rollout, state=state)

        assert await storage.steer(number, end, 4.0)
        return number

    def may_have(storage: Storage, seq: int, name: str) -> bool:
        gate = Gate(storage.rollouts_of("app", "esp32", "stable"), 0)
        return gate.admits(Known(board(name)), release(seq, f"{seq:02x}"), Verdict({}))

    def check(storage: Storage) -> None:
        held = len(storage.rollouts())
        assert held <= rules.TARGETS_KEPT + 1, f"{held} rollouts in memory"
        assert [may_have(storage, 1, name) for name in "bc"] == [False, False]
        assert [may_have(storage, 2, name) for name in "bc"] == [True, False]
        assert [may_have(storage, 3, name) for name in "bc"] == [True, True]
        assert [may_have(storage, 4, name) for name in "bc"] == [False, False]

    async def work() -> None:
        async with opened() as storage:
            for name in "bc":
                await storage.enrol(board(name))
            first = await ended(storage, "cancelled", 1)
            await ended(storage, "done", 2, members=["b"])
            await ended(storage, "done", 3)
            await ended(storage, "superseded", 4)
            for seq in range(5, 30):
                await ended(storage, "done", seq)
            check(storage)
            # Whoever asks for one that was let go finds it, as it was.
            with pytest.raises(rules.Forbidden, match="cancelled"):
                await storage.steer(first, lambda a, b: rules.steered(a, b, "running"), 5.0)
            assert await storage.steer(99, lambda rollout, _: rollout, 5.0) is None
            await ended(storage, "done", 30)
            check(storage)
        async with opened() as storage:
            check(storage)
            assert await storage.read(rollout_queries.digest_of, first) == release(1, "01").digest

    asyncio.run(work())


def test_no_text_that_people_send_keeps_others_out(opened: Opened):
    """PostgreSQL has no NUL in a text."""

    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            entry = Audit("anna", "", "pause", "b", after="x\0y")
            events = [Event("ordered", text="x\0y\\u0000")]
            await storage.amend("b", lambda _: Verdict({"name": "x\0y"}, events), 2.0, entry)
            (event,) = (await storage.read(queries.history, "b"))[1:]
            assert event["text"].replace("\0", "\ufffd") == "x\ufffdy\\u0000"
            assert await storage.read(asked, queries.Wanted(search="x\0z")) == []

    asyncio.run(work())


def test_numbers_come_back_as_they_were(opened: Opened):
    most = 2**31 - 1

    async def work() -> None:
        async with opened() as storage:
            await storage.enrol(board())
            now = 1_790_000_000.123457
            await taken(storage, Verdict({"seq": most, "heap": most, "crashes": most}), now)
        async with opened() as storage:
            found = (await known(storage)).board
            assert (found.seq, found.heap, found.crashes) == (most, most, most)
            assert found.last_seen == now

    asyncio.run(work())


def test_of_a_batch_the_last_word_on_a_rejection_holds(opened: Opened):
    """A board rejects a digest and people take that back, or the other way, in one transaction."""
    bad = Bad("b2" * 16, "veto", False, "")

    async def work() -> None:
        async with opened() as storage:
            for name in "ab":
                await storage.enrol(board(name))
            both = Verdict({}, rejection=bad), Verdict({}, [Event("retry")], forgotten=[bad.digest])
            changes = [("a", both[0]), ("a", both[1]), ("b", both[1]), ("b", both[0])]
            await asyncio.gather(
                *(storage.amend(name, lambda _, said=said: said, 2.0) for name, said in changes)
            )
        async with opened() as storage:
            rejected = {name: list((await known(storage, name)).rejected) for name in "ab"}
            assert rejected == {"a": [], "b": [bad.digest]}

    asyncio.run(work())


def test_what_could_not_be_stored_is_not_in_the_message(make: Make):
    async def work() -> None:
        storage = make()
        twice = board("b", "secret-name")
        row = asdict(twice)
        await storage.write(lambda db: db.execute(insert(model.boards), row))
        with pytest.raises(StorageError) as caught:
            await storage.write(lambda db: db.execute(insert(model.boards), row))
        said = f"{caught.value}{caught.value.__cause__}"
        assert "secret-name" not in said and "\\x00" not in said
        await storage.close()

    asyncio.run(work())


def test_memory_goes_back_to_what_is_on_the_disk(make: Make, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        storage = make()
        await storage.start()
        await storage.enrol(board("a"))
        await storage.enrol(board("b"))
        await taken(storage, Verdict({"seq": 1}), name="a")
        ticket = await taken(storage, Verdict({"seq": 1}), name="b")
        await storage.settle()
        with monkeypatch.context() as broken:
            broken.setattr(MemoryStorage, "_write_rows", full)
            both = [
                storage.take(
                    await known(storage, name),
                    await storage.stale(await known(storage, name)),
                    Verdict({"seq": 2}, [Event("trial")]),
                    PEER,
                    3.0,
                )
                for name in "ab"
            ]
            results = await asyncio.gather(*both, return_exceptions=True)
            assert all(isinstance(result, StorageError) for result in results)
            # What is not urgent waits for better times.
            await taken(storage, Verdict({"heap": 5}), 4.0)
            await storage.settle()
        found = await known(storage)
        assert (found.board.seq, found.board.heap) == (1, 5)
        assert not found.tickets.admit(ticket)
        assert await history(storage) == ["enrolled"]
        await storage.close()
        again = make()
        assert (await known(again)).board.heap == 5
        await again.close()

    asyncio.run(work())


def test_second_process_is_kept_out_until_the_first_has_gone(make: Make):
    async def work() -> None:
        storage = make()
        with pytest.raises(RuntimeError, match="another server"):
            make()
        await storage.close()
        await make().close()

    asyncio.run(work())


def test_reports_that_wait_share_a_transaction(make: Make, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    write = MemoryStorage._write_rows

    def counted(self: MemoryStorage, batch: Any) -> None:
        written.append(len(batch.events))
        write(self, batch)

    async def work() -> None:
        storage = make()
        names = [f"b{n}" for n in range(50)]
        for name in names:
            await storage.enrol(board(name))
        monkeypatch.setattr(MemoryStorage, "_write_rows", counted)
        verdict = Verdict({}, [Event("trial")])
        await asyncio.gather(*(taken(storage, verdict, name=name) for name in names))
        assert sum(written) == len(names)
        assert len(written) <= 3
        await storage.close()

    asyncio.run(work())


@pytest.mark.parametrize("lost_meanwhile", ["rollout", "board"])
def test_nothing_is_decided_on_what_was_lost_meanwhile(
    make: Make, monkeypatch: pytest.MonkeyPatch, lost_meanwhile: str
):
    """While the one is read again the other is lost.

    A release without its rollout would be for everybody.
    """

    async def work() -> None:
        storage = make()
        await storage.enrol(board())
        number = await storage.write(rollouts.publish, release(), Start(), 3.0, catalog=True)
        assert number is not None
        offered = Move("b", number, None, "offered")
        await taken(storage, Verdict({}, moves=[offered]))
        before = storage.rollouts()[0].counts
        storage._lose(["b"])
        storage._lose_rollouts([number])
        real = storage._read_again, storage._read_rollouts_again
        lost = [lost_meanwhile]

        async def read_boards(ids: Any) -> None:
            await real[0](ids)
            if lost == ["rollout"]:
                lost.clear()
                storage._lose_rollouts([number])

        async def read_rollouts() -> None:
            await real[1]()
            if lost == ["board"] and "b" not in storage._lost:
                lost.clear()
                storage._lose(["b"])

        monkeypatch.setattr(storage, "_read_again", read_boards)
        monkeypatch.setattr(storage, "_read_rollouts_again", read_rollouts)
        if lost_meanwhile == "board":  # so that the rollouts are what is read last
            await real[0](["b"])
        found = await known(storage)
        assert not lost
        assert found.targets[number].state == "offered"
        (live,) = storage.rollouts_of("app", "esp32", "stable").lives
        assert live.counts == before and live.counts.offered == 1
        await storage.close()

    asyncio.run(work())
