"""The people's side: a JSON API with a bearer token, and plain pages with a login.

Every error is `{"error": code, "text": what happened, "hint": what to do next}`.
"""

import asyncio
import io
import json
import logging
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

import orjson
from jinja2 import Environment, FileSystemLoader
from pydantic import ValidationError
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mipy_ota import __version__

from ...signing import board_file, bundle, limits, manifest, unlock
from ...signing import trust as trust_file
from ...signing.manifest import Manifest
from ...signing.reasons import SENTENCES, Refused
from .. import policy, words
from ..condition import condition
from ..device.api import DeviceApi
from ..device.poll_message import is_object
from ..policy import Board, Known, Release, Verdict
from ..storage import queries, release_queries
from ..storage.base import Storage
from ..storage.rollouts import live_of
from ..storage.statements import BOARD, Conflict
from ..web import assets, metrics
from ..web.limits import read_body
from . import access
from .access import COOKIE, SESSION_SECONDS, Guessing, People, Who
from .problem import Problem
from .rollouts_api import Wanted, as_json, retry_board, start_of

JSON_BYTES = 4096
JSON_SECONDS = 10.0
UPLOAD_SECONDS = 120.0
AUDIT_A_PAGE = 100
BOARDS_AT_ONCE = 100
"""Boards that a thread makes JSON of before others have their turn."""
LABEL_CHARS = 64

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_RETRY = re.compile(r"retry ([0-9a-f]{8,64})")
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self';"
    " img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none, browsers send `Origin: null`
    "cache-control": "no-store",
}
log = logging.getLogger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]


