"""Rollouts in the people's API, version 1: see, rehearse, start, steer."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query
from pydantic import BaseModel, Field, field_validator
from sqlalchemy import Connection

from .. import policy
from .. import rollout as rules
from ..policy import Board, Known, Move, Release, Verdict
from ..rollout import Counts, Forbidden, Live, Rollout
from ..storage import rollout_queries, rollouts
from ..storage.base import Storage
from ..storage.rollouts import Start
from .access import Who
from .problem import Problem

Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Percent = Annotated[int, Field(ge=1, le=100)]
Minute = Annotated[int, Field(ge=0, lt=24 * 60)]
Seconds = Annotated[int, Field(ge=0, le=30 * 86400)]
Number = Annotated[int, Path(ge=1, lt=10**18)]
Find = Callable[[str], Awaitable[Board]]
BOARDS_NAMED = 50
NAMES_SHOWN = 500
"""Of a canary: one by a tag may be as large as the fleet."""
LISTED = 100


class Wanted(BaseModel):
    """How a release is to go out; what is left out is as the size of the fleet has it."""

    channel: Tag | None = None
    canary: list[Name] = Field([], max_length=BOARDS_NAMED)
    tag: Tag | None = None
    boards: list[Name] | None = Field(None, max_length=BOARDS_NAMED)
    waves: list[Percent] | None = Field(None, min_length=1, max_length=10)
    in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None
    tolerated: Annotated[float, Field(ge=0, lt=1)] | None = None
    strict: bool | None = None
    silence_s: Seconds | None = None
    soak_s: Seconds | None = None
    hours: tuple[Minute, Minute] | None = None
    approval: bool = False
    draft: bool = False

    @field_validator("waves")
    @classmethod
    def _grow(cls, waves: list[int] | None) -> list[int] | None:
        if waves is not None and (waves != sorted(set(waves)) or waves[-1] != 100):
            raise ValueError("waves are growing percentages, and the last is 100")
        return waves


class Begin(Wanted):
    """A rollout of a release that the server has."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rehearse: bool = False


class Steer(BaseModel):
    """What is to be done with a rollout, and why."""

    action: Literal["start", "pause", "resume", "cancel", "approve", "retry"]
    reason: Annotated[str, Field(max_length=200)] = ""
    board: Name | None = None


async def start_of(find: Find, said: Wanted, who: Who, release: Release) -> Start:
    """How a release is to go out, with boards by their ids; those of other classes are left out.

    Raises:
        Problem: a board is not there, or of another app.
    """

    async def ids(names: list[str]) -> list[str]:
        found = [await find(name) for name in names]
        for name, board in zip(names, found, strict=True):
            if board.app != release.app:
                text = f"'{name}' is a board of the app '{board.app}', not of '{release.app}'"
                raise Problem(409, "app", text, f"see `mipy boards --app {release.app}`")
        return [board.id for board in found if board.cls == release.cls]

    return Start(
        said.channel or "stable",
        await ids(said.canary),
        said.tag,
        None if said.boards is None else await ids(said.boards),
        tuple(said.waves) if said.waves else None,
        said.in_flight,
        said.tolerated,
        said.strict,
        said.silence_s,
        said.soak_s,
        said.hours,
        said.approval,
        said.draft,
        who.name,
    )


def as_json(live: Live, release: Release | None, named: bool = True) -> dict[str, Any]:
    """What people are told of a rollout.

    Args:
        named: with the boards of the canary and of the selection, not just how many they are.
    """
    facts, most = asdict(live.rollout), NAMES_SHOWN if named else 0
    for name in ("canary", "members"):
        boards = getattr(live.rollout, name)
        facts[name] = None if boards is None else sorted(boards)[:most]
        facts[f"{name}_in_all"] = None if boards is None else len(boards)
    facts |= {"app": live.app, "class": live.cls, "channel": live.channel}
    facts |= {"counts": asdict(live.counts), "waves_in_all": live.rollout.last_wave + 1}
    facts |= {"seq": release.seq if release else 0, "note": release.note if release else ""}
    facts |= {"published": release.published if release else None}
    return facts


