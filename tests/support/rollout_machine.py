"""Rollouts on the real database: boards that poll, lie and vanish, people, a clock, and a killer.

    python -m tests.support.rollout_machine [STEPS [sqlite | postgres]]

A state machine drives the boards' side of the server and its storage. What must hold is looked at
in every transaction that is about to be committed, and in every reply that has left. A server is
killed in the midst of a commit: of SQLite the database is copied then, and the copy is what the
next server finds; PostgreSQL itself ends the connection, and the next server uses what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, event, select, text

from mipy_ota.ota_server import policy
from mipy_ota.ota_server import rollout as rules
from mipy_ota.ota_server.device import api as device_api
from mipy_ota.ota_server.device.api import DeviceApi
from mipy_ota.ota_server.policy import Board, Move, Release
from mipy_ota.ota_server.rollout import TARGETS_KEPT, Counts, Forbidden, Rollout
from mipy_ota.ota_server.storage import model, rollout_queries, rollouts, statements
from mipy_ota.ota_server.storage.postgres import PostgresStorage
from mipy_ota.ota_server.storage.rollout_clock import Clock
from mipy_ota.ota_server.storage.rollouts import Start
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from tests.support.postgres import Postgres

BOARDS = 8
BEGIN = 1_790_000_000.0
COUNTS = tuple(f.name for f in fields(Counts))
STEPS_EACH = 40
CLOSED = ("draft", "paused", "halted", "cancelled", "superseded")
DONE: Counter[str] = Counter()
"""How often what happened, over all runs of the machine."""


@dataclass
class Sim:
    """A board, as far as its polls go."""

    id: str
    key: bytes = b""
    ticket: str = ""
    seq: int = 1
    digest: str = "a1" * 16
    state: str = "ok"
    told: Release | None = None
    life: int = 0
    sent: list[bytes] = field(default_factory=list)

    def message(self, **more: Any) -> bytes:
        """A poll's body, from the board's first minute: so it tells its facts."""
        self.life += 1
        said = {
            "id": self.id, "n": secrets.token_hex(8), "k": self.ticket, "seq": self.seq,
            "m": self.digest, "state": self.state, "heap": 21000, "up": self.life,
            "proto": 1, "app": "app", "class": "esp32", "boot": 1, "fw": "1.26.1", "mpy": "6.3",
            "life": f"{self.life:016x}",
        }  # fmt: skip
        body = json.dumps(said | more).encode()
        self.sent = [*self.sent[-3:], body]
        return body


@dataclass
class Row:
    """A rollout in the database, with the number of its targets in each state."""

    state: str
    wave: int
    in_flight: int
    accepted_bad: int
    counts: Counts
    targets: Counts

    @property
    def told(self) -> int:
        """Boards that were ever offered it."""
        return sum(astuple(self.targets))


def look(db: Connection) -> dict[int, Row]:
    """All rollouts as this transaction has them."""
    found: dict[int, dict[str, int]] = {}
    for target in db.execute(select(model.targets.c.rollout, model.targets.c.state)):
        states = found.setdefault(target.rollout, {})
        states[target.state] = states.get(target.state, 0) + 1
    return {
        row.id: Row(
            row.state,
            row.wave,
            row.in_flight,
            row.accepted_bad,
            Counts(*(row._mapping[name] for name in COUNTS)),
            Counts(**found.get(row.id, {})),
        )
        for row in db.execute(select(model.rollouts))
    }


class Server(RuleBasedStateMachine):
    """One server with its boards, on SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.now = BEGIN
        self.person = self.ticking = False
        self.seen: dict[int, Row] = {}
        self.broken: list[str] = []
        self.left: list[tuple[Sim, Release, int | None]] = []
        self.kill_at = 0
        self.killed: Path | None = None
        self.left_then = 0
        self.starts = 0
        self.releases: list[Release] = []
        self.boards = [Sim(f"b{n}") for n in range(BOARDS)]
        clock = SimpleNamespace(time=lambda: self.now)
        self.patched = mock.patch.object(device_api, "time", clock)
        self.patched.start()
        self.open(self.folder / "0")
        for board in self.boards[:-2]:
            self.run(self.enrol(board))
        self.publish(["b0"], True, 0)

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the server's loop."""
        return self.loop.run_until_complete(what)

    def open(self, folder: Path) -> None:
        """A server starts on this folder."""
        self.storage = self.storage_on(folder)
        self.api = DeviceApi(self.storage)
        self.clock = Clock(self.storage, 300, self.now)
        self.seen = self.run(self.storage.read(look))
        event.listen(self.storage._engine, "commit", self.commit)

    def storage_on(self, folder: Path) -> SqliteStorage | PostgresStorage:
        """The database of the server in this folder."""
        return SqliteStorage(folder)

    def kill(self, db: Connection) -> Path:
        """Take from the server what it is about to commit; returns the next server's folder."""
        folder = self.folder / f"killed-{self.starts}"
        folder.mkdir()
        for name in ("server.db", "server.db-wal"):
            if (self.storage.folder / name).exists():
                shutil.copy(self.storage.folder / name, folder)
        return folder

    def teardown(self) -> None:
        """End, and leave nothing."""
        self.patched.stop()
        self.run(self.storage.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what must hold in every transaction

    def commit(self, db: Connection) -> None:
        """Look at what is about to be on the disk; called in the thread that writes."""
        DONE["commits"] += 1
        try:
            rows = look(db)
            for number, row in rows.items():
                self.check(number, row, self.seen.get(number))
            self.seen = rows
        except AssertionError as problem:
            self.broken.append(str(problem))
        self.kill_at -= 1
        if self.kill_at == 0:
            self.left_then = len(self.left)
            self.killed = self.kill(db)

    def check(self, number: int, row: Row, was: Row | None) -> None:
        """What holds for one rollout, given what the former transaction left."""
        assert row.counts == row.targets, f"{number}: {row.counts}, but {row.targets}"
        assert row.counts.offered <= row.in_flight, f"{number}: {row} is more than may be in flight"
        if was is None:
            assert row.told == 0, f"{number} began with boards"
            return
        if row.state != was.state:
            DONE[f"{was.state} -> {row.state}"] += 1
            assert row.state in rules.MOVES[was.state], f"{number}: {was.state} -> {row.state}"  # type: ignore[index]
            if row.state == "running":
                assert self.person, f"{number} went on by itself"
        elif row.state in CLOSED:
            assert row.told <= was.told, f"{number}: told another board while {row.state}"
        if row.wave != was.wave:
            DONE["waves opened"] += 1
            assert self.ticking and row.wave == was.wave + 1 and was.state == "running"
            counting = row.counts.ended - min(row.accepted_bad, row.counts.bad)
            assert row.counts.confirmed >= rules.SHARE * counting, f"{number}: too few confirmed"

    @invariant()
    def nothing_was_broken(self) -> None:
        """Of what every transaction must hold."""
        assert not self.broken, self.broken

    @invariant()
    def memory_is_what_the_disk_has(self) -> None:
        """Rollouts, their counts, and every board's part in them."""
        DONE["steps"] += 1
        lives, targets = self.run(self.storage.read(_all))
        have, away = self.storage.rollouts(), ("done", "cancelled", "superseded")
        assert have == [live for live in lives if live in have]
        assert all(live in have or live.rollout.state in away for live in lives)
        assert len(rules.needed(have)) <= len(rules.needed(lives)) <= len(have)
        for board in self.boards:
            known = self.run(self.storage.known(board.id))
            if known is None:
                continue
            rows = targets.get(board.id, {})
            kept = {number: rows[number] for number in sorted(rows)[-TARGETS_KEPT:]}
            have = {number: target.state for number, target in known.targets.items()}
            assert have == {n: kept[n] for n in have}, f"{board.id}: {have}, but {rows}"
            running = [
                live.rollout.id
                for live in self.storage.rollouts_of("app", "esp32", known.board.channel).lives
                if have.get(live.rollout.id) == "offered" and live.rollout.state == "running"
                and not rules.superseded(live, lives)
            ]  # fmt: skip
            assert len(running) <= 1, f"{board.id} is in flight in {running}"

    # --- boards

    async def enrol(self, board: Sim) -> None:
        """Flash it: a new key, no ticket, nothing known of it."""
        board.key, board.ticket, board.told = secrets.token_bytes(32), "", None
        board.seq, board.digest, board.state = 1, "a1" * 16, "ok"
        new = Board(board.id, "", "app", "esp32", board.key, False, self.now)
        await self.storage.enrol(new)

    async def send(self, board: Sim, body: bytes) -> None:
        """One poll, and what comes of its reply."""
        mac = hmac.digest(board.key, b"poll1\0" + body, "sha256").hex().encode()
        answer: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def keep(message: dict[str, Any]) -> None:
            answer.append(message)

        scope = {
            "path": "/d/v1/poll", "method": "POST", "client": ("127.0.0.1", 1),
            "headers": [(b"ota-mac", mac), (b"content-length", b"%d" % len(body))],
        }  # fmt: skip
        before = self.states()
        await self.api(scope, receive, keep)
        status = answer[0]["status"]
        DONE[f"answers {status}"] += 1
        if status != 200:
            assert status in (403, 503), status
            return
        reply = json.loads(answer[1]["body"])
        board.ticket = reply["k"]
        board.told = None
        if "m" in reply:
            board.told = self.storage.release(reply["m"])
            assert board.told
            self.told(board, board.told, json.loads(body), before)

    def states(self) -> dict[str, str]:
        """By the digest of the release: where its newest rollout is, in memory."""
        return {live.rollout.digest: live.rollout.state for live in self.lives()}

    def lives(self) -> list[rules.Live]:
        """What memory has of all rollouts, oldest first."""
        lines = self.storage._lines.values()
        every = [live for line in lines for live in (*line.over.values(), *line.lives)]
        return sorted(every, key=lambda live: live.rollout.id)

    def told(
        self, board: Sim, release: Release, said: dict[str, Any], before: dict[str, str]
    ) -> None:
        """What holds for a reply that names a release."""
        DONE["replies that name a release"] += 1
        known = self.storage._boards.get(board.id)
        if release.withdrawn is not None or (known and known.board.retired is not None):
            self.broken.append(f"{board.id} is told of {release.seq}, though policy refuses")
        if said["state"] == "recovery" and known and known.board.high == release.seq:
            return
        state = before[release.digest]
        number = max(
            live.rollout.id for live in self.lives() if live.rollout.digest == release.digest
        )
        if state not in ("running", "done"):
            self.broken.append(f"{board.id} is told of {number}, which is {state}")
        self.left.append((board, release, None if state == "done" else number))

    async def act(self, board: Sim, action: str) -> None:
        """What a board does, and its poll after that."""
        DONE[f"boards: {action}"] += 1
        told = board.told
        match action:
            case "install" if told:
                board.state, board.digest, board.seq = "trial", told.short, told.seq
            case "confirm" if board.state == "trial":
                board.state = "ok"
            case "install and confirm" if told:
                board.state, board.digest, board.seq = "ok", told.short, told.seq
            case "recovery":
                board.state = "recovery"
            case "lie":  # it says that it runs what it may never have been offered
                release = self.releases[-1]
                board.state, board.digest, board.seq = "ok", release.short, release.seq
            case _:
                pass
        more: dict[str, Any] = {}
        about = told.short if told else board.digest
        if action.startswith("fail") and about:
            why = action.removeprefix("fail ")
            more["bad"] = {"m": about, "why": why, "soft": int(why == "timeout"), "trace": "T"}
            if board.digest == about:
                board.digest, board.seq = "a1" * 16, 1
            board.state = "ok"
        if action == "crash":
            more["crash"] = {"n": 1, "trace": "T"}
        if action == "replay" and board.sent:
            await self.send(board, board.sent[0])
            return
        ticket, body = board.ticket, board.message(**more)
        if action == "twice":
            await asyncio.gather(self.send(board, body), self.send(board, body))
            return
        await self.send(board, body)
        if action == "lose the reply":
            board.ticket, board.told = ticket, told

    POLLS = st.lists(
        st.tuples(
            st.integers(0, BOARDS - 1),
            st.sampled_from(
                ["idle"] * 3 + ["install", "confirm"] + ["install and confirm"] * 4
                + ["fail exception", "fail timeout", "fail power", "fail class", "crash", "twice"]
                + ["recovery", "lie", "replay", "lose the reply"]
            ),
        ),
        min_size=1, max_size=BOARDS, unique_by=lambda one: one[0],
    )  # fmt: skip

    @rule(polls=POLLS)
    def boards_poll(self, polls: list[tuple[int, str]]) -> None:
        """Several at a time."""
        self.polls(polls)

    @rule(
        fates=st.lists(
            st.sampled_from([*["install and confirm"] * 6, "fail exception", "lose the reply"]),
            min_size=1,
            max_size=4,
        )
    )
    def all_poll(self, fates: list[str]) -> None:
        """Rounds, in each of which whoever is told of a release has one fate."""
        for fate in fates:
            self.polls([(n, "idle") for n in range(BOARDS)])
            self.polls([(n, fate) for n in range(BOARDS) if self.boards[n].told])

    def polls(self, polls: list[tuple[int, str]]) -> None:
        """These boards, together."""

        async def together() -> None:
            await asyncio.gather(
                *(self.act(self.boards[n], what) for n, what in polls if self.boards[n].key)
            )

        self.run(together())
        self.reply_implies_row(self.left)
        self.left = []

    def reply_implies_row(self, left: list[tuple[Sim, Release, int | None]]) -> None:
        """Who was told of a release by its rollout is a target on the disk."""
        targets = self.run(self.storage.read(_all))[1]
        for board, release, number in left:
            have = targets.get(board.id, {}).get(number) if number else "done"
            assert have, f"{board.id} was told of {release.digest[:4]}, and {number} knows nothing"

    @rule(polls=POLLS, after=st.integers(0, 3))
    def ends(self, polls: list[tuple[int, str]], after: int) -> None:
        """SIGKILL in the midst of a commit: what has not left has never been said. 0: in order."""
        if after == 0:
            DONE["restarted"] += 1
            self.restart(self.storage.folder)
            return
        boards = {n: (self.boards[n].ticket, self.boards[n].told) for n, _ in polls}
        self.kill_at, self.killed, self.left = after, None, []

        async def together() -> None:
            await asyncio.gather(
                *(self.act(self.boards[n], what) for n, what in polls if self.boards[n].key)
            )
            await self.storage.settle()

        self.run(together())
        self.kill_at = 0
        if self.killed is None:
            self.left = []
            return
        DONE["killed"] += 1
        left = self.left[: self.left_then]
        told = {board.id for board, _, _ in left}
        for n, (ticket, release) in boards.items():
            if self.boards[n].id not in told:
                self.boards[n].ticket, self.boards[n].told = ticket, release
        self.restart(self.killed)
        self.reply_implies_row(left)
        self.left = []

    def restart(self, folder: Path) -> None:
        """Another server, on that folder."""
        self.starts += 1
        self.run(self.storage.close())
        self.open(folder)

    @rule(
        n=st.integers(0, BOARDS - 1),
        change=st.sampled_from(["paused", "retired", "gone", *["back", "flashed"] * 3]),
    )
    def board_is_changed(self, n: int, change: str) -> None:
        """People flash it, pause it, retire it, take that back, or remove it."""
        DONE[f"boards: {change}"] += 1
        board = self.boards[n]
        if change == "flashed":
            self.run(self.enrol(board))
            return
        if change == "gone":
            board.key = b""
            self.run(self.storage.remove(board.id))
            return
        values = {
            "paused": {"paused": True},
            "retired": {"retired": self.now},
            "back": {"paused": False, "retired": None},
        }[change]
        verdict = policy.Verdict(values)
        self.run(self.storage.amend(board.id, lambda _: verdict, self.now))

    # --- time and people

    @rule(seconds=st.sampled_from([1, 60, 601, 3700]))
    def time_passes(self, seconds: int) -> None:
        """And the clock ticks."""
        self.now += seconds
        self.ticking = True
        self.run(self.clock.tick(self.now))
        self.run(self.clock.tick(self.now + 1))
        self.now += 1
        self.ticking = False

    @rule(
        action=st.sampled_from(
            [*["publish"] * 2, *["running"] * 5, *["retry"] * 3, "paused", "cancelled", "withdraw"]
        ),
        canary=st.lists(st.sampled_from(["b0", "b1", "b2"]), max_size=2, unique=True),
        strict=st.booleans(),
        soak=st.sampled_from([0, 60]),
    )
    def people(self, action: str, canary: list[str], strict: bool, soak: int) -> None:
        """Publish a release, withdraw the newest one, or steer its rollout."""
        self.person = True
        if action == "publish":
            self.publish(canary, strict, soak)
        elif action == "withdraw":
            digest = self.releases[-1].digest
            self.run(self.storage.write(statements.withdraw, digest, self.now, catalog=True))
        else:
            self.steer(max(self.seen), action)
        self.person = False

    def publish(self, canary: list[str], strict: bool, soak: int) -> None:
        """A newer release, which takes the place of what is under way."""
        n = len(self.releases) + 1
        release = Release(f"{n:064x}"[::-1], "app", "esp32", 1000 + n, 0, "-", 9, self.now)
        usual = {"waves": (50, 100), "in_flight": 2, "draft": n % 7 == 0}
        start = Start(canary=canary, strict=strict, soak_s=soak, **usual)
        self.releases.append(release)
        self.run(self.storage.write(rollouts.publish, release, start, self.now, catalog=True))
        DONE["people: publish"] += 1

    def steer(self, number: int, action: str) -> None:
        """Bring a rollout to another state, or let those try again that failed."""
        moves: list[Move] = []
        if action == "retry":
            found = self.run(self.storage.read(rollout_queries.ended_badly, number))
            moves = [Move(name, number, target.state, None) for name, target in found]

        def make(rollout: Rollout, counts: Counts) -> Rollout:
            if action == "retry":
                return rollout
            return rules.steered(rollout, counts, action, "lunch")  # type: ignore[arg-type]

        with contextlib.suppress(Forbidden):
            self.run(self.storage.steer(number, make, self.now, moves))
            DONE[f"people: {action}"] += 1


class OnPostgres(Server):
    """The same on PostgreSQL."""

    postgres: Postgres

    def __init__(self) -> None:
        self.url = self.postgres.schema()
        super().__init__()

    def storage_on(self, folder: Path) -> SqliteStorage | PostgresStorage:
        return PostgresStorage(folder, self.url)

    def kill(self, db: Connection) -> Path:
        backend = db.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert self.postgres.ask(f"SELECT pg_terminate_backend({backend}, 10000)") == [(True,)]
        return self.storage.folder

    def teardown(self) -> None:
        super().teardown()
        schema = self.url.rpartition("%3D")[2]
        self.postgres.ask(f"DROP SCHEMA {schema} CASCADE")


def _all(db: Connection) -> tuple[list[rules.Live], dict[str, dict[int, str]]]:
    """Rollouts, and targets by board and rollout."""
    targets: dict[str, dict[int, str]] = {}
    for row in db.execute(select(model.targets)):
        targets.setdefault(row.board, {})[row.rollout] = row.state
    return rollouts.lives(db), targets


def run(examples: int, server: type[Server] = Server) -> Counter[str]:
    """Let so many servers live; returns how often what happened."""
    DONE.clear()
    run_state_machine_as_test(
        server,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS_EACH,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    return DONE


def main() -> None:
    """Run until there were so many steps on each database; print what happened how often."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name in sys.argv[2:] or ["sqlite", "postgres"]:
        machine: type[Server] = Server
        if name == "postgres":
            OnPostgres.postgres, machine = Postgres(), OnPostgres
        done = run(max(1, steps // 30), machine)  # some end before STEPS_EACH
        print(f"on {name}:")
        for what, n in sorted(done.items()):
            print(f"{n:>8,}  {what}", flush=True)


if __name__ == "__main__":
    main()
