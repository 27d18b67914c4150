"""What the pages stand on: who may see and do what, forms, templates, and news while one looks.

A family of pages is a module of its own (`fleet_page`, `board_page`, ...) with a function
`routes(site)`. Its templates extend `base.html` and take their parts from `parts.html`.

1. A page without a login leads to it; what is missing or forbidden is a page, too.
2. What changes something is a POST from a page of this server's own, answered by a redirect.
3. Templates are rendered where the database is read: in a thread, not on the event loop.
"""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import Connection
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ..people.access import Who
from ..people.api import JSON_BYTES, JSON_SECONDS, PeopleApi, own_pages_only
from ..people.problem import Problem
from ..storage.base import Storage
from ..web import assets
from ..web.limits import read_body
from .heap_history import HeapHistory

ROWS_A_PAGE = 50
LIVE_SECONDS = 1.0
"""At most one piece of news in so many seconds, however many boards report."""
QUIET_SECONDS = 15
"""Without news a comment goes out, so that a connection that has ended is noticed."""
LIVE_PAGES = 200
"""Pages that may listen at once."""
FIELDS = 20
FILES = {
    "/style.css": ("pages/style.css", "text/css"),
    "/assets/page.js": ("pages/page.js", "text/javascript"),
    "/assets/pico.css": ("static/pico.css", "text/css"),
    "/assets/htmx.js": ("static/htmx.js", "text/javascript"),
}
Endpoint = Callable[[Request], Awaitable[Response]]


class Site:
    """The pages' common ground.

    Args:
        people: knows who has logged in, and renders.
    """

    def __init__(self, people: PeopleApi) -> None:
        self.people = people
        self.storage: Storage = people.storage
        self.heap = HeapHistory(people.storage)
        self._changes: Counter[str] = Counter()  # by board; "" is all of them
        self._listening = 0
        self.storage.watchers.append(self._changed)

    def routes(self) -> list[BaseRoute]:
        """What all pages load, and `/live`."""
        return [self.page("/live", self._live), *assets.routes(FILES)]

    # --- who may see and do what ---

    def page(self, path: str, endpoint: Endpoint, role: str = "read") -> Route:
        """A page for people with this role; `request.state.who` says who asks."""
        return Route(path, self._admitted(endpoint, role), methods=["GET"])

    def listing(
        self, section: str, rows: Callable[[Connection, int], tuple[int, dict[str, Any]]]
    ) -> Route:
        """The page of a section that lists everything in it, `ROWS_A_PAGE` at a time.

        Args:
            section: its name, in the address and of the template too.
            rows: (connection, offset) -> how many there are, and what the template shows of them.
        """

        def made(db: Connection, offset: int) -> dict[str, Any]:
            total, values = rows(db, offset)
            said = {"section": section, "live": "/live", "url": f"/{section}?offset={offset}"}
            return said | {"total": total, "offset": offset, "most": ROWS_A_PAGE} | values

        async def listed(request: Request) -> Response:
            offset = number(request, "offset")
            return await self.show(request, f"{section}.html", lambda db: made(db, offset))

        return self.page(f"/{section}", listed)

    def action(self, path: str, endpoint: Endpoint, role: str = "operate") -> Route:
        """What a form of this server's own pages does, by people with this role."""
        return Route(path, own_pages_only(self._admitted(endpoint, role)), methods=["POST"])

    def _admitted(self, endpoint: Endpoint, role: str) -> Endpoint:
        async def admitted(request: Request) -> Response:
            who = await self.people.knows(request)
            if who is None:
                return _to_login(request)
            request.state.who = who
            try:
                if not who.may(role):
                    text = f"{who.name} has the role '{who.role}', and this needs '{role}'"
                    raise Problem(403, "role", text, "ask an admin of this server")
                return await endpoint(request)
            except Problem as problem:
                return self.html(request, "problem.html", problem.status, problem=problem)

        return admitted

    # --- answers ---

    def html(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page for who asks."""
        who: Who = request.state.who
        return self.people.html(template, status, who=who, **values)

    async def show(
        self, request: Request, template: str, make: Callable[[Connection], dict[str, Any]]
    ) -> Response:
        """A page of what `make(connection)` reads from the database, in a thread."""

        def rendered(db: Connection) -> Response:
            return self.html(request, template, **make(db))

        return await self.storage.read(rendered)

    def _changed(self, board_id: str) -> None:
        self._changes[board_id] += 1
        self._changes[""] += 1

    def _version(self, board_id: str) -> tuple[int, int]:
        """Another value after each change that a page of this board shows; "" is all boards."""
        return self.storage.epoch, self._changes[board_id]

    async def _live(self, request: Request) -> Response:
        """Server-sent events: `changed` when the fleet, or `?board=` has changed."""
        board_id = request.query_params.get("board", "")
        if self._listening >= LIVE_PAGES:
            return Response(status_code=503, headers={"retry-after": "60"})
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        kind = "text/event-stream"
        return StreamingResponse(self._news(board_id), media_type=kind, headers=headers)

    async def _news(self, board_id: str) -> AsyncGenerator[str]:
        self._listening += 1
        try:
            seen, quiet = self._version(board_id), 0.0
            yield "retry: 2000\n\n"
            while True:
                await asyncio.sleep(LIVE_SECONDS)
                now, quiet = self._version(board_id), quiet + LIVE_SECONDS
                if now != seen:
                    seen, quiet = now, 0.0
                    yield "event: changed\ndata: \n\n"
                elif quiet >= QUIET_SECONDS:
                    quiet = 0.0
                    yield ": nothing new\n\n"
        finally:
            self._listening -= 1


async def form(request: Request) -> dict[str, str]:
    """The fields of a small form; of several of one name the last one.

    Raises:
        Problem: that is no form.
    """
    body = io.BytesIO()
    await read_body(request, JSON_BYTES, JSON_SECONDS, body.write)
    try:
        fields = parse_qsl(body.getvalue().decode(), True, max_num_fields=FIELDS)
    except ValueError as problem:
        raise Problem(400, "form", "that is no form of these pages") from problem
    return {name: value.strip() for name, value in fields}


def back(path: str, done: str = "") -> Response:
    """After an action: the page that shows what came of it.

    Args:
        done: a word, which that page turns into a sentence.
    """
    return RedirectResponse(f"{path}?{urlencode({'done': done})}" if done else path, 303)


class _RowNumber(IntegerConvertor):
    """`{name:row}` in a path: a row's number, which no database finds too large."""

    regex = "[0-9]{1,18}"


register_url_convertor("row", _RowNumber())


def number(request: Request, name: str, most: int = 10**9) -> int:
    """A number of the address's query; 0 where there is none."""
    said = request.query_params.get(name, "")
    return min(int(said), most) if said.isascii() and said.isdigit() and len(said) < 16 else 0


def _to_login(request: Request) -> Response:
    if "hx-request" in request.headers:  # a part of a page: the whole page goes
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    if "text/event-stream" in request.headers.get("accept", ""):
        return Response(status_code=401)
    return RedirectResponse("/login", 303)
