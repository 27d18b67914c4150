"""The pages of rollouts: all of them, one while it goes on, and what a person does with it."""

import time
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import rollout as rules
from ..people.problem import Problem
from ..people.rollouts_api import Steer, no_rollout, steered
from ..rollout import Counts, Live, Rollout
from ..storage import release_queries, rollout_listing, rollout_queries
from ..storage import rollouts as stored
from ..storage.base import Storage
from . import release_view, rollout_view
from .site import ROWS_A_PAGE, Site, back, form, number

REASON_CHARS = 200
GOING_ON = ("running", "paused", "halted")


@dataclass(frozen=True, slots=True)
class Action:
    """What a person can do with a rollout, with the page that asks before it is done.

    Attributes:
        done: what the rollout's page says afterwards.
        reason: it is asked for one.
    """

    title: str
    text: str
    done: str
    reason: bool = False
    danger: bool = False


ACTIONS = {
    "start": Action(
        "Start", "Boards are offered the release from now on, wave by wave.", "The rollout runs."
    ),
    "pause": Action(
        "Pause",
        "Nobody new is offered the release until somebody resumes it. Boards that were offered it"
        " go on.",
        "The rollout is paused.",
        reason=True,
    ),
    "resume": Action(
        "Resume",
        "Boards are offered the release again. After a halt, this accepts the failures so far: they"
        " count no more.",
        "The rollout goes on.",
        reason=True,
    ),
    "approve": Action(
        "Approve the next wave",
        "The next wave opens as soon as enough boards have confirmed the release.",
        "The next wave is approved.",
    ),
    "retry": Action(
        "Retry",
        "Boards that failed the release, or fell silent, are offered it again. If that takes back"
        " what halted the rollout, it goes on.",
        "The release is offered again.",
    ),
    "cancel": Action(
        "Cancel",
        "This ends the rollout for good. Boards that have the release keep it; `mipy rollback`"
        " sends them back.",
        "The rollout is cancelled.",
        reason=True,
        danger=True,
    ),
}
_DONE = {name: action.done for name, action in ACTIONS.items()}


def possible(rollout: Rollout, counts: Counts) -> list[str]:
    """What can be done with a rollout as it is, the usual first."""
    match rollout.state:
        case "draft":
            found = ["start", "cancel"]
        case "running":
            found = ["pause", "cancel"]
            if rollout.approval and rollout.approved <= rollout.wave < rollout.last_wave:
                found.insert(0, "approve")
        case "paused":
            found = ["resume", "cancel"]
        case "halted":
            found = ["resume", "cancel"]
        case _:
            return []
    if counts.bad and rollout.state in GOING_ON:
        found.insert(-1, "retry")
    return found


