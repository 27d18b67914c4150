"""From nothing to the first confirmed release: what is done already, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..storage.base import Storage
from ..storage.model import boards, releases
from ..words import many

if TYPE_CHECKING:
    from .site import Site


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server knows of a fleet's beginning.

    Attributes:
        trust: number of the newest trust file; 0: no keys are registered.
        releases: published and not withdrawn.
        boards: in use.
        heard: of those, how many have polled.
        confirmed: of those, how many have confirmed a release of this server.
    """

    trust: int = 0
    releases: int = 0
    boards: int = 0
    heard: int = 0
    confirmed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way.

    Attributes:
        text: what it brings about.
        found: what the server has of it, when it is done.
        commands: to type, exactly.
        flash: the page for the first flash does it too.
    """

    title: str
    text: str
    found: str
    commands: tuple[str, ...]
    done: bool
    flash: bool = False


def facts(db: Connection, storage: Storage) -> Facts:
    """Read them."""
    short = func.substr(releases.c.digest, 1, 32)
    mine = select(short).where(releases.c.withdrawn.is_(None))
    in_use = select(
        func.count(),
        func.count(boards.c.last_seen),
        func.count().filter(boards.c.confirmed.in_(mine)),
    ).where(boards.c.retired.is_(None))
    enrolled, heard, confirmed = db.execute(in_use).one()
    published = sum(one.withdrawn is None for one in storage.releases())
    return Facts(storage.catalog.trust_version, published, enrolled, heard, confirmed)


def steps(known: Facts) -> list[Step]:
    """All steps in their order; the first one that is not done is the one to take."""
    polls = "" if known.heard else "; none has called yet"
    return [
        Step(
            "The server runs",
            "You read its page.",
            "You read its page.",
            ("mipy serve",),
            done=True,
        ),
        Step(
            "The fleet has keys",
            "A folder for your app, the keys that its boards will trust, and their public halves"
            " for this server. The private ones stay on your computer.",
            f"Trust file version {known.trust} is registered.",
            ("mipy new weather", "cd weather", "mipy keys new", "mipy keys publish"),
            done=known.trust > 0,
        ),
        Step(
            "A release is published",
            "Builds and signs the app in this folder, and sends it to this server.",
            _there(known.releases, "release") + " published.",
            ("mipy release --note 1.0",),
            done=known.releases > 0,
        ),
        Step(
            "A board is enrolled",
            "Once, over USB: a Wemos D1 mini or an ESP32 devkit. Without a board at hand, the"
            " second command runs a virtual one.",
            _there(known.boards, "board") + f" enrolled{polls}.",
            ('mipy flash --name kitchen --wifi "home network"', "mipy sim kitchen"),
            done=known.boards > 0,
            flash=True,
        ),
        Step(
            "A board has confirmed a release",
            "Comes by itself a minute after the board is on Wi-Fi: it runs the release on trial,"
            " and keeps it when it proves healthy. This tells where it is, and why not yet.",
            f"{many(known.confirmed, 'board')} confirmed a release.",
            ("mipy boards",),
            done=known.confirmed > 0,
        ),
    ]


def _there(number: int, what: str) -> str:
    return f"{many(number, what)} {'is' if number == 1 else 'are'}"


def routes(site: Site) -> list[BaseRoute]:
    """The page, which also stands at the place of the fleet's while that has no board."""

    async def page(request: Request) -> Response:
        return await site.show(request, "first_run.html", lambda db: shown(db, site.storage))

    return [site.page("/first-run", page)]


def shown(db: Connection, storage: Storage) -> dict[str, Any]:
    """What the page is made of."""
    return {"section": "fleet", "live": "/live", "steps": steps(facts(db, storage))}
