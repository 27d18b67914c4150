"""The boards' side of the server, as docs/protocol.md has it."""

import asyncio
import hmac
import json
import logging
import random
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import policy
from .limits import read_body, refuse
from .policy import Bad, Board, Order, Report
from .store import Store, deflate

POLL_BYTES = 1024
HEAD_BYTES = 1024
POLL_SECONDS = 10.0
FLUSH_SECONDS = 1.0
"""How long what need not survive a crash may stay in memory."""
GROUP_SECONDS = 0.003
"""How long a report waits for others to share its disk flush."""
FLUSH_BOARDS = 500
TRACE_CHARS = 500

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HALF_DIGEST = re.compile(r"[0-9a-f]{32}|")
_NONCE = re.compile(r"[0-9a-f]{16}")
_RANGE = re.compile(r"bytes=(\d{1,10})-")
_WORD = re.compile(r"[a-z-]{1,16}")
# What a board tells once a boot: key in the poll, name here, what it must be.
_FACTS = (
    ("chip", "chip", str),
    ("boot", "boot", int),
    ("fw", "fw", str),
    ("mpy", "mpy", str),
    ("trust", "trust", int),
    ("addr", "address", str),
)

log = logging.getLogger(__name__)


class BadPoll(Exception):
    """An authenticated poll that breaks the protocol; the message says how."""


@dataclass(slots=True)
class Tickets:
    """What a board may put into its next message that counts; either is used up with the other.

    Attributes:
        counted: ticket of the last reply to a report that counted.
        carried: orders in that reply.
        stale: the one that every stale poll since then has been given. The same for all: whoever
            sends an old message again shall not void what the board was told.
    """

    counted: str | None = None
    carried: tuple[int, ...] = ()
    stale: str | None = None