def add(api: FastAPI, storage: Storage, find: Find, needs: Callable[[str], Any]) -> None:
    """Add the routes.

    Args:
        find: the board of an id or name.
        needs: what FastAPI depends on for callers with a role.
    """
    reader, publisher, operator = needs("read"), needs("publish"), needs("operate")

    @api.get("/rollouts")
    async def listed(
        _: Who = reader,
        state: Annotated[list[str] | None, Query(max_length=8)] = None,
        limit: Annotated[int, Query(ge=1, le=LISTED)] = 50,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> dict[str, Any]:
        """Rollouts, the newest first; boards are named of those that run."""
        total, rows = await storage.read(rollout_queries.listed, state or [], limit, offset)
        lives = [rollouts.live_of(row) for row in rows]
        every = [
            as_json(live, storage.release(live.rollout.digest), live.rollout.state == "running")
            for live in lives
        ]
        return {"total": total, "rollouts": every}

    @api.get("/rollouts/{number}")
    async def show(number: Number, _: Who = reader) -> dict[str, Any]:
        """One rollout: its boards, with what they said of a failure, and who waits, and why."""
        return await _shown(storage, number)

    @api.post("/rollouts", status_code=201)
    async def begin(said: Begin, who: Who = publisher) -> dict[str, Any]:
        """Start a rollout of a release, in a channel that it is or is not in; or rehearse it."""
        release = storage.release(said.digest)
        if release is None:
            raise Problem(404, "release", "there is no such release", "see `mipy status`")
        if release.withdrawn is not None:
            raise Problem(409, "withdrawn", "this release was withdrawn", "reissue it")
        wanted, now = await start_of(find, said, who, release), time.time()
        if said.rehearse:
            releases = storage.releases_of(release.app, release.cls)
            return await storage.read(_rehearsed, release, releases, wanted, now)
        entry = who.audit("start rollout", release.digest, after=said.model_dump(mode="json"))
        number = await storage.write(
            rollouts.promote, release, wanted, now, catalog=True, audit=entry
        )
        return await _shown(storage, number)

    @api.post("/rollouts/{number}")
    async def steer(number: Number, said: Steer, who: Who = operator) -> dict[str, Any]:
        """Start, pause, resume, cancel, approve a rollout, or offer it again where it failed."""
        await steered(storage, find, number, said, who)
        return await _shown(storage, number)


async def steered(storage: Storage, find: Find, number: int, said: Steer, who: Who) -> None:
    """Do with a rollout what a person wants.

    Raises:
        Problem: there is no such rollout, or that cannot be done with it as it is.
    """
    now, moves = time.time(), list[Move]()
    await _check_other(storage, number, said, who)
    if said.action == "retry":
        board = (await find(said.board)).id if said.board else None
        moves = await _retried(storage, number, board, now)
    entry = who.audit(f"{said.action} rollout", str(number), after=said.reason)

    def make(rollout: Rollout, counts: Counts) -> Rollout:
        return _steered(rollout, counts, said, who)

    try:
        found = await storage.steer(number, make, now, moves, entry)
    except Forbidden as problem:
        hint = f"see `mipy rollout show {number}`"
        raise Problem(409, "state", str(problem), hint) from problem
    if found is None:
        raise no_rollout(number)
    for move in moves:
        storage.nudge(move.board)


async def _check_other(storage: Storage, number: int, said: Steer, who: Who) -> None:
    """Who started a rollout does not approve it, unless nobody stands above him."""
    if said.action != "approve" or who.may("admin"):
        return
    found = await storage.read(rollout_queries.show, number)
    if found is not None and found["row"].operator == who.name:
        text = f"you started rollout {number}: another person approves its waves"
        raise Problem(403, "approval", text, "ask somebody with the role operate or admin")


def no_rollout(number: int) -> Problem:
    """Nothing has this number."""
    return Problem(404, "rollout", f"there is no rollout {number}", "see `mipy rollout show`")


def _steered(rollout: Rollout, counts: Counts, said: Steer, who: Who) -> Rollout:
    match said.action:
        case "start" | "resume":
            wanted = "draft" if said.action == "start" else "paused or halted"
            if (rollout.state == "draft") != (said.action == "start"):
                raise Forbidden(f"rollout {rollout.id} is not {wanted}")
            return rules.steered(rollout, counts, "running")
        case "pause":
            return rules.steered(rollout, counts, "paused", said.reason)
        case "cancel":
            return rules.steered(rollout, counts, "cancelled", said.reason)
        case "approve":
            if rollout.state != "running" or not rollout.approval:
                raise Forbidden(f"rollout {rollout.id} does not wait for approval")
            return replace(rollout, approved=rollout.wave + 1)
        case "retry":
            if rollout.state == "halted" and not rules.halting_rule(rollout, counts):
                # What halted it is taken back by a person.
                return rules.steered(rollout, counts, "running")
            return rollout


async def retry_board(storage: Storage, number: int, board: str, who: Who) -> None:
    """Offer a rollout's release again to one board that failed it, if it did."""
    found = await storage.read(rollout_queries.ended_badly, number, board)
    moves = [Move(name, number, target.state, None) for name, target in found]
    if moves:
        said = Steer(action="retry")
        entry = who.audit("retry rollout", str(number), after=board)

        def make(rollout: Rollout, counts: Counts) -> Rollout:
            return _steered(rollout, counts, said, who)

        await storage.steer(number, make, time.time(), moves, entry)
        storage.nudge(board)


async def _retried(storage: Storage, number: int, board: str | None, now: float) -> list[Move]:
    """Moves that have boards offered a rollout's release again; they are told to forget theirs."""
    digest = await storage.read(rollout_queries.digest_of, number)
    if digest is None:
        raise no_rollout(number)
    found = await storage.read(rollout_queries.ended_badly, number, board)
    if not found:
        raise Problem(409, "nothing", "no board has failed it", f"see `mipy rollout show {number}`")
    short = digest[:32]

    def forget(known: Known) -> Verdict:
        return policy.give(known, f"retry {short}")

    for name, _ in found:
        known = await storage.known(name)
        if known and short in known.rejected:
            await storage.amend(name, forget, now)
    return [Move(name, number, target.state, None) for name, target in found]


async def _shown(storage: Storage, number: int) -> dict[str, Any]:
    found = await storage.read(rollout_queries.show, number)
    if found is None:
        raise no_rollout(number)
    live = rollouts.live_of(found["row"])
    release = storage.release(live.rollout.digest)
    shown = as_json(live, release) | {"boards": found["boards"]}
    shown |= {"started": found["row"].started, "operator": found["row"].operator}
    total, waiting = 0, list[dict[str, Any]]()
    if release is not None and live.rollout.state != "cancelled":
        line = [replace(one) for one in storage.rollouts_of(*live.line).lives]
        releases = storage.releases_of(live.app, live.cls)
        question = rollout_queries.waiting
        asked = live, line, release, releases, time.time()
        total, waiting = await storage.read(question, *asked)
    return shown | {"waiting": waiting, "waiting_in_all": total}


def _rehearsed(
    db: Connection, release: Release, releases: Any, wanted: Start, now: float
) -> dict[str, Any]:
    number = rollouts.next_number(db)
    live = rollouts.planned(db, release, wanted, now, number)
    total, waiting = rollout_queries.waiting(db, live, [live], release, releases, now)
    return as_json(live, release) | {
        "boards": [],
        "waiting": waiting,
        "waiting_in_all": total,
    }