class PeopleApi:
    """Answers people and their tools.

    Args:
        storage: shared with the boards' side.
        token: the owner's.
        devices: the boards' side, for its numbers.
    """

    def __init__(self, storage: Storage, token: str, devices: DeviceApi) -> None:
        self.storage = self._storage = storage
        self._devices = devices
        self._people = People(storage, token)
        self._publishing = asyncio.Lock()
        self._pages = Environment(
            loader=FileSystemLoader(assets.FOLDER / "pages"), autoescape=True, trim_blocks=True
        )
        filters: dict[str, Callable[..., Any]] = self._pages.filters  # of any arguments
        filters |= words.FILTERS
        filters["age"] = _age
        filters["iso"] = _iso
        filters["merge"] = _merged
        filters["sentence"] = _sentence
        filters["last_line"] = _last_line
        filters["upper_first"] = _upper_first
        filters["is_rollback"] = _is_rollback

    def routes(self) -> list[Route]:
        """`/api/...` and the pages."""
        api = {
            ("GET", "/api/status"): (self.status, "read"),
            ("GET", "/api/boards"): (self.boards, "read"),
            ("POST", "/api/boards"): (self.enrol, "operate"),
            ("GET", "/api/boards/{id}"): (self.board, "read"),
            ("GET", "/api/boards/{id}/events"): (self.events, "read"),
            ("POST", "/api/boards/{id}/orders"): (self.order, "operate"),
            ("GET", "/api/releases"): (self.releases, "read"),
            ("POST", "/api/releases"): (self.publish, "publish"),
            ("GET", "/api/releases/{digest}/bundle"): (self.bundle, "read"),
            ("POST", "/api/releases/{digest}/withdraw"): (self.withdraw, "publish"),
            ("GET", "/api/trust"): (self.trust, "read"),
            ("POST", "/api/trust"): (self.add_trust, "publish"),
            ("GET", "/api/operators"): (self.operators, "admin"),
            ("POST", "/api/operators"): (self.add_operator, "admin"),
            ("DELETE", "/api/operators/{name}"): (self.remove_operator, "admin"),
            ("GET", "/api/tokens"): (self.tokens, "admin"),
            ("POST", "/api/tokens"): (self.add_token, "admin"),
            ("DELETE", "/api/tokens/{n}"): (self.remove_token, "admin"),
            ("GET", "/api/audit"): (self.audit, "admin"),
            ("GET", "/metrics"): (self.metrics, "read"),
        }
        return [
            *(
                Route(path, self._guarded(endpoint, role), methods=[method])
                for (method, path), (endpoint, role) in api.items()
            ),
            Route("/healthz", self.health),
            Route("/login", self.login_page),
            Route("/login", own_pages_only(self.login), methods=["POST"]),
            Route("/logout", own_pages_only(self.logout), methods=["POST"]),
        ]

    # --- who is asking ---

    def _guarded(self, endpoint: Endpoint, role: str) -> Endpoint:
        async def guarded(request: Request) -> Response:
            request.state.who = await self.admit(request, role)
            return await endpoint(request)

        return guarded

    async def admit(self, request: Request, role: str) -> Who:
        """Who asks with a token, if he may do what needs this role.

        Raises:
            Problem: he may not.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        who = None
        if scheme.lower() == "bearer" and given:
            who = await self._by_token(request, given)
        if who is None:
            raise Problem(
                401, "token", "the token is missing or wrong", "see `mipy serve`", close=True
            )
        if not who.may(role):
            text = f"{who.name} has the role '{who.role}', and this needs '{role}'"
            raise Problem(403, "role", text, "ask an admin of this server", close=True)
        return who

    async def _by_token(self, request: Request, given: str) -> Who | None:
        try:
            return await self._people.by_token(request, given)
        except Guessing as problem:
            raise Problem(
                429, "slow", "too many wrong tokens", "wait a minute", close=True
            ) from problem

    async def knows(self, connection: HTTPConnection, role: str = "read") -> Who | None:
        """Who asks, if he has logged in on a page and may do what needs this role."""
        who = await self._people.by_session(connection)
        return who if who and who.may(role) else None

    # --- boards ---

    async def status(self, _: Request) -> Response:
        """The server in a few numbers."""
        states = await self._storage.read(queries.states, time.time())
        board, version = await self._storage.read(queries.newest_trust)
        trust = self._storage.catalog.trust_version
        return JSONResponse(
            {
                "version": __version__,
                "time": int(time.time()),
                "boards": sum(states.values()),
                "states": states,
                "releases": len(self._storage.releases()),
                "trust": trust,
                "ahead": {"board": board, "trust": version} if version > trust else None,
            }
        )

    async def boards(self, _: Request) -> Response:
        """All boards."""
        found: list[bytes] = []
        after = ""
        while True:
            part, after = await self._storage.read(_some_boards_json, after)
            found.append(part)
            if not after:
                return Response(b"[%s]" % b",".join(found), media_type="application/json")

    async def board(self, request: Request) -> Response:
        """One board."""
        board = await self._board(request)
        return await self._storage.read(_boards_json, board.id)

    async def events(self, request: Request) -> Response:
        """A board's history; `?after=N` gives what came after event N."""
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 16):
            raise Problem(400, "after", "'after' must be the number of an event")
        board = await self._board(request)
        return JSONResponse(await self._storage.read(queries.history, board.id, int(after)))

    async def enrol(self, request: Request) -> Response:
        """Take in a board. Its passwords are not the server's business and not sent."""
        fleet, facts = _board_facts(await _json(request))
        trust = self._trust()
        if trust and trust.fleet != fleet:
            raise Problem(
                409,
                "fleet",
                f"this server is for the fleet '{trust.fleet}', the board is of '{fleet}'",
                "name that fleet with --fleet: it has a server of its own",
            )
        entry = _who(request).audit("enrol", facts.id)
        known = await self._storage.enrol(facts, audit=entry)
        return JSONResponse({"id": facts.id, "again": known}, 200 if known else 201)

    async def order(self, request: Request) -> Response:
        """Give a board an order: rollback, retry <digest>, pause, follow; cancel ends open ones."""
        board = await self._board(request)
        order = (await _json(request)).get("order")
        title = await self.give(_who(request), board, order)
        return JSONResponse({"id": board.id, "order": title}, 202)

    async def give(self, who: Who, board: Board, order: Any) -> str:
        """Give a board an order for somebody who may; returns its title.

        Raises:
            Problem: it is none, or does not go with the board.
        """
        retry = _RETRY.fullmatch(order) if isinstance(order, str) else None

        async def amend(make: Callable[[Known], Verdict]) -> None:
            entry = who.audit("order", board.id, after=policy.title(str(order)))
            await self._storage.amend(board.id, make, time.time(), entry)

        if order in ("pause", "hold", "follow"):  # "hold": as older clients say it
            paused = order != "follow"
            await amend(lambda _: policy.pause(paused))
            if paused:
                return policy.title(str(order))
        elif order == "cancel":
            await amend(policy.cancel)
            return policy.title(str(order))
        elif order == "rollback":
            await amend(lambda known: policy.give(known, "rollback"))
        elif retry:
            known = await self._storage.known(board.id)
            short = _rejected(known, retry[1])
            text = f"retry {short}"
            await self.try_again(who, board, short)
            await amend(lambda known: policy.give(known, text))
        elif isinstance(order, str) and order.startswith(policy.UNLOCK):
            self._check_unlock(board, order)
            await amend(lambda known: policy.give(known, order))
        else:
            raise Problem(
                400,
                "order",
                "there is no such order",
                "rollback, retry <digest>, pause, follow, cancel, or what a debug key has signed",
            )
        self._storage.nudge(board.id)
        return policy.title(str(order))

    async def try_again(self, who: Who, board: Board, short: str) -> None:
        """Take back that the board failed its rollout, and with it a halt that it had caused."""
        line = self._storage.rollouts_of(board.app, board.cls, board.channel)
        for live in (*line.lives, *line.over.values()):
            if live.rollout.digest.startswith(short):
                await retry_board(self._storage, live.rollout.id, board.id, who)

    def _check_unlock(self, board: Board, order: str) -> None:
        """The board would say no to what is refused here; people should not have to wait for it."""
        trust = self._trust()
        try:
            if trust is None:
                raise Refused("key", "no keys are registered here")
            found = unlock.verify(order.encode("utf-8", "replace"), trust)
        except Refused as refused:
            raise _refused(refused, "sign it with a debug key of this fleet") from refused
        if found.board != board.id:
            raise Problem(409, "board", f"the order is for the board '{found.board}'")
        if found.life != board.life:
            raise Problem(
                409, "life", "the board has started again since it was signed", "sign it anew"
            )

    async def find(self, name: str) -> Board | None:
        """The board of this id or, if only one has it, of this name."""
        board = await self._storage.board(name)
        if board is None:
            found = await self._storage.read(queries.find, name)
            board = await self._storage.board(found) if found else None
        return board

    async def _board(self, request: Request) -> Board:
        return await self.named(request.path_params["id"])

    async def named(self, name: str) -> Board:
        """The board of this id or name.

        Raises:
            Problem: there is none, or several.
        """
        board = await self.find(name)
        if board is None:
            raise Problem(404, "board", f"there is no board '{name}'", "see `mipy boards`")
        return board

    # --- releases ---

    async def releases(self, _: Request) -> Response:
        """All releases, newest first."""
        return JSONResponse([_release_json(release) for release in self._storage.releases()])

    async def publish(self, request: Request) -> Response:
        """Publish the bundle in the body. Publishing it again is not an error.

        `?rollout=` says how it goes out, as JSON with the fields of `POST /api/v1/rollouts`.
        """
        wanted = _rollout(request.query_params.get("rollout", "{}"))
        with tempfile.TemporaryFile(dir=self._storage.folder) as upload:
            await read_body(request, limits.BUNDLE_BYTES, UPLOAD_SECONDS, upload.write)
            trust = self._trust()
            if trust is None:
                raise Problem(
                    409, "trust", "no keys are registered here", "`mipy release` registers them"
                )
            async with self._publishing:
                raw, found, files = await run_in_threadpool(_verified, upload, trust)
                return await self._publish(_who(request), raw, found, files, wanted)

    async def _publish(
        self, who: Who, raw: bytes, found: Manifest, files: list[bytes], wanted: Wanted
    ) -> Response:
        release, fresh = self._admit(found)
        if fresh:
            start = await start_of(self.named, wanted, who, release)
            try:
                channels = frozenset((start.channel,))
                release = replace(release, publisher=who.name, channels=channels)
                entry = who.audit("publish", release.digest, after=release.seq)
                await self._storage.publish(release, raw, files, entry, start)
            except Conflict as conflict:
                raise Problem(409, "same-seq", str(conflict), "build it again") from conflict
        else:
            # Publishing again mends content that was lost or damaged.
            await run_in_threadpool(self._storage.keep, release.digest, raw, files)
        told = _release_json(release) | {"already": not fresh, "rollout": None}
        _, rows = await self._storage.read(release_queries.rollouts_of, release.digest, 1)
        if rows:
            told["rollout"] = as_json(live_of(rows[0]), release)
        return JSONResponse(told, 201 if fresh else 200)

    def _admit(self, found: Manifest) -> tuple[Release, bool]:
        """The release that a manifest describes, and whether it is new here."""
        known = self._storage.release(found.digest)
        if known is not None:
            if known.withdrawn is not None:
                raise Problem(409, "withdrawn", "this release was withdrawn", "reissue it")
            return known, False
        newest = self._storage.releases_of(found.app, found.cls)
        if any(release.seq == found.seq for release in newest):
            raise Problem(409, "same-seq", f"another release has seq {found.seq}", "build it again")
        now = time.time()
        catalog = self._storage.catalog
        reset = catalog.reset_between(0, catalog.trust_version)
        if reset is not None:
            newest = [one for one in newest if one.withdrawn is None or one.seq <= reset]
        objection = policy.clear_of(found.seq, newest, now)
        if objection:
            raise Problem(409, "seq", objection, "build it again, or reissue it")
        return (
            Release(
                found.digest,
                found.app,
                found.cls,
                found.seq,
                found.floor,
                found.title,
                found.total,
                now,
            ),
            True,
        )

    async def bundle(self, request: Request) -> Response:
        """A release as it was published."""
        release = self._release(request)
        return await run_in_threadpool(self._bundle, release)

    def _bundle(self, release: Release) -> Response:
        raw = self._storage.manifests.plain(release.digest)
        if raw is None:
            raise _lost(release)
        files: dict[str, bytes] = {}
        for file in manifest.parse(raw).files:
            content = self._storage.files.plain(file.sha256)
            if content is None:
                raise _lost(release)
            files[file.name] = content
        return Response(bundle.write(raw, files), media_type="application/zip")

    async def withdraw(self, request: Request) -> Response:
        """Offer a release to no further board; boards that have it keep it."""
        release = self._release(request)
        if release.withdrawn is None:
            entry = _who(request).audit("withdraw", release.digest)
            await self._storage.withdraw(release.digest, time.time(), audit=entry)
        return JSONResponse(_release_json(self._release(request)))

    def _release(self, request: Request) -> Release:
        release = self._storage.release(request.path_params["digest"])
        if release is None:
            raise Problem(404, "release", "there is no such release", "see `mipy status`")
        return release

    # --- trust ---

    def _trust(self) -> trust_file.Trust | None:
        raw = self._storage.trust()
        return None if raw is None else trust_file.parse(raw)

    async def trust(self, _: Request) -> Response:
        """The newest trust file."""
        raw = self._storage.trust()
        if raw is None:
            raise Problem(404, "trust", "no keys are registered here")
        return Response(raw, media_type="text/plain")

    async def add_trust(self, request: Request) -> Response:
        """Register a fleet by its trust file 1, or take the version that comes next."""
        raw = await _small_body(request, limits.TRUST_BYTES)
        newest = self._storage.trust()
        if newest == raw:
            return JSONResponse({"version": self._storage.catalog.trust_version, "already": True})
        try:
            if newest is None:
                new = trust_file.verify_first(raw)
            else:
                new = trust_file.verify_next(trust_file.parse(newest), raw)
        except Refused as refused:
            raise _refused(refused, "send the versions one after the other") from refused
        reset = new.reset[0] if new.reset else None
        try:
            entry = _who(request).audit("trust", str(new.version))
            await self._storage.add_trust(new.version, raw, reset, time.time(), audit=entry)
        except Conflict as conflict:
            raise Problem(409, "trust-version", str(conflict)) from conflict
        return JSONResponse({"version": new.version, "already": False}, 201)

    # --- monitors ---

    async def health(self, _: Request) -> Response:
        """200 when boards can be served; 503 when the database cannot be read."""
        await self._storage.read(queries.alive)
        return Response("ok\n", media_type="text/plain")

    async def metrics(self, _: Request) -> Response:
        """Numbers for Prometheus."""
        states = await self._storage.read(queries.states, time.time())
        devices, count = self._devices, len(self._storage.releases())
        body = metrics.text(devices.answers, devices.stale, states, count)
        return Response(body, headers={"content-type": metrics.CONTENT_TYPE})

    # --- people ---

    async def operators(self, _: Request) -> Response:
        """Who may use this server, beside the owner."""
        return JSONResponse(await self._storage.read(access.all_operators))

    async def add_operator(self, request: Request) -> Response:
        """Add an operator, or change his role: `{"name", "role"}`."""
        said = await _json(request)
        name, role = said.get("name"), said.get("role")
        if not (isinstance(name, str) and _NAME.fullmatch(name) and name != access.OWNER):
            hint = "small letters, digits, '.', '_' and '-', at most 32"
            raise Problem(400, "name", "that is no name for an operator", hint)
        if role not in access.ROLES:
            raise Problem(400, "role", "there is no such role", ", ".join(access.ROLES))
        before = await self._storage.read(access.operator_role, name)
        entry = _who(request).audit("operator", name, before or "", role)
        await self._storage.write(access.add_operator, name, role, time.time(), audit=entry)
        return JSONResponse({"name": name, "role": role}, 200 if before else 201)

    async def remove_operator(self, request: Request) -> Response:
        """Remove an operator; his tokens and sessions end at once."""
        name = request.path_params["name"]
        entry = _who(request).audit("remove operator", name)
        try:
            await self._storage.write(access.remove_operator, name, audit=entry)
        except LookupError as problem:
            raise Problem(404, "operator", f"there is no operator '{name}'") from problem
        return JSONResponse({"name": name})

    async def tokens(self, _: Request) -> Response:
        """Tokens, without what would let anybody in."""
        return JSONResponse(await self._storage.read(access.all_tokens))

    async def add_token(self, request: Request) -> Response:
        """Make a token: `{"operator", "role", "label", "days"}`. It is shown this once."""
        said = await _json(request)
        name, days = said.get("operator"), said.get("days", access.TOKEN_DAYS)
        label = said.get("label", "")
        role = None
        if isinstance(name, str):
            role = await self._storage.read(access.operator_role, name)
        if role is None:
            raise Problem(404, "operator", "there is no such operator", "add him first")
        asked = said.get("role", role)
        if asked not in access.ROLES:
            raise Problem(400, "role", "there is no such role", ", ".join(access.ROLES))
        if not (isinstance(label, str) and label.isprintable() and len(label) <= LABEL_CHARS):
            raise Problem(400, "label", f"a label has at most {LABEL_CHARS} printable characters")
        if not (isinstance(days, int) and 0 < days <= 3650):
            raise Problem(400, "days", "a token lasts 1 to 3650 days")
        token, now = secrets.token_urlsafe(32), time.time()
        row = {
            "sha256": access.digest(token.encode()), "operator": name, "label": label,
            "role": access.lower(asked, role), "created": now, "expires": now + days * 86400.0,
        }  # fmt: skip
        entry = _who(request).audit("token", str(name), after={"role": row["role"], "days": days})
        n = await self._storage.write(access.add_token, row, audit=entry)
        shown = {"n": n, "token": token, "operator": name, "role": row["role"]}
        return JSONResponse(shown | {"expires": row["expires"]}, 201)

    async def remove_token(self, request: Request) -> Response:
        """Revoke a token; the sessions that it began end at once."""
        n = request.path_params["n"]
        entry = _who(request).audit("revoke token", n)
        try:
            known = n.isascii() and n.isdigit() and len(n) < 10
            await self._storage.write(access.remove_token, int(n) if known else 0, audit=entry)
        except LookupError as problem:
            raise Problem(404, "token-number", f"there is no token '{n}'") from problem
        return JSONResponse({"n": int(n)})

    async def audit(self, request: Request) -> Response:
        """Who changed what, newest first; `?before=N` gives what came before entry N."""
        before = request.query_params.get("before")
        if before is not None and not (before.isascii() and before.isdigit() and len(before) < 16):
            raise Problem(400, "before", "'before' must be the number of an entry")
        rows = await self._storage.read(access.entries, before and int(before), AUDIT_A_PAGE)
        return JSONResponse(rows)

    # --- pages ---

    async def login_page(self, _: Request) -> Response:
        """The form for the token."""
        return self.html("login.html")

    async def login(self, request: Request) -> Response:
        """Change the token for a session."""
        form = parse_qs((await _small_body(request)).decode("latin-1"))
        try:
            who = await self._by_token(request, form.get("token", [""])[0].strip())
        except Problem as problem:
            return self.html("login.html", problem.status, text=f"{problem.text}: {problem.hint}")
        if who is None:
            return self.html("login.html", 401, text="That is not the token.")
        session = await self._people.log_in(who)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            session,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await self._people.log_out(request)
        return RedirectResponse("/login", 303)

    def html(
        self, name: str, status: int = 200, csp: str = _PAGE_POLICY, **values: Any
    ) -> Response:
        """A page made of a template, with its content security policy."""
        page = self._pages.get_template(name).render(now=time.time(), **values)
        return HTMLResponse(page, status, _PAGE_HEADERS | {"content-security-policy": csp})


