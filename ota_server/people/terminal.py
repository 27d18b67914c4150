"""A board's terminal in the browser: its page, and who may connect what to which board.

1. Only who has logged in, from a page of this server's own.
2. Only to a board that is enrolled, at the address that its last poll came from, and only if the
   board itself reports the same one, at WebREPL's port. Either alone could be made to point at
   another host: what a board reports by whoever has its key, where a poll comes from by whoever
   passes polls on.
3. One terminal a board; the board would refuse a second one, too.
4. Opening and closing is an entry in the board's history, with the person's address, and without
   anything that was typed or shown.
"""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..policy import Board, Event
from ..storage.base import Storage, StorageError
from ..web import assets
from .api import PeopleApi, same_origin
from .relay import Ended, Relay, reach

TERMINALS = 50
"""Open at once."""
TURN_SECONDS = 3.0
"""A page that is loaded again connects before its former connection has ended."""
FILES = {
    "/terminal/page.css": ("pages/terminal.css", "text/css"),
    "/terminal/page.js": ("pages/terminal.js", "text/javascript"),
    "/terminal/keyboard.js": ("pages/terminal_keyboard.js", "text/javascript"),
    "/terminal/xterm.js": ("static/xterm.js", "text/javascript"),
    "/terminal/fit.js": ("static/fit.js", "text/javascript"),
    "/terminal/xterm.css": ("static/xterm.css", "text/css"),
}
# xterm.js writes style sheets: they carry a word that is new with each page (terminal.js).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
log = logging.getLogger(__name__)


@dataclass
class _Turn:
    """Somebody's use of a board; `who` is an address."""

    who: str
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Terminals:
    """The page, and what it connects to.

    Args:
        storage: for the boards' history.
        people: knows who has logged in, and the boards.
    """

    def __init__(self, storage: Storage, people: PeopleApi) -> None:
        self._storage = storage
        self._people = people
        self._turns: dict[str, _Turn] = {}

    def routes(self) -> list[BaseRoute]:
        """`/boards/<id>/terminal`, the page and the WebSocket, and what the page loads."""
        path = "/boards/{id}/terminal"
        return [Route(path, self.page), WebSocketRoute(path, self.connect), *assets.routes(FILES)]

    async def page(self, request: Request) -> Response:
        """The terminal's page."""
        if not await self._people.knows(request, "operate"):
            return RedirectResponse("/login", 303)
        name = request.path_params["id"]
        board = await self._people.find(name)
        nonce = secrets.token_urlsafe(16)
        return self._people.html(
            "terminal.html",
            200 if board else 404,
            _POLICY % nonce,
            board=board,
            asked=name,
            nonce=nonce,
        )

    async def connect(self, browser: WebSocket) -> None:
        """The page's connection, for as long as it lasts; the page is told why it ends."""
        who = await self._people.knows(browser, "operate")
        if who is None or not same_origin(browser):
            await browser.close()  # which answers 403
            return
        await browser.accept()
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await self._serve(browser)
            except Ended as end:
                await browser.send_json({"code": end.code, "text": end.text, "hint": end.hint})
            await browser.close()

    async def _serve(self, browser: WebSocket) -> None:
        board = await self._people.find(browser.path_params["id"])
        if board is None:
            raise Ended("board", "There is no such board.")
        name = board.name or board.id
        who = browser.client.host if browser.client else "?"
        address = _address(board, board.peer)
        async with self._turn(board, who):
            link = await reach(address, name)
            relay = Relay(browser, link, name)
            try:
                async with self._noted(board, who, relay):
                    await relay.run()
            finally:
                await link.close()

    @contextlib.asynccontextmanager
    async def _turn(self, board: Board, who: str) -> AsyncGenerator[None]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_SECONDS):
                while board.id in self._turns:
                    await self._turns[board.id].over.wait()
        if board.id in self._turns:
            raise Ended(
                "busy",
                f"This terminal is open already, at {self._turns[board.id].who}.",
                "A board serves one at a time: close the other page.",
            )
        if len(self._turns) >= TERMINALS:
            raise Ended("full", f"{TERMINALS} terminals are open.", "Close one of them.")
        turn = self._turns[board.id] = _Turn(who)
        try:
            yield
        finally:
            del self._turns[board.id]
            turn.over.set()

    @contextlib.asynccontextmanager
    async def _noted(self, board: Board, who: str, relay: Relay) -> AsyncGenerator[None]:
        """Without an entry in the history there is no terminal."""
        start = time.time()
        try:
            await self._storage.note(board.id, Event("terminal-opened", text=f"from {who}"), start)
        except StorageError as problem:
            log.error("cannot write to the database: %s", problem)
            raise Ended("storage", "The server cannot use its data folder.") from problem
        why = "left"
        try:
            yield
        except Ended as end:
            why = end.code
            raise
        finally:
            if why == "left" and not relay.logged_in:
                why = "left before the login"
            now = time.time()
            text = f"from {who}, after {now - start:.0f} s: {why}"
            try:
                await self._storage.note(board.id, Event("terminal-closed", text=text), now)
            except StorageError as problem:
                log.error("cannot write to the database: %s", problem)


def _address(board: Board, peer: str) -> str:
    """Where the board's WebREPL is.

    Raises:
        Ended: that is not known for sure; see rule 2.
    """
    if not peer:
        raise Ended(
            "unknown",
            f"{board.name or board.id} has not polled since this server started.",
            "Wait for its next poll; a board whose app is stopped polls after a reset.",
        )
    with contextlib.suppress(ValueError):
        from_where = ipaddress.ip_address(peer)
        if from_where.version == 6 and from_where.ipv4_mapped:
            from_where = from_where.ipv4_mapped
        if from_where == ipaddress.ip_address(board.address):
            return str(from_where)
    raise Ended(
        "elsewhere",
        f"Polls of {board.name or board.id} come from {peer}, but it says that it is at"
        f" {board.address or 'no address'}.",
        "It is in another network than this server: use `mipy repl` in the board's own.",
    )
