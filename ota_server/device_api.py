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

from . import policy, poll_message
from .limits import read_body, refuse
from .policy import Bad, Board, Order, Report
from .poll_message import TRACE_CHARS, BadPoll
from .store import Store, deflate

POLL_BYTES = 1024
HEAD_BYTES = 1024
POLL_SECONDS = 10.0
FLUSH_SECONDS = 1.0
"""How long what need not survive a crash may stay in memory."""
GROUP_SECONDS = 0.003
"""How long a report waits for others to share its disk flush."""
FLUSH_BOARDS = 500
READABLE_CHARS = 2 * TRACE_CHARS
"""A traceback grows when its functions get their own names again; not beyond this."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d{1,10})-")
log = logging.getLogger(__name__)


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
        nonce, ticket = _checked(board, poll_message.envelope, message)
        issued = self._issued.setdefault(board.id, Tickets())
        reply: dict[str, Any] = {"k": "", "t": int(now), "every": self._interval(board)}
        reply["trust"] = self._store.trust_version
        if self._moved:
            reply["moved"] = self._moved
        if ticket in (issued.counted, issued.stale):
            report = _checked(board, self._report, board, message)
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

    def _report(self, board: Board, message: dict[str, Any]) -> Report:
        told = message.get("app", board.app), message.get("class", board.cls)
        if told != (board.app, board.cls):
            raise BadPoll("app or class")
        return poll_message.report(message)

    async def _with_own_names(self, bad: Bad) -> Bad:
        # In a thread: the first traceback has the sources read and parsed.
        trace = await asyncio.to_thread(self._readable, bad.trace)
        return replace(bad, trace=trace[:READABLE_CHARS])

    def _authenticate(self, body: bytes, given: str) -> tuple[dict[str, Any], Board]:
        try:
            message = poll_message.parse(body)
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
        if report.bad:
            report = replace(report, bad=await self._with_own_names(report.bad))
        releases = store.releases_of(board.app, board.cls)
        running = next((one for one in releases if one.short == report.digest), None)
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
            latest = policy.latest_seq(now)
            release = policy.offer(board, report, releases, frozenset(rejected), latest)
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


def _checked(board: Board, read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except BadPoll as problem:
        log.warning("board %s: wrong %s in its poll", board.id, problem)
        raise HTTPException(400) from problem


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
