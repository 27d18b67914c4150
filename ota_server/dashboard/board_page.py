"""One board: what it runs, why not the newest release, what happened to it, and what people can do.

Each thing to do is a page that says what will happen, with one button.
"""

import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..condition import condition
from ..people.access import Who
from ..people.api_v1 import NAME, change_board
from ..people.problem import Problem
from ..policy import LISTENING_STATES, Known
from ..storage import queries
from ..storage.base import Storage
from ..why import Why, newest_for, why
from . import fleet_queries
from .fleet_page import by_short
from .site import Site, back, form, number

EVENTS_A_PAGE = 25
JOBS_LISTED = 20
DONE = {
    "update": "The board is offered the newest release when it reports next.",
    "rollback": "The board rolls back when it reports next.",
    "cancel": "Open orders are cancelled.",
    "pause": "Paused: the board keeps what it runs.",
    "resume": "Resumed: the board follows its channel again.",
    "rename": "Renamed.",
    "retire": "Retired: the board is answered, and offered nothing.",
    "reuse": "The board is in use again.",
}
# What is not here is said as it is called.
EVENTS = {
    "trial": "On trial",
    "recovery": "In recovery",
    "ok": "Runs",
    "refused": "Refused a release",
    "hold": "Paused",  # as it was called before
    "follow": "Resumed",
    "in-use": "In use again",
    "name": "Renamed",
    "channel": "Channel changed",
    "webrepl-open": "WebREPL opened",
    "webrepl-closed": "WebREPL closed",
    "wrong-password": "Wrong WebREPL passwords",
    "wrong-seq": "Reports a wrong number",
    "twin": "Two boards may have one identity",
}


def routes(site: Site) -> list[BaseRoute]:
    """`/boards/<id>`, and `/boards/<id>/<action>` for each thing to do."""

    async def page(request: Request) -> Response:
        known = await _known(site, request)
        return await site.show(request, "board.html", lambda db: _shown(site, db, known, request))

    async def ask(request: Request) -> Response:
        known, name = await _known(site, request), request.path_params["action"]
        action = _action(name)
        path = f"/boards/{known.board.id}"
        values = action.ask(site.storage, known)
        values |= {"section": "fleet", "back": path, "action": f"{path}/{name}"}
        return site.html(request, "confirm.html", **values)

    async def act(request: Request) -> Response:
        known, name = await _known(site, request), request.path_params["action"]
        action = _action(name)
        action.ask(site.storage, known)  # which refuses what has become impossible meanwhile
        await action.act(site, request.state.who, known, await form(request))
        return back(f"/boards/{known.board.id}", name)

    path = "/boards/{id}/{action}"
    return [
        site.page("/boards/{id}", page),
        site.page(path, ask, "operate"),
        site.action(path, act, "operate"),
    ]


async def _known(site: Site, request: Request) -> Known:
    board = await site.people.named(request.path_params["id"])
    known = await site.storage.known(board.id)
    if known is None:
        raise Problem(404, "board", f"there is no board '{board.id}'", "see the fleet")
    return known


def _shown(site: Site, db: Connection, known: Known, request: Request) -> dict[str, Any]:
    now, storage = time.time(), site.storage
    # From the database, like all else on the page: what is in memory goes on while this is made.
    known = queries.known(db, [known.board.id]).get(known.board.id, known)
    board = known.board
    state = condition(board, now)
    releases = storage.releases_of(board.app, board.cls)
    line = storage.rollouts_of(board.app, board.cls, board.channel)
    offset = number(request, "offset")
    total, history = fleet_queries.board_events(db, board.id, EVENTS_A_PAGE, offset)
    jobs = sorted(json.loads(board.jobs or "{}").items())
    found = why(known, releases, line, state, now)
    return {
        "section": "fleet",
        "live": f"/live?board={board.id}",
        "done": DONE.get(request.query_params.get("done", "")),
        "board": board,
        "condition": state,
        "tags": fleet_queries.board_tags(db, board.id),
        "why": found,
        "releases": by_short(storage),
        "jobs": jobs[:JOBS_LISTED],
        "heap": site.heap.curve(board.id),
        "orders": [order.title for order in known.orders],
        "rejected": list(reversed(known.rejected.values())),
        "history": history,
        "names": EVENTS,
        "total": total,
        "offset": offset,
        "most": EVENTS_A_PAGE,
        "address": f"/boards/{board.id}?offset={offset}",
        "actions": _possible(known, found),
        "may": request.state.who.may("operate"),
    }


def _possible(known: Known, found: Why) -> list[tuple[str, str]]:
    """What can be done now, by its name and the button's words."""
    board = known.board
    if board.retired is not None:
        return [("reuse", "Use again")]
    names = [("update", "Update now")] if found.kind == "own" else []
    if board.state in LISTENING_STATES:
        names.append(("rollback", "Roll back"))
    names.append(("resume", "Resume") if board.paused else ("pause", "Pause"))
    if known.orders:
        names.append(("cancel", "Cancel orders"))
    return [*names, ("rename", "Rename"), ("retire", "Retire")]


