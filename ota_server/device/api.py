"""The boards' side of the server, as docs/protocol.md has it.

Plain ASGI ahead of Starlette's routing: at a thousand polls a second that, too, would count.
"""

import asyncio
import hmac
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from .. import policy
from ..policy import Bad, Board, Crash, Known, Report
from ..rollout_gate import Gate, minute_of_day
from ..storage.base import RETRY_SECONDS, Away, Storage, StorageError
from ..storage.content import Content, deflate
from . import poll_message
from .poll_message import TRACE_CHARS, BadPoll

POLL_BYTES = 1024
HEAD_BYTES = 1024
POLL_SECONDS = 10.0
READABLE_CHARS = 2 * TRACE_CHARS
"""A traceback grows when its functions get their own names again; not beyond this."""
DECISION_SECONDS = 3600.0
"""For so long a report that says the same is answered the same, without looking at the rules."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_RANGE = re.compile(rb"bytes=(\d{1,10})-")
_STATUS_CLOSING = frozenset((408, 411, 413, 431))
# What every poll says; one that says nothing else may be routine.
_ALWAYS = frozenset("id n k seq m state heap up".split())

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Told = TypeVar("Told", Bad, Crash)
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
log = logging.getLogger(__name__)


class Refuse(Exception):
    """An answer without a body.

    Args:
        status: of HTTP.
        headers: beside `content-length` and `connection`.
    """

    def __init__(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(status)
        self.status = status
        self.headers = list(headers)
        if status in _STATUS_CLOSING:  # the request was not read to its end
            self.headers.append((b"connection", b"close"))


class DeviceApi:
    """Answers boards: everything under `/d/`.

    Args:
        storage: shared with the people's side.
        every: seconds between polls, for all boards; None leaves it to the policy.
        moved: address of the server that boards are to ask from now on.
        readable: what is made of a traceback before anybody sees it.
    """

    def __init__(
        self,
        storage: Storage,
        every: float | None = None,
        moved: str | None = None,
        readable: Callable[[str], str] = str,
    ) -> None:
        self._storage = storage
        self._every = every
        self._moved = moved
        self._readable = readable
        self.answers: dict[int, int] = {}
        """How many of each HTTP status."""
        self.stale = 0
        """Polls that were not counted."""
        self._contents = {"manifests": storage.manifests, "files": storage.files}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, headers, body = await self._answer(scope, receive)
        except Refuse as refused:
            status, headers, body = refused.status, refused.headers, b""
        except (StorageError, OSError) as problem:
            if not isinstance(problem, Away):
                log.error("cannot use the data folder: %s", problem)
            status, headers, body = 503, [(b"retry-after", b"%d" % RETRY_SECONDS)], b""
        self.answers[status] = self.answers.get(status, 0) + 1
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == "/d/v1/poll":
            if method != "POST":
                raise Refuse(405, (b"allow", b"POST"))
            return await self._poll(scope, receive)
        if method != "GET":
            raise Refuse(405, (b"allow", b"GET"))
        parts = path.split("/")
        if parts[:3] != ["", "d", "v1"] or len(parts) != 5:
            raise Refuse(404)
        return await self._content(scope, *parts[3:])

    # --- polls ---

    async def _poll(self, scope: Scope, receive: Receive) -> Answer:
        """One poll: report in, decision out."""
        head, length, mac = 0, b"", b""
        for name, value in scope["headers"]:
            head += len(name) + len(value) + 4
            if name == b"ota-mac":
                mac = value
            elif name == b"content-length":
                length = value
        if head > HEAD_BYTES:
            raise Refuse(431)
        if not length:
            raise Refuse(411)
        if int(length) > POLL_BYTES:
            raise Refuse(413)
        body = await _body(receive)
        message, known = await self._authenticated(body, mac)
        client = scope["client"]
        return await self._reply(message, known, client[0] if client else "")

    async def _authenticated(self, body: bytes, given: bytes) -> tuple[dict[str, Any], Known]:
        try:
            message = poll_message.parse(body)
            board_id = message["id"]
            known = await self._storage.known(board_id) if isinstance(board_id, str) else None
        except (ValueError, RecursionError, LookupError, TypeError):
            message, known = dict[str, Any](), None
        # An unknown board costs the same time as a wrong key.
        key = bytes(32) if known is None else known.board.key
        good = hmac.digest(key, b"poll1\0" + body, "sha256").hex().encode()
        if not hmac.compare_digest(good, given) or known is None:
            raise Refuse(403)
        return message, known

    async def _reply(self, message: dict[str, Any], known: Known, peer: str) -> Answer:
        storage, board, now = self._storage, known.board, time.time()
        nonce, ticket = _checked(board, poll_message.envelope, message)
        reply = {
            "k": "",
            "t": int(now),
            "every": policy.interval(board.dev, self._every, random.random()),
            "trust": storage.catalog.trust_version,
        }
        if self._moved:
            reply["moved"] = self._moved
        if known.tickets.admit(ticket):
            reply["k"] = self._routine(known, message, ticket, peer, now)
            if reply["k"]:
                if board.offered:
                    reply["m"] = board.offered
            else:
                await self._take(board, message, ticket, peer, reply, now)
        if not reply["k"]:
            self.stale += 1
            reply["stale"] = 1
            reply["k"] = await storage.stale(known)
        sealed = orjson.dumps(reply)
        mac = hmac.digest(board.key, b"reply1\0" + nonce.encode() + sealed, "sha256").hex()
        return 200, [(b"ota-mac", mac.encode())], sealed

    def _routine(
        self, known: Known, message: dict[str, Any], ticket: str, peer: str, now: float
    ) -> str:
        """The next ticket, where the board says what it said before; else ""."""
        board = known.board
        if (
            known.epoch != self._storage.epoch
            or message.keys() != _ALWAYS
            or message.get("m") != board.digest
            or message.get("state") != board.state
            or message.get("seq") != board.seq
            or now - known.decided > DECISION_SECONDS
        ):
            return ""
        heap, up = message["heap"], message["up"]
        if not (poll_message.is_number(heap) and poll_message.is_number(up)):
            return ""
        if up < board.up and board.reason != "twin":
            return ""  # a new start tells its facts: see policy.judge
        return self._storage.routine(known, ticket, heap, up, peer, now)

    async def _take(
        self,
        board: Board,
        message: dict[str, Any],
        ticket: str,
        peer: str,
        reply: dict[str, Any],
        now: float,
    ) -> None:
        """Count a report whose ticket is good, and add what the board is to do to the reply.

        The ticket of `reply` stays empty where another process or an enrolment came first.
        """
        storage = self._storage
        report = _checked(board, _report, board, message)
        report = await self._with_own_names(report)
        known = await storage.known(board.id)  # others may have had their turn
        if known is None or known.board.key != board.key:
            raise Refuse(403)
        tickets, board = known.tickets, known.board
        carried = tickets.carried if ticket == tickets.counted else ()
        trust = report.facts.get("trust", board.trust)
        verdict = policy.decide(
            known,
            report,
            carried,
            storage.releases_of(board.app, board.cls),
            storage.catalog.reset_between(board.trust, trust),
            now,
            Gate(storage.rollouts_of(board.app, board.cls, board.channel), minute_of_day(now)),
        )
        epoch = storage.epoch
        reply["k"] = await storage.take(known, ticket, verdict, peer, now) or ""
        if not reply["k"]:
            return
        routine = message.keys() == _ALWAYS and not known.orders and not verdict.waits
        known.epoch, known.decided = epoch if routine else -1, now
        if verdict.release:
            reply["m"] = verdict.release.digest
        if verdict.orders:
            reply["do"] = [order.text for order in verdict.orders]

    async def _with_own_names(self, report: Report) -> Report:
        """The report, its tracebacks with the names that the sources have."""
        if report.bad:
            report = replace(report, bad=await self._named(report.bad))
        if report.crash:
            report = replace(report, crash=await self._named(report.crash))
        if report.job:
            report = replace(report, job=await self._readable_trace(report.job))
        return report

    async def _named(self, told: Told) -> Told:
        return replace(told, trace=await self._readable_trace(told.trace))

    async def _readable_trace(self, trace: str) -> str:
        # In a thread: the first traceback has the sources read and parsed.
        return (await asyncio.to_thread(self._readable, trace))[:READABLE_CHARS]

    # --- content ---

    async def _content(self, scope: Scope, kind: str, name: str) -> Answer:
        """A manifest or file by its hash, or a trust file by its version."""
        stored = None
        if kind in self._contents and _DIGEST.fullmatch(name):
            stored = await asyncio.to_thread(Content.deflated, self._contents[kind], name)
        elif kind == "trust" and _VERSION.fullmatch(name):
            plain = self._storage.trust(int(name))
            stored = plain and deflate(plain)
        if not stored:
            raise Refuse(404)
        asked = next((v for n, v in scope["headers"] if n == b"range"), b"")
        part = _RANGE.fullmatch(asked)
        if part is None:
            return 200, [], stored
        start, size = int(part[1]), len(stored)
        if start >= size:
            raise Refuse(416, (b"content-range", b"bytes */%d" % size))
        shown = b"bytes %d-%d/%d" % (start, size - 1, size)
        return 206, [(b"content-range", shown)], stored[start:]


async def _body(receive: Receive) -> bytes:
    """A poll's body, of at most the length that was announced."""
    body = b""
    try:
        async with asyncio.timeout(POLL_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refuse(400)  # a board lost its power; nobody reads this
                body += message.get("body", b"")
                if not message.get("more_body"):
                    return body
    except TimeoutError as problem:
        raise Refuse(408) from problem


def _report(board: Board, message: dict[str, Any]) -> Report:
    told = message.get("app", board.app), message.get("class", board.cls)
    if told != (board.app, board.cls):
        raise BadPoll("app or class")
    return poll_message.report(message)


def _checked(board: Board, read: Callable[..., Any], *args: Any) -> Any:
    try:
        return read(*args)
    except BadPoll as problem:
        log.warning("board %s: wrong %s in its poll", board.id, problem)
        raise Refuse(400) from problem
