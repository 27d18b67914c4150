"""The people's API, version 1: boards by page, filter and order. `/api/v1/openapi.json` has it.

What is not here yet is under `/api/`, with the same tokens, roles and errors (`api`).
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.responses import Response

from mipy_ota import __version__

from ..condition import Condition
from ..policy import Board, Event, Known, Verdict
from ..storage import queries, statements
from ..storage.base import Storage
from . import rollouts_api
from .access import Who
from .api import JSON_BYTES, PeopleApi, Problem, board_json

Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")]
NAME = r"[A-Za-z0-9_.-]{1,32}"
"""What people may call a board."""
Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Boards(BaseModel):
    """One page of boards."""

    total: int
    boards: list[dict[str, Any]]


class Change(BaseModel):
    """What is to change of a board; what is left out stays."""

    name: Name | None = None
    channel: Tag | None = None
    paused: bool | None = None
    retired: bool | None = None
    tags: list[Tag] | None = Field(None, max_length=16)


def make(
    people: PeopleApi, handlers: dict[Any, Callable[[Any, Any], Awaitable[Response]]]
) -> FastAPI:
    """The application, to be mounted at `/api/v1`.

    Args:
        people: admits callers, and finds boards.
        handlers: of exceptions; every error has the one form.
    """
    api = FastAPI(title="MiPy-OTA", version=__version__, docs_url=None, redoc_url=None)
    api.add_middleware(_SmallBodies)
    for problem, handler in handlers.items():
        api.add_exception_handler(problem, handler)
    api.add_exception_handler(RequestValidationError, _wrong)
    storage = people.storage

    def needs(role: str) -> Any:
        async def admitted(request: Request) -> Who:
            return await people.admit(request, role)

        return Depends(admitted)

    reader, operator = needs("read"), needs("operate")
    rollouts_api.add(api, storage, people.named, needs)

    @api.get("/boards")
    async def boards(
        _: Who = reader,
        state: Condition | None = None,
        app: str | None = None,
        tag: str | None = None,
        search: Annotated[str | None, Query(max_length=64)] = None,
        retired: bool = False,
        sort: Literal["id", "name", "last_seen"] = "id",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> Boards:
        """Boards that are meant by all of the filters; `search` is part of an id or name."""
        wanted = queries.Wanted(state, app, tag, search, retired)
        total, found = await storage.read(queries.page, wanted, sort, limit, offset, time.time())
        return Boards(total=total, boards=[board_json(known) | {"tags": t} for known, t in found])

    @api.patch("/boards/{board}")
    async def change(board: str, said: Change, who: Who = operator) -> dict[str, Any]:
        """Rename, pause, retire a board, or give it a channel or tags."""
        found = await people.named(board)
        wanted = said.model_dump(exclude_unset=True, exclude_none=True)
        tags = wanted.pop("tags", None)
        if "retired" in wanted:
            wanted["retired"] = time.time() if wanted["retired"] else None
        if wanted:
            await change_board(storage, who, found, wanted)
        if tags is not None:
            entry = who.audit("tag board", found.id, after=tags)
            await storage.write(statements.tag, found.id, sorted(set(tags)), audit=entry)
        return {"id": found.id, "changed": sorted(said.model_fields_set)}

    @api.delete("/boards/{board}")
    async def remove(board: str, who: Who = operator) -> dict[str, str]:
        """Forget a board, its key and its history. Its polls are a stranger's from now on."""
        found = await people.named(board)
        await storage.remove(found.id, audit=who.audit("remove board", found.id, found.name))
        return {"id": found.id}

    return api


async def change_board(storage: Storage, who: Who, board: Board, wanted: dict[str, Any]) -> None:
    """Change what people decide of a board, by the names of its fields."""
    before = {name: getattr(board, name) for name in wanted}
    entry = who.audit("change board", board.id, before, wanted)

    def verdict(_: Known) -> Verdict:
        return Verdict(dict(wanted), _noted(wanted))

    await storage.amend(board.id, verdict, time.time(), entry)


class _SmallBodies:
    """Refuses long bodies by what is announced: FastAPI reads them before it admits a caller."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or int(length) > JSON_BYTES:
            text = "the body is larger than allowed, or its length is not announced"
            await Problem(413, "size", text, close=True).answer()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _noted(changes: dict[str, Any]) -> list[Event]:
    """What the board's history says of a change."""
    noted: list[Event] = []
    if "paused" in changes:
        noted.append(Event("paused" if changes["paused"] else "follow"))
    if "retired" in changes:
        noted.append(Event("retired" if changes["retired"] else "in-use"))
    noted += [Event(name, text=changes[name]) for name in ("name", "channel") if name in changes]
    return noted


async def _wrong(request: Request, problem: Any) -> Response:
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    text = f"'{where}': {first['msg'][:1].lower()}{first['msg'][1:]}"
    return Problem(422, "value", text, "see /api/v1/openapi.json").answer()