def _rollout(said: str) -> Wanted:
    try:
        return Wanted.model_validate_json(said)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"'{where or 'rollout'}': {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise Problem(422, "value", text, "see /api/v1/openapi.json") from problem


def _who(request: Request) -> Who:
    return request.state.who


def same_origin(connection: HTTPConnection) -> bool:
    """Whether a browser says that a page of this server's own asks.

    Browsers let a page of any site send forms and open WebSockets, with the cookies of the site
    that they go to; in `Origin` they say whose page it is (RFC 6454).
    """
    origin = urlsplit(connection.headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == connection.headers.get("host")


def own_pages_only(endpoint: Endpoint) -> Endpoint:
    """Refuse a form that a page of another site sends; programs send no `Origin`."""

    async def guarded(request: Request) -> Response:
        if "origin" in request.headers and not same_origin(request):
            raise Problem(
                403, "origin", "a page of another site sent this", "open this server's own page"
            )
        return await endpoint(request)

    return guarded


async def _small_body(request: Request, limit: int = JSON_BYTES) -> bytes:
    body = io.BytesIO()
    await read_body(request, limit, JSON_SECONDS, body.write)
    return body.getvalue()


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await _small_body(request))
    except (ValueError, RecursionError) as problem:
        raise Problem(400, "json", "the body is not JSON") from problem
    if not is_object(value):
        raise Problem(400, "json", "the body is not a JSON object")
    return value