def routes(site: Site) -> list[BaseRoute]:
    """The pages, and the forms' actions."""
    storage = site.storage

    def listed(db: Connection, offset: int) -> tuple[int, dict[str, Any]]:
        return _listed(db, storage, offset)

    async def one(request: Request) -> Response:
        n, offset = request.path_params["number"], number(request, "offset")
        only = request.query_params.get("state", "")
        done = _DONE.get(request.query_params.get("done", ""), "")
        # The event loop changes counts in place: a page has those of one moment.
        alive = [replace(live) for live in storage.rollouts()]

        def make(db: Connection) -> dict[str, Any]:
            return _one(db, storage, alive, n, only, offset) | {"done": done}

        return await site.show(request, "rollout.html", make)

    async def ask(request: Request) -> Response:
        n, name = request.path_params["number"], request.path_params["action"]
        action, board = _action(name), request.query_params.get("board", "")
        row = await storage.read(rollout_listing.row, n)
        if row is None:
            raise no_rollout(n)
        reason = {
            "name": "reason", "label": "Reason", "value": "", "most": REASON_CHARS, "needed": True,
            "pattern": "", "hint": "The rollout's page and the audit show it.",
        }  # fmt: skip
        of = f" of board {board}" if board else ""
        return site.html(
            request,
            "confirm.html",
            section="rollouts",
            title=f"{action.title}{of}: rollout {n}",
            text=action.text,
            action=f"/rollouts/{n}/{name}" + (f"?{urlencode({'board': board})}" if board else ""),
            fields=[reason] if action.reason else [],
            button=action.title,
            danger=action.danger,
            back=f"/rollouts/{n}",
        )

    async def act(request: Request) -> Response:
        n, name = request.path_params["number"], request.path_params["action"]
        action, said = _action(name), await form(request)
        reason = said.get("reason", "")
        if action.reason and not reason:
            raise Problem(
                422, "reason", "a reason is needed", "go back and say why, in a few words"
            )
        try:
            wanted = Steer.model_validate(
                {
                    "action": name,
                    "reason": reason,
                    "board": request.query_params.get("board") or None,
                }
            )
        except ValidationError as problem:
            text = f"a reason has at most {REASON_CHARS} characters"
            raise Problem(422, "reason", text, "go back and say it in fewer words") from problem
        await steered(storage, site.people.named, n, wanted, request.state.who)
        return back(f"/rollouts/{n}", name)

    path = "/rollouts/{number:row}"
    return [
        site.listing("rollouts", listed),
        site.page(path, one),
        site.page(path + "/{action}", ask, "operate"),
        site.action(path + "/{action}", act, "operate"),
    ]


def _action(name: str) -> Action:
    found = ACTIONS.get(name)
    if found is None:
        raise Problem(404, "action", "there is no such action", "see the rollout's page")
    return found


def _listed(db: Connection, storage: Storage, offset: int) -> tuple[int, dict[str, Any]]:
    total, rows = rollout_queries.listed(db, [], ROWS_A_PAGE, offset)
    found = [(row, stored.live_of(row)) for row in rows]
    return total, {
        "rollouts": [
            {"row": row, "live": live, "release": storage.release(live.rollout.digest)}
            for row, live in found
        ],
    }


def _one(
    db: Connection, storage: Storage, alive: list[Live], n: int, only: str, offset: int
) -> dict[str, Any]:
    row, now = rollout_listing.row(db, n), time.time()
    if row is None:
        raise no_rollout(n)
    live = stored.live_of(row)
    rollout = live.rollout
    line = [one for one in alive if one.line == live.line]
    release = storage.release(rollout.digest)
    releases = storage.releases_of(live.app, live.cls)
    part = rollout_listing.part(
        db, row, live, line, release, releases, now, ROWS_A_PAGE, offset, only
    )
    last = max((at for at, _, _ in part.ended), default=row.started)
    end = now if rollout.state == "running" else last
    points = rollout_view.curve(part.ended, row.started, end)
    causes = release_view.causes(release_queries.failures_of_rollout(db, n))
    query = {"state": only} if only else {}
    return {
        "section": "rollouts",
        "live": "/live",
        "row": row,
        "rollout": rollout,
        "place": live,
        "counts": live.counts,
        "release": release,
        "words": rollout_view.in_words(rollout, live.counts, now),
        "significance": rules.SIGNIFICANCE,
        "standing": rollout_view.standing(rollout, live.counts),
        "waves": rollout_view.waves(rollout, part.targets, part.waiting),
        "points": rollout_view.told_apart(points),
        "paths": rollout_view.lines(points),
        "top": rollout_view.top(points),
        "ended": bool(part.ended),
        "end": end,
        "boards": part.boards,
        "total": part.total,
        "offset": offset,
        "most": ROWS_A_PAGE,
        "states": rollout_listing.ORDER,
        "only": only,
        "query": query,
        "causes": causes[: release_view.CAUSES_SHOWN],
        "causes_in_all": len(causes),
        "actions": [(name, ACTIONS[name]) for name in possible(rollout, live.counts)],
    }
