"""The fleet: what fails and why, what runs where, and the boards, a page at a time."""

import time
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..condition import CONDITIONS
from ..policy import Release
from ..storage import queries
from ..storage.base import Storage
from . import first_run, fleet_queries
from .fleet_queries import SORTS, Filter
from .site import ROWS_A_PAGE, Site, number

SEARCH_CHARS = 64


def routes(site: Site) -> list[BaseRoute]:
    """`/`."""

    async def page(request: Request) -> Response:
        def rendered(db: Connection) -> Response:
            if queries.ids(db, "", 1):
                return site.html(request, "fleet.html", **_shown(site.storage, db, request))
            return site.html(request, "first_run.html", **first_run.shown(db, site.storage))

        return await site.storage.read(rendered)

    return [site.page("/", page)]


def _shown(storage: Storage, db: Connection, request: Request) -> dict[str, Any]:
    now = time.time()
    wanted, sort, query = _asked(request)
    offset = number(request, "offset")
    releases = by_short(storage)
    total, rows = fleet_queries.rows(db, wanted, sort, ROWS_A_PAGE, offset, now)
    apps, channels = fleet_queries.choices(db)
    seqs = {short: release.seq for short, release in releases.items()}
    return {
        "section": "fleet",
        "live": "/live",
        "fleet": fleet_queries.overview(db, seqs, now),
        "releases": releases,
        "wanted": wanted,
        "filtered": wanted != Filter(),
        "sort": sort,
        "sorts": SORTS,
        "states": CONDITIONS,
        "apps": apps,
        "channels": channels,
        "boards": rows,
        "total": total,
        "offset": offset,
        "most": ROWS_A_PAGE,
        "query": query,
        "address": "/?" + urlencode(query | {"offset": offset}),
    }


def _asked(request: Request) -> tuple[Filter, str, dict[str, Any]]:
    """Filter, order, and both as they stand in the address; what is unknown there is ignored."""
    said = {
        name: request.query_params.get(name, "").strip()[:SEARCH_CHARS]
        for name in ("state", "app", "channel", "release", "search")
    }
    if said["state"] not in CONDITIONS:
        said["state"] = ""
    sort = request.query_params.get("sort", "")
    sort = sort if sort in SORTS else SORTS[0]
    retired = request.query_params.get("retired") == "1"
    query: dict[str, Any] = {name: value for name, value in said.items() if value}
    query |= {"sort": sort} if sort != SORTS[0] else {}
    query |= {"retired": 1} if retired else {}
    return Filter(**said, retired=retired), sort, query


def by_short(storage: Storage) -> dict[str, Release]:
    """The releases by the half of the digest that boards report."""
    return {release.short: release for release in storage.releases()}
