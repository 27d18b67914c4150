"""The server put together: device routes, people's routes, limits, background writing."""

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp
from starlette.websockets import WebSocketClose
from uvicorn import Config

from .dashboard import board_page, first_run, fleet_page, release_pages, rollout_pages
from .dashboard.site import Site
from .device import discovery
from .device.api import DeviceApi
from .mqtt.settings import BrokerSettings
from .people import api_v1
from .people.api import PeopleApi, Problem
from .people.terminal import Terminals
from .storage.base import RETRY_SECONDS, Away, Storage, StorageError
from .storage.rollout_clock import Clock
from .storage.sqlite import FILE as SQLITE_FILE
from .storage.sqlite import SqliteStorage
from .web import flash_page, tls
from .web.limits import IDLE_SECONDS, GuardedProtocol

TOKEN_BYTES = 32
SWITCH_SECONDS = 0.0005
KEYS_BYTES = 4096
"""The longest message of a terminal's page; it sends a board a few keys at a time."""
log = logging.getLogger(__name__)
_WORDS = {
    404: ("path", "there is no such path"),
    405: ("method", "this path does not know the method"),
    408: ("slow", "the body did not come in time"),
    411: ("length", "the request does not say how long its body is"),
    413: ("size", "the body is larger than allowed"),
}


@dataclass(frozen=True)
class Server:
    """The ASGI application: boards' requests go past Starlette.

    Attributes:
        people: pages and API.
        devices: what boards ask.
        storage: what both stand on.
        tls_port: where people come by TLS; 0: by a proxy in front. They may come in clear from this
            computer alone then. None: from anywhere.
    """

    people: Starlette
    devices: DeviceApi
    storage: Storage
    tls_port: int | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one connection's request."""
        if scope["type"] == "http" and scope["path"].startswith("/d/"):
            await self.devices(scope, receive, send)
        elif self.tls_port is not None and scope["type"] != "lifespan" and self._in_clear(scope):
            await self._to_tls(scope)(scope, receive, send)
        else:
            await self.people(scope, receive, send)

    def _in_clear(self, scope: Any) -> bool:
        return scope["path"] != "/healthz" and tls.in_clear(scope)

    def _to_tls(self, scope: Any) -> ASGIApp:
        """Where to come instead; what is sent in clear may be read on its way."""
        if scope["type"] == "websocket":
            return WebSocketClose(1008)
        if scope["path"].startswith("/api/") or scope["method"] != "GET" or not self.tls_port:
            text = "people come to this server by https"
            return Problem(403, "tls", text, "use its https:// address").answer()
        host = Request(scope).url.hostname
        host = f"[{host}]" if ":" in (host or "") else host
        return RedirectResponse(f"https://{host}:{self.tls_port}{scope['path']}")


