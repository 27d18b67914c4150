"""The storages' contract (ota_server/storage/base.py): the same tests for each database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server import policy
from mipy_ota.ota_server.policy import Bad, Board, Event, Known, Release, Verdict
from mipy_ota.ota_server.storage import queries, statements
from mipy_ota.ota_server.storage.base import REJECTIONS_KEPT, Storage, StorageError
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from mipy_ota.ota_server.storage.statements import (
    EVENTS_KEPT,
    OFFERS_KEPT,
    ORDERS_KEPT,
    Audit,
    Conflict,
)

Work = Callable[[Storage], Awaitable[None]]
PEER = "127.0.0.9"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], contextlib.AbstractAsyncContextManager[Storage]]:
    """Opens the storage; again, after it was closed, with what it held."""

    @contextlib.asynccontextmanager
    async def use() -> AsyncIterator[Storage]:
        storage = SqliteStorage(tmp_path)
        await storage.start()
        try:
            yield storage
        finally:
            await storage.close()

    return use


Opened = Callable[[], contextlib.AbstractAsyncContextManager[Storage]]


def board(name: str = "b", **more: Any) -> Board:
    return Board(name, more.pop("name", ""), "app", "esp32", bytes(32), False, 1.0, **more)


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
            assert await history(storage) == ["enrolled", "trial", "ordered", "hold"]
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


# --- SQLite alone ---


def test_memory_goes_back_to_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def work() -> None:
        storage = SqliteStorage(tmp_path)
        await storage.start()
        await storage.enrol(board("a"))
        await storage.enrol(board("b"))
        await taken(storage, Verdict({"seq": 1}), name="a")
        ticket = await taken(storage, Verdict({"seq": 1}), name="b")
        await storage.settle()
        with monkeypatch.context() as broken:
            broken.setattr(SqliteStorage, "_write_rows", full)
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
        again = SqliteStorage(tmp_path)
        assert (await known(again)).board.heap == 5
        await again.close()

    asyncio.run(work())


def test_second_process_is_kept_out_until_the_first_has_gone(tmp_path: Path):
    async def work() -> None:
        storage = SqliteStorage(tmp_path)
        with pytest.raises(RuntimeError, match="another server"):
            SqliteStorage(tmp_path)
        await storage.close()
        await SqliteStorage(tmp_path).close()

    asyncio.run(work())


def test_reports_that_wait_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    write = SqliteStorage._write_rows

    def counted(self: SqliteStorage, batch: Any) -> None:
        written.append(len(batch.events))
        write(self, batch)

    async def work() -> None:
        storage = SqliteStorage(tmp_path)
        names = [f"b{n}" for n in range(50)]
        for name in names:
            await storage.enrol(board(name))
        monkeypatch.setattr(SqliteStorage, "_write_rows", counted)
        verdict = Verdict({}, [Event("trial")])
        await asyncio.gather(*(taken(storage, verdict, name=name) for name in names))
        assert sum(written) == len(names)
        assert len(written) <= 3
        await storage.close()

    asyncio.run(work())