# --- what can be done -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do with a board.

    Attributes:
        ask: what the page asks before it is done; raises Problem where it is not possible.
        act: does it, with the fields of that page.
    """

    ask: Callable[[Storage, Known], dict[str, Any]]
    act: Callable[[Site, Who, Known, dict[str, str]], Awaitable[None]]


def _action(name: str) -> Action:
    if name not in _ACTIONS:
        raise Problem(404, "action", "there is no such page", "go back to the fleet")
    return _ACTIONS[name]


def _asks(
    title: str, text: str, button: str, **more: Any
) -> Callable[[Storage, Known], dict[str, Any]]:
    def ask(_: Storage, known: Known) -> dict[str, Any]:
        called = known.board.name or known.board.id
        said = {"title": title.format(called), "text": text.format(called), "button": button}
        plain: dict[str, Any] = {"fields": [], "danger": False}
        return plain | said | more

    return ask


def _orders(order: str) -> Callable[[Site, Who, Known, dict[str, str]], Awaitable[None]]:
    async def act(site: Site, who: Who, known: Known, _: dict[str, str]) -> None:
        await site.people.give(who, known.board, order)

    return act


def _changes(**wanted: Any) -> Callable[[Site, Who, Known, dict[str, str]], Awaitable[None]]:
    async def act(site: Site, who: Who, known: Known, _: dict[str, str]) -> None:
        values = {name: value() if callable(value) else value for name, value in wanted.items()}
        await change_board(site.storage, who, known.board, values)

    return act


def _ask_rollback(_: Storage, known: Known) -> dict[str, Any]:
    board = known.board
    if board.state not in LISTENING_STATES or board.retired is not None:
        text = "the board does not listen to orders in its present state"
        raise Problem(409, "state", text, "wait until it runs a release")
    text = (
        "It goes back to the release that it ran before, and does not take the present one again"
        " until you press “Update now”. Without a former release on the board nothing changes."
    )
    return _asks("Roll back {}?", text, "Roll back", danger=True)(_, known)


def _ask_update(storage: Storage, known: Known) -> dict[str, Any]:
    found = _standing(storage, known)
    if found.kind != "own" or found.newest is None:
        raise Problem(409, "update", found.text.rstrip("."), "wait for the board")
    note = found.newest.note if found.newest.note not in ("", "-") else "the newest release"
    steps = [found.text]
    if known.board.paused:
        steps.append("It is resumed.")
    steps.append(f"It is offered “{note}” when it reports next.")
    return _asks("Update {} now?", "", "Update now")(storage, known) | {"text": " ".join(steps)}


async def _update(site: Site, who: Who, known: Known, _: dict[str, str]) -> None:
    """Take away what of the board's own keeps it from the newest release."""
    board = known.board
    newest = newest_for(known, site.storage.releases_of(board.app, board.cls))
    if board.paused:
        await site.people.give(who, board, "follow")
    if newest is None:
        return
    if newest.short in known.rejected:
        await site.people.give(who, board, f"retry {newest.short}")
    else:
        await site.people.try_again(who, board, newest.short)


def _standing(storage: Storage, known: Known) -> Why:
    board = known.board
    line = storage.rollouts_of(board.app, board.cls, board.channel)
    return why(known, storage.releases_of(board.app, board.cls), line, "ok", time.time())


def _ask_rename(_: Storage, known: Known) -> dict[str, Any]:
    field = {
        "name": "name", "label": "New name", "value": known.board.name, "most": 32,
        "needed": True, "pattern": NAME, "hint": "Letters, digits, “.”, “_” and “-”.",
    }  # fmt: skip
    text = f"Its id stays {known.board.id}."
    return _asks("Rename {}", text, "Rename", fields=[field])(_, known)


async def _rename(site: Site, who: Who, known: Known, fields: dict[str, str]) -> None:
    name = fields.get("name", "")
    if not re.fullmatch(NAME, name):
        hint = "letters, digits, '.', '_' and '-', at most 32"
        raise Problem(422, "name", "that is no name for a board", hint)
    await change_board(site.storage, who, known.board, {"name": name})


_ACTIONS: dict[str, Action] = {
    "update": Action(_ask_update, _update),
    "rollback": Action(_ask_rollback, _orders("rollback")),
    "cancel": Action(
        _asks("Cancel the orders of {}?", "What it has not begun is not done.", "Cancel orders"),
        _orders("cancel"),
    ),
    "pause": Action(
        _asks("Pause {}?", "It keeps what it runs until you resume it; it goes on reporting.",
              "Pause"),
        _orders("pause"),
    ),
    "resume": Action(
        _asks("Resume {}?", "It is offered the newest release of its channel again.", "Resume"),
        _orders("follow"),
    ),
    "rename": Action(_ask_rename, _rename),
    "retire": Action(
        _asks(
            "Retire {}?",
            "It is offered nothing any more and leaves the lists. You can use it again later.",
            "Retire", danger=True,
        ),
        _changes(retired=time.time),
    ),
    "reuse": Action(
        _asks("Use {} again?", "It follows its channel again.", "Use again"),
        _changes(retired=None),
    ),
}  # fmt: skip