def _board_facts(said: dict[str, Any]) -> tuple[str, Board]:
    """The board's fleet, and what is kept of it."""
    try:
        key, name = bytes.fromhex(said["key"]), said.get("name") or None
        given = board_file.Board(said["fleet"], said["id"], said["app"], said["class"], key, name)
        facts = board_file.parse(given.encode())
    except Refused as refused:
        raise _refused(refused, "make the board file again") from refused
    except (LookupError, TypeError, ValueError) as problem:
        text = "fleet, id, app, class and key are needed, as texts"
        raise Problem(400, "board", text) from problem
    dev = bool(said.get("dev"))
    board = Board(facts.id, facts.name or "", facts.app, facts.cls, facts.key, dev, time.time())
    return facts.fleet, board


def _boards_json(db: Connection, board_id: str) -> Response:
    """One board, made in the thread that reads it."""
    body = orjson.dumps(board_json(queries.known(db, [board_id])[board_id]))
    return Response(body, media_type="application/json")


def _some_boards_json(db: Connection, after: str) -> tuple[bytes, str]:
    """Some boards after the id `after`, without the brackets around them; "" after the last."""
    ids = queries.ids(db, after, BOARDS_AT_ONCE)
    found = queries.known(db, ids)
    body = orjson.dumps([board_json(found[name]) for name in ids])[1:-1]
    return body, ids[-1] if len(ids) == BOARDS_AT_ONCE else ""


