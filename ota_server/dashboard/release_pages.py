"""The pages of releases: all of them, and one with files, rollouts and what failed on it."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...signing import manifest
from ...signing import trust as trust_file
from ...signing.reasons import Refused
from ..people.problem import Problem
from ..policy import Release
from ..storage import queries, release_queries
from ..storage.base import Storage
from . import release_view
from .site import ROWS_A_PAGE, Site

ROLLOUTS_SHOWN = 10


def routes(site: Site) -> list[BaseRoute]:
    """Both pages."""
    storage = site.storage

    def listed(db: Connection, offset: int) -> tuple[int, dict[str, Any]]:
        return _listed(db, storage, offset)

    async def one(request: Request) -> Response:
        release = storage.release(request.path_params["digest"])
        if release is None:
            raise Problem(404, "release", "there is no such release", "see the list of releases")

        return await site.show(request, "release.html", lambda db: _one(db, storage, release))

    return [site.listing("releases", listed), site.page("/releases/{digest}", one)]


def _listed(db: Connection, storage: Storage, offset: int) -> tuple[int, dict[str, Any]]:
    every = storage.releases()
    shown = every[offset : offset + ROWS_A_PAGE]
    return len(every), {
        "releases": shown,
        "runs": queries.running(db),
        "rollouts": release_queries.newest_rollouts(db, [one.digest for one in shown]),
    }


def _one(db: Connection, storage: Storage, release: Release) -> dict[str, Any]:
    releases = storage.releases_of(release.app, release.cls)
    before = release_view.former(release, releases)
    raw, old = (one and storage.manifests.plain(one.digest) for one in (release, before))
    files: Sequence[release_view.FileChange] = []
    signers: Sequence[release_view.Signer] = []
    if raw:
        files = release_view.changes(manifest.parse(raw), manifest.parse(old) if old else None)
        signers = _signers(storage, raw)
    causes = release_view.causes(release_queries.failures(db, release))
    total, rollouts = release_queries.rollouts_of(db, release.digest, ROLLOUTS_SHOWN)
    return {
        "section": "releases",
        "live": "/live",
        "release": release,
        "siblings": _siblings(storage, release),
        "former": before,
        "compared": old is not None,
        "lost": raw is None,
        "files": files,
        "summary": release_view.summary(files),
        "signers": signers,
        "runs": sorted(release_queries.where_it_runs(db, release.short, time.time()).items()),
        "rollouts": rollouts,
        "rollouts_in_all": total,
        "causes": causes[: release_view.CAUSES_SHOWN],
        "causes_in_all": len(causes),
        "failed": sum(cause.count for cause in causes),
    }


def _signers(storage: Storage, raw: bytes) -> Sequence[release_view.Signer]:
    trust = storage.trust()
    try:
        return release_view.signers(raw, trust_file.parse(trust)) if trust else []
    except Refused:
        return []


def _siblings(storage: Storage, release: Release) -> list[Release]:
    """The same for other classes of boards: `mipy release` makes one for each at a time."""
    return [
        one
        for one in storage.releases()
        if (one.app, one.seq, one.note) == (release.app, release.seq, release.note)
        and one.digest != release.digest
    ]