class DeviceApi:
    """Answers boards.

    Args:
        store: shared with the people's side.
        every: seconds between polls, for all boards; None leaves it to the policy.
        moved: address of the server that boards are to ask from now on.
        readable: what is made of a traceback before anybody sees it.
    """

    def __init__(
        self,
        store: Store,
        every: float | None = None,
        moved: str | None = None,
        readable: Callable[[str], str] = str,
    ) -> None:
        self._store = store
        self._every = every
        self._moved = moved
        self._readable = readable
        self._issued: dict[str, Tickets] = {}  # by board
        self._commit: asyncio.Future[None] | None = None
        self.peers: dict[str, str] = {}
        """Where the last poll that counted came from, by board; empty when the server starts."""

    def routes(self) -> list[Route]:
        """The device routes, under `/d/v1`."""
        return [
            Route("/d/v1/poll", self.poll, methods=["POST"]),
            Route("/d/v1/manifests/{digest}", self.manifest),
            Route("/d/v1/files/{digest}", self.file),
            Route("/d/v1/trust/{version}", self.trust),
        ]

    async def poll(self, request: Request) -> Response:
        """One poll: report in, decision out."""
        head = sum(len(name) + len(value) + 4 for name, value in request.scope["headers"])
        if head > HEAD_BYTES:
            raise refuse(431)
        body = bytearray()
        await read_body(request, POLL_BYTES, POLL_SECONDS, body.extend)
        message, board = self._authenticate(bytes(body), request.headers.get("ota-mac", ""))
        now = time.time()
        try:
            nonce, ticket, report = _understand(message)
            if (message.get("app", board.app), message.get("class", board.cls)) != (
                board.app,
                board.cls,
            ):
                raise BadPoll("app or class differ from the enrolment")
            if report.bad:
                trace = self._readable(report.bad.trace)
                report = replace(report, bad=replace(report.bad, trace=trace))
        except BadPoll as problem:
            log.warning("board %s: %s", board.id, problem)
            raise HTTPException(400) from problem
        issued = self._issued.setdefault(board.id, Tickets())
        reply: dict[str, Any] = {"k": "", "t": int(now), "every": self._interval(board)}
        reply["trust"] = self._store.trust_version
        if self._moved:
            reply["moved"] = self._moved
        if ticket in (issued.counted, issued.stale):
            # Used up at once: a copy of this poll that arrives meanwhile is stale.
            del self._issued[board.id]
            carried = issued.carried if ticket == issued.counted else ()
            self.peers[board.id] = request.client.host if request.client else ""
            orders = await self._take(board, report, carried, reply, now)
            issued = self._issued.setdefault(board.id, Tickets())
            issued.counted = reply["k"] = secrets.token_hex(8)
            issued.carried = tuple(order.n for order in orders)
        else:
            reply["stale"] = 1
            issued.stale = reply["k"] = issued.stale or secrets.token_hex(8)
        return _sealed(board.key, nonce, reply)

    def _authenticate(self, body: bytes, given: str) -> tuple[dict[str, Any], Board]:
        try:
            message = _parsed(body)
            board_id = message["id"]
            board = self._store.board(board_id) if isinstance(board_id, str) else None
        except (ValueError, RecursionError, LookupError, TypeError):
            message, board = {}, None
        # An unknown board costs the same time as a wrong key.
        key = bytes(32) if board is None else board.key
        good = hmac.digest(key, b"poll1\0" + body, "sha256").hex()
        if not hmac.compare_digest(good.encode(), given.encode("latin-1")) or board is None:
            raise HTTPException(403)
        return message, board

    async def _take(
        self,
        board: Board,
        report: Report,
        carried: tuple[int, ...],
        reply: dict[str, Any],
        now: float,
    ) -> list[Order]:
        """Count a fresh report, and add what the board is to do to the reply."""
        store = self._store
        releases = store.releases_of(board.app, board.cls)
        running = any(release.short == report.digest for release in releases)
        known = store.rejections(board.id)
        reset = store.reset_between(board.trust, report.facts.get("trust", board.trust))
        if reset is not None:
            board = replace(board, high=min(board.high, reset))
        outcome = policy.judge(
            board, report, known.get(report.bad.digest) if report.bad else None, running
        )
        store.put(board.id, outcome, now)
        if outcome.durable:
            await self._committed()
        orders = self._orders(board, report, carried, now)
        # A board in recovery has nothing to go back from, and needs whatever there is.
        going_back = report.state != "recovery" and any(o.text == "rollback" for o in orders)
        orders = policy.heard(report.state, orders)
        if not going_back:
            rejected = {bad.digest for bad in store.rejections(board.id).values() if not bad.soft}
            board = store.board(board.id) or board
            release = policy.offer(board, report, releases, frozenset(rejected))
            if release is not None:
                reply["m"] = release.digest
        if orders:
            store.sent(orders)
            reply["do"] = [order.text for order in orders]
        return orders

    def _orders(
        self, board: Board, report: Report, carried: tuple[int, ...], now: float
    ) -> list[Order]:
        """Close the orders whose effect this report shows; return those still open."""
        left = []
        for order in self._store.open_orders(board.id):
            result = policy.settled(order, report, order.n in carried)
            if result is None:
                left.append(order)
            else:
                self._store.end(board.id, order, result, now)
        return left

    def _interval(self, board: Board) -> int:
        return policy.interval(board.dev, self._every, random.random())

    # --- content ---

    async def manifest(self, request: Request) -> Response:
        """A manifest with its signatures, by digest."""
        digest = request.path_params["digest"]
        return _content(
            request, _DIGEST.fullmatch(digest) and self._store.manifests.deflated(digest)
        )

    async def file(self, request: Request) -> Response:
        """A file, by SHA-256 of its content."""
        digest = request.path_params["digest"]
        return _content(request, _DIGEST.fullmatch(digest) and self._store.files.deflated(digest))

    async def trust(self, request: Request) -> Response:
        """A trust file, by version."""
        version = request.path_params["version"]
        known = version.isascii() and version.isdigit() and len(version) < 10
        plain = self._store.trust(int(version)) if known and int(version) else None
        return _content(request, plain and deflate(plain))

    # --- to the disk ---

    async def flush_for_ever(self) -> None:
        """Write what polls have changed, about once a second."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            while self._flush(FLUSH_BOARDS):
                await asyncio.sleep(0)

    def _flush(self, limit: int | None = None) -> bool:
        try:
            return self._store.flush(limit)
        except sqlite3.Error as problem:
            # Without a valid ticket every board reports again, with all its facts.
            self._issued.clear()
            log.error("cannot write to the database: %s", problem)
            return False

    async def _committed(self) -> None:
        """Return when everything put so far is on the disk."""
        if self._commit is None:
            loop = asyncio.get_running_loop()
            self._commit = loop.create_future()
            loop.call_later(GROUP_SECONDS, self._commit_now, self._commit)
        await asyncio.shield(self._commit)

    def _commit_now(self, waiting: "asyncio.Future[None]") -> None:
        self._commit = None
        try:
            self._store.flush(0)
            waiting.set_result(None)
        except sqlite3.Error as problem:
            self._issued.clear()
            log.error("cannot write to the database: %s", problem)
            waiting.set_exception(HTTPException(503))


def _sealed(key: bytes, nonce: str, reply: dict[str, Any]) -> Response:
    body = json.dumps(reply, separators=(",", ":")).encode()
    mac = hmac.digest(key, b"reply1\0" + nonce.encode() + body, "sha256").hex()
    return Response(body, headers={"ota-mac": mac})


def _content(request: Request, stored: bytes | None) -> Response:
    if not stored:
        return Response(status_code=404)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None:
        return Response(stored)
    start, size = int(asked[1]), len(stored)
    if start >= size:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers = {"content-range": f"bytes {start}-{size - 1}/{size}"}
    return Response(stored[start:], 206, headers)


# --- reading a poll ---


def _parsed(body: bytes) -> Any:
    """JSON, read as kindly as can be: a damaged traceback must not cost a board its server."""
    text = body.decode("utf-8", "replace")
    value = json.loads(text, strict=False)
    if "\\u" in text:
        # A lone surrogate is no text to a database or a page.
        plain = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(plain)
    return value


def _understand(message: dict[str, Any]) -> tuple[str, str, Report]:
    """Nonce, ticket and report of an authenticated poll; unknown keys are ignored.

    Raises:
        BadPoll: a value is not what it must be.
    """
    state = _text(message, "state", 16)
    if not _WORD.fullmatch(state):
        raise BadPoll("state")
    facts = {
        name: _number(message, key) if kind is int else _text(message, key, 64)
        for key, name, kind in _FACTS
        if key in message
    }
    if "life" in message:
        facts["life"] = _matching(message, "life", _NONCE)
    report = Report(
        seq=_number(message, "seq"),
        digest=_matching(message, "m", _HALF_DIGEST),
        state=state,
        heap=_number(message, "heap"),
        up=_number(message, "up"),
        facts=facts,
        bad=_bad(message.get("bad")),
        progress=_progress(message.get("prog")),
        unknown=_unknown(message.get("unk", [])),
        held=bool(message.get("held", 0)),
        jobs=_jobs(message.get("jobs")),
        open=_number(message, "open") if "open" in message else None,
        wrong=_number(message, "wrong") if "wrong" in message else 0,
        pushed=bool(message.get("push", 0)),
    )
    return _matching(message, "n", _NONCE), _text(message, "k", 16), report


def _bad(value: Any) -> Bad | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadPoll("bad")
    reason = _text(value, "why", 16)
    if not _WORD.fullmatch(reason):
        raise BadPoll("why")
    trace = str(value.get("trace", ""))[:TRACE_CHARS]
    return Bad(_matching(value, "m", _HALF_DIGEST), reason, bool(value.get("soft", 0)), trace)


def _progress(value: Any) -> str:
    if value is None:
        return ""
    if not (isinstance(value, list) and len(value) == 2 and all(_is_number(n) for n in value)):
        raise BadPoll("prog")
    return f"{value[0]}/{value[1]}"


def _jobs(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict) or any(
        not (isinstance(runs, list) and len(runs) == 2 and all(map(_is_number, runs)))
        for runs in value.values()
    ):
        raise BadPoll("jobs")
    return json.dumps(value)


def _unknown(value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(order, str) for order in value)):
        raise BadPoll("unk")
    return tuple(order[:64] for order in value[:4])


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _number(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if not _is_number(value):
        raise BadPoll(key)
    return int(value)  # type: ignore[arg-type]


def _text(message: dict[str, Any], key: str, most: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise BadPoll(key)
    return value


def _matching(message: dict[str, Any], key: str, pattern: "re.Pattern[str]") -> str:
    value = message.get(key)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadPoll(key)
    return value