def make_app(
    data_dir: Path,
    *,
    token: str | None = None,
    every: float | None = None,
    moved: str | None = None,
    port: int | None = None,
    readable: Callable[[str], str] = str,
    broker: BrokerSettings | None = None,
    database: str | None = None,
) -> Server:
    """The ASGI application.

    Args:
        data_dir: database and content; made when missing.
        database: URL of one on PostgreSQL, in the place of the one in `data_dir`.
        token: what people log in with; None reads or makes `data_dir/token`.
        every: seconds between polls, for all boards; None leaves it to the policy.
        moved: address of the server that boards are to ask from now on.
        port: this server's; boards that call on the local network are told it. None: they are not.
        readable: what is made of boards' tracebacks.
        broker: where boards are nudged and Home Assistant is told; None: nowhere.

    Raises:
        ImportError: `broker` needs the extra `mqtt` of this package, `database` `postgres`.
        RuntimeError, SQLAlchemyError, ValueError, OSError: the folder or the database cannot be
            used; see `SqliteStorage` and `PostgresStorage`.
    """
    nudges = None
    storage = _storage_of(data_dir, database)
    if broker:
        from .mqtt.broker import Broker

        nudges = Broker(storage, broker)
    devices = DeviceApi(storage, every, moved, readable)
    people = PeopleApi(storage, token or read_token(data_dir / "token"), devices)
    terminals = Terminals(storage, people)
    site = Site(people)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await storage.start()
        tasks = [asyncio.create_task(Clock(storage, every, time.time()).run())]
        tasks.append(asyncio.create_task(site.heap.run()))
        calls = None if port is None else await discovery.listen(storage, port)
        if nudges:
            tasks.append(asyncio.create_task(nudges.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)  # they use the storage, which closes next
            if calls:
                calls.close()
            await storage.close()

    handlers: dict[Any, Any] = {
        HTTPException: _refusal,
        Problem: _problem,
        ClientDisconnect: _gone,
        OSError: _storage,
        StorageError: _storage,
        Exception: _defect,
    }
    app = Starlette(
        routes=[
            Mount("/api/v1", api_v1.make(people, handlers)),
            *people.routes(),
            *terminals.routes(),
            *flash_page.routes(),
            *site.routes(),
            *release_pages.routes(site),
            *rollout_pages.routes(site),
            *first_run.routes(site),
            *fleet_page.routes(site),
            *board_page.routes(site),
        ],
        lifespan=lifespan,
        exception_handlers=handlers,
    )
    # People's answers are made in threads: each shall give way to polls within half a millisecond.
    sys.setswitchinterval(SWITCH_SECONDS)
    return Server(app, devices, storage)


def _storage_of(data_dir: Path, database: str | None) -> Storage:
    if database is None:
        return SqliteStorage(data_dir)
    from .storage.postgres import PostgresStorage

    if (data_dir / SQLITE_FILE).exists():
        # A backup could not know which of the two the server uses.
        raise RuntimeError("it holds a database of SQLite, but another one is to be used")
    return PostgresStorage(data_dir, database)


def uvicorn_config(app: Any, protocol: type[GuardedProtocol] = GuardedProtocol) -> Config:
    """uvicorn's settings: heads as small as they get, no access log, bounded waiting."""
    return Config(
        app,
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=KEYS_BYTES,
        ws_per_message_deflate=False,
        lifespan="on",
        server_header=False,
        date_header=False,
        access_log=False,
        proxy_headers=False,
        log_config=None,  # whoever starts the server says where its log goes
        log_level="warning",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=3,
    )


def read_token(path: Path) -> str:
    """The token in `path`, which only its owner may read; made at the first call."""
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o600)
        if token := path.read_text("ascii").strip():
            return token
    token = secrets.token_urlsafe(TOKEN_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.touch(mode=0o600, exist_ok=False)
        with part.open("w", encoding="ascii") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)  # whole or not at all: an empty token would let nobody in, ever
    finally:
        part.unlink(missing_ok=True)
    return token


async def _refusal(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, HTTPException)
    if request.url.path.startswith("/api/"):
        code, text = _WORDS.get(refused.status_code, ("http", refused.detail))
        problem = Problem(refused.status_code, code, text, close=refused.headers is not None)
        return await _problem(request, problem)
    return Response(status_code=refused.status_code, headers=refused.headers)


async def _problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return problem.answer()


async def _gone(_: Request, __: Exception) -> Response:
    # Boards lose power in the middle of a request. Nobody is there to read this.
    return Response(status_code=400)


async def _storage(request: Request, problem: Exception) -> Response:
    headers = {"retry-after": str(RETRY_SECONDS)}
    if isinstance(problem, Away):
        text, hint = "the server's database is away", "wait until it is back; see the server's log"
    else:
        log.error("cannot use the data folder: %s", problem)
        text, hint = "the server cannot use its data folder", "make room on its disk"
    if not request.url.path.startswith("/api/"):
        return Response(status_code=503, headers=headers)
    return await _problem(request, Problem(503, "storage", text, hint, headers=headers))


async def _defect(request: Request, _: Exception) -> Response:
    # uvicorn logs the traceback; the client learns nothing from it.
    if not request.url.path.startswith("/api/"):
        return Response(status_code=500)
    return await _problem(request, Problem(500, "defect", "the server failed", "see its log"))