def board_json(known: Known) -> dict[str, Any]:
    """What people are told of a board: all but its key."""
    facts = {name: getattr(known.board, name) for name in BOARD}
    facts["class"] = facts.pop("cls")
    del facts["key"]
    facts["condition"] = condition(known.board, time.time())
    facts["follow"] = not known.board.paused
    facts["jobs"] = json.loads(known.board.jobs or "{}")
    facts["rejected"] = [asdict(bad) for bad in known.rejected.values()]
    facts["orders"] = [order.title for order in known.orders]
    return facts


def _rejected(known: Known | None, start: str) -> str:
    found = [d for d in (known.rejected if known else ()) if d.startswith(start[:32])]
    if len(found) != 1:
        raise Problem(404, "digest", f"the board has not rejected a release '{start}'")
    return found[0]


def _verified(upload: BinaryIO, trust: trust_file.Trust) -> tuple[bytes, Manifest, list[bytes]]:
    """Manifest, as bytes and read, and files of a bundle that this fleet has signed."""
    try:
        raw, files = bundle.read(upload)
        found = manifest.verify(raw, trust).manifest
        bundle.check(found, files)
    except Refused as refused:
        raise _refused(refused, "build and sign it again with this fleet's keys") from refused
    return raw, found, list(files.values())


def _lost(release: Release) -> Problem:
    log.error("content of release %s is missing or damaged: publish it again", release.digest)
    text = f"content of the release {release.digest[:8]} is missing or damaged on the server"
    return Problem(500, "content", text, "publish its bundle again, or release it anew")


def _refused(refused: Refused, hint: str) -> Problem:
    return Problem(422, refused.code, str(refused), hint)


def _release_json(release: Release) -> dict[str, Any]:
    facts = asdict(release)
    facts["channels"] = sorted(release.channels)
    facts["class"] = facts.pop("cls")
    return facts


def _is_rollback(code: str) -> bool:
    return code in policy.ROLLBACK_REASONS


def _last_line(trace: str) -> str:
    return trace.rstrip().rpartition("\n")[2].strip()


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(code: str) -> str:
    return SENTENCES.get(code, code)


def _iso(then: float) -> str:
    return datetime.fromtimestamp(then, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _merged(one: dict[str, Any], **more: Any) -> dict[str, Any]:
    return one | more


def _age(then: float | None, now: float) -> str:
    return "never" if then is None else f"{words.duration(now - then)} ago"
