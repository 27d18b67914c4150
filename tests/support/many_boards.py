"""A data folder with a fleet in it, whatever its size: what pages and their measurements show."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.policy import Board, Release, TargetState
from mipy_ota.ota_server.rollout import Counts, Live, Rollout
from mipy_ota.ota_server.storage import model, rollouts, statements
from mipy_ota.ota_server.storage.sqlite import SqliteStorage

APP = "weather"
CLASSES = ("esp8266-generic", "esp32-generic")
NOTES = ("First", "Reads the sensor twice", "Faster start", "Dust sensor")
TRACE = (
    "Traceback (most recent call last):\n"
    '  File "main.py", line 41, in measure\n'
    '  File "lib/dust.py", line 18, in read\n'
    "ValueError: dust sensor sent 3 bytes in the place of 10"
)
DAY = 86400.0
CANCELLED = 100
STATES = ("", "confirmed", "failed", "", "confirmed", "offered", "confirmed", "silent", "void")
"""Of boards in the rollout; "": it has not been offered to them."""


def digest(number: int, cls: str) -> str:
    """Of the release with this number for boards of this class."""
    return hashlib.sha256(f"{number} {cls}".encode()).hexdigest()


def fill(
    folder: Path,
    count: int,
    *,
    name: str = "",
    note: str = "",
    going_out: bool = False,
    trace: str = "",
) -> None:
    """Make a data folder with so many boards, in all states, and releases with history.

    Args:
        name: of every board, followed by its number; "" gives some of them a name.
        note: of every release; "" gives them different ones.
        going_out: the newest release goes out to each class: one rollout runs, one has halted.
        trace: what boards tell of a failure in one more rollout, to the boards of CLASSES[1], of
            which all has happened that can; many others were cancelled before. "": there is none.
    """

    async def filled() -> None:
        storage = SqliteStorage(folder)
        await storage.start()
        await storage.write(_fill, count, name, note)
        if going_out:
            await storage.write(_going_out, count, name)
        if trace:
            await storage.write(_roll_out, note, trace)
        await storage.close()

    asyncio.run(filled())


def _fill(db: Connection, count: int, name: str, note: str) -> None:
    now = time.time()
    for cls in CLASSES:
        for number, words in enumerate(NOTES, 1):
            published = now - (len(NOTES) - number) * 9 * DAY - 3 * 3600
            at = digest(number, cls), APP, cls, number, 0, note or words, 18400, published
            statements.publish(db, Release(*at))
    for table, rows in _tables(count, name, now).items():
        if rows:
            db.execute(insert(table), rows)


def _roll_out(db: Connection, note: str, trace: str) -> None:
    now, cls = time.time(), CLASSES[1]
    at = digest(5, cls), APP, cls, 5, 0, note or "New", 18400, now - 7200
    release = Release(*at)
    statements.publish(db, release)
    live = rollouts.start(db, release, rollouts.Start(), now - 7200)
    for _ in range(CANCELLED):
        db.execute(insert(model.rollouts), rollouts.row_of(live) | {"started": now - 7200})
    old = model.rollouts.c.id != live.rollout.id + CANCELLED
    db.execute(update(model.rollouts).values(state="paused", wave=2))
    db.execute(update(model.rollouts).where(old).values(state="cancelled"))
    number, counts = live.rollout.id + CANCELLED, Counter[str]()
    mine = model.boards.c.cls == cls, model.boards.c.channel == "stable"
    for n, board in enumerate(db.execute(select(model.boards.c.id).where(*mine)).scalars()):
        state = STATES[n % len(STATES)]
        if not state:
            continue
        counts[state] += 1
        target = {"rollout": number, "board": board, "state": state, "wave": n % 3}
        target |= {"offered_at": now - 7200}
        if state != "offered":
            target |= {"ended_at": now - 7200 + n}
        if state == "failed":
            target |= {"reason": "exception", "trace": trace}
        db.execute(insert(model.targets), target)
    db.execute(update(model.rollouts).where(model.rollouts.c.id == number).values(dict(counts)))


def _tables(count: int, name: str, now: float) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {
        model.boards: [], model.events: [], model.rejections: []
    }  # fmt: skip
    for number, board in enumerate(_boards(count, name, now)):
        found[model.boards].append(asdict(board))
        kinds = [("enrolled", "", "", ""), ("confirmed", board.confirmed, "", "")]
        if number % 20 == 2:
            bad = digest(4, board.cls)[:32]
            kinds.append(("rolled-back", bad, "exception", TRACE))
            found[model.rejections].append(
                {"board": board.id, "digest": bad, "reason": "exception", "soft": False,
                 "trace": TRACE, "at": now - 5400}
            )  # fmt: skip
        if board.state == "crashing":
            kinds.append(("crashed", board.digest, "exception", f"crashed once\n{TRACE}"))
        found[model.events] += [
            {"board": board.id, "at": now - 5400 - DAY * (len(kinds) - 1 - step), "kind": kind,
             "seq": 0, "digest": of, "reason": reason, "text": text}
            for step, (kind, of, reason, text) in enumerate(kinds)
        ]  # fmt: skip
    return found


def _going_out(db: Connection, count: int, name: str) -> None:
    """The rollouts of the newest release: to one class it runs, to the other it has halted."""
    now = time.time()
    for number, cls in enumerate(CLASSES, 1):
        mine = [one for one in _boards(count, name, now) if one.cls == cls]
        there = [one for one in mine if one.channel == "stable" and one.last_seen]
        newest = digest(len(NOTES), cls)
        ways: dict[str, TargetState | None] = {one.id: _way(one, newest) for one in there}
        good = [name for name, way in ways.items() if way == "confirmed"]
        rollout = Rollout(
            number, newest, "running", canary=frozenset(good[:3]), waves=rules.WAVES,
            wave=len(rules.WAVES),
        )  # fmt: skip
        counts, targets = Counts(), list[dict[str, Any]]()
        for step, one in enumerate(there):
            way = ways[one.id]
            if way is None or rollout.state == "halted":
                continue
            at = now - 6800 + step * 6000 / len(there)
            target: dict[str, Any] = {
                "rollout": number, "board": one.id, "wave": rules.wave_of(rollout, one.id),
                "state": way, "reason": "", "trace": "", "offered_at": at - 90, "ended_at": at,
            }  # fmt: skip
            if way == "offered":
                target |= {"offered_at": now - 40, "ended_at": None}
            elif way == "failed":
                target |= {"reason": one.reason, "trace": one.trace}
            targets.append(target)
            counts = counts.moved(None, way)
            if why := rules.halting_rule(rollout, counts):
                rollout = replace(rollout, state="halted", why=why)
        row = rollouts.row_of(Live(rollout, counts, APP, cls, "stable"))
        db.execute(insert(model.rollouts), row | {"started": now - 7200, "operator": "ann"})
        db.execute(insert(model.targets), targets)


def _way(board: Board, release: str) -> TargetState | None:
    """What came of the newest release on a board; None: it was not offered it yet."""
    if board.digest == release[:32] and board.state == "ok":
        return "confirmed"
    if board.state == "installing":
        return "offered"
    return "failed" if board.reason == "exception" and not board.crashes else None


PLACES = ("kitchen", "cellar", "balcony", "attic", "garden", "hall", "garage", "study")


def _boards(count: int, name: str, now: float) -> Iterator[Board]:
    for number in range(count):
        cls, runs = CLASSES[number % 2], 4 if number % 3 else 3
        called = f"{name}{number}" if name else PLACES[number] if number < len(PLACES) else ""
        board = Board(
            f"node-{number:05}", called, APP, cls, bytes(32), False, now - 30 * DAY,
            channel="beta" if number % 10 == 9 else "stable", last_seen=now - number % 290,
            peer="127.0.0.1", seq=runs, high=runs, state="ok", heap=21480 + number % 977,
            up=3600 + number % 9000, chip=cls.split("-")[0], boot=1, fw="1.26.1", mpy="6.3",
            trust=1, address=f"10.0.{number % 250}.{number // 250 + 1}",
        )  # fmt: skip
        board.digest = board.confirmed = digest(runs, cls)[:32]
        if number % 20 == 2:
            board.digest = board.confirmed = digest(3, cls)[:32]
            board.seq = board.high = 3
            board.reason, board.trace = "exception", TRACE
        elif number % 50 == 3:
            board.state, board.crashes = "crashing", 3
            board.reason, board.trace = "exception", TRACE
        elif number % 400 == 4:
            board.state, board.reason, board.crashes = "recovery", "crashes", 5
        elif number % 40 == 5:
            board.last_seen = now - 3 * DAY - number
        elif number % 30 == 6:
            board.last_seen, board.up = now - 3000, 7
        elif number % 25 == 7:
            board.state, board.progress = "installing", "3/9"
        elif number % 33 == 8:
            board.paused = True
        elif number % 60 == 10:
            board.jobs = '{"publish": [12, 3]}'
            board.reason, board.trace = "job", "publish\n" + TRACE
        elif number % 70 == 11:
            board.last_seen, board.digest, board.confirmed, board.high = None, "", "", 0
        yield board
