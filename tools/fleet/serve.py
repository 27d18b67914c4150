"""`mipy serve`: the OTA server in the foreground, or in a thread for demo and tests."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from .. import console, logs, places
from ..files import failed

if TYPE_CHECKING:
    from ssl import SSLContext

    from uvicorn import Config, Server

    from ...ota_server.app import Server as App
    from ...ota_server.mqtt.settings import BrokerSettings
    from ...ota_server.storage.base import Storage

T = TypeVar("T")
TLS_PORT = 8267
BACKLOG = 2048
CONNECTIONS = 65536
START_SECONDS = 10
_THIS_MACHINE = "give --host an address of this machine, or 0.0.0.0 for all it has"
_OTHER_DATA = "name another one with --data"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Remembered for the fleet; 8266 if never given. 0 picks a free one, this once.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data folder; the fleet's if not given.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="MIPY_DATABASE",
            show_envvar=False,
            help="PostgreSQL in the place of a file: postgresql://USER@HOST/NAME, MIPY_DATABASE.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Let boards poll this often (15 dev, 300)."),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Also serve the page for the first flash by https."),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate (PEM): people come by https, boards as ever."
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")
    ] = None,
    tls_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for https.")] = TLS_PORT,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="IP", help="People come by https and this proxy (docs/operations.md)."
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="How the log is written to standard error.")
    ] = "text",
    moved: Annotated[
        str | None, typer.Option(metavar="URL", help="Send all boards on to this server.")
    ] = None,
    mqtt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Nudge boards by the broker named there (docs/mqtt.md)."),
    ] = None,
) -> None:
    """Run the OTA server until Ctrl-C.

    Boards poll it, `mipy release` publishes to it, a browser shows the boards. It never holds a
    private key.
    """
    from ...ota_server.app import uvicorn_config
    from . import client

    token_file = places.fleet_dir() / "token"
    if database:
        _needs("psycopg", "PostgreSQL", "postgres")
    broker = broker_settings(mqtt) if mqtt else None
    certified = _certified(tls_cert, tls_key)
    listener = _listen(host, client.served_port() if port is None else port)
    secure = None
    try:
        secure = _listen(host, tls_port) if certified else None
        if port:
            client.remember_port(port)
        port = listener.getsockname()[1]
        # One that listens on loopback alone is of no use to a board that calls.
        calls = None if _reachable(host).startswith("127.") else port
        app = _app(
            data or places.data_dir() / "server",
            _token(token_file),
            interval,
            _url(moved),
            calls,
            broker,
            database,
        )
        console.say(f"serving http://{_reachable(host)}:{port}")
        console.say(f"the fleet is '{places.fleet()}'; the token to log in with is in {token_file}")
        if secure:
            app = replace(app, tls_port=secure.getsockname()[1])
            console.say(f"people come to https://{_reachable(host)}:{app.tls_port}")
        elif proxy:
            app = replace(app, tls_port=0)
        elif calls:
            console.warn(
                "from other computers, tokens cross the network in clear: --tls-cert, or a proxy "
                "(docs/operations.md)"
            )
        if tls and not secure:
            console.say(f"the first flash from other computers: {flash_page(host, tls_port)}")
        console.note("Ctrl-C stops the server")
        _allow_many_connections()
        logs.to_stderr(log_format)
        config = uvicorn_config(app)
        if proxy:
            config.proxy_headers, config.forwarded_allow_ips = True, proxy
        _server(config, secure, certified).run([listener])
    finally:
        listener.close()
        if secure:
            secure.close()


def _certified(certificate: Path | None, key: Path | None) -> SSLContext | None:
    """What the server proves itself with, if it is to.

    Raises:
        Failure: the files cannot be used.
    """
    from ssl import SSLError

    from ...ota_server.web import tls

    if not certificate and not key:
        return None
    if not (certificate and key):
        raise console.Failure("a certificate and its key belong together", "name both")
    try:
        return tls.context(certificate, key)
    except SSLError as problem:
        raise console.Failure(
            f"cannot use {certificate} with {key}: {problem.reason or problem}",
            "both are PEM, the key is the certificate's and has no passphrase",
        ) from problem
    except OSError as problem:
        raise failed(f"cannot read {certificate} or {key}", problem) from problem


def _server(config: Config, secure: socket.socket | None, certified: SSLContext | None) -> Server:
    from uvicorn import Server

    from ...ota_server.web.tls import TlsServer

    return TlsServer(config, secure, certified) if secure and certified else Server(config)


def flash_page(host: str, port: int = TLS_PORT) -> str:
    """Serve the page for the first flash by https until this process ends; returns its address.

    Browsers let a page use a serial port only there. The page alone: boards stay with http, whose
    messages carry their own proofs, and a certificate that nobody vouches for adds nothing.
    """
    from starlette.applications import Starlette
    from uvicorn import Server

    from ...ota_server.app import uvicorn_config
    from ...ota_server.web import flash_page as page
    from . import tls

    config = uvicorn_config(Starlette(routes=page.routes()))
    config.lifespan = "off"
    address = _reachable(host)
    config.ssl_certfile = config.ssl_keyfile = str(tls.certificate(address))
    listener = _listen(host, port)
    started = threading.Event()
    work = Server(config), listener, lambda _: started.set()
    threading.Thread(target=_run, args=work, daemon=True).start()
    started.wait(START_SECONDS)
    return f"https://{address}:{listener.getsockname()[1]}/flash"


def _listen(host: str, port: int) -> socket.socket:
    other = f"give the fleet '{places.fleet()}' another --port"
    hints = {
        errno.EADDRINUSE: f"stop what runs there, or {other}",
        errno.EADDRNOTAVAIL: _THIS_MACHINE,
        errno.EACCES: f"ports below 1024 are the system's: {other}, like 8266",
    }
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as problem:
        raise console.Failure(f"{host} is no address", _THIS_MACHINE) from problem
    except OSError as problem:
        # create_server() puts the address into the text.
        cause = os.strerror(problem.errno or 0).lower()
        raise console.Failure(
            f"cannot listen on {host}:{port}: {cause}", hints.get(problem.errno or 0, other)
        ) from problem
    return listener


def _allow_many_connections() -> None:
    """Debian lets a process open 1024 files at first; each board may hold a connection."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(moved: str | None) -> str | None:
    from ...signing import envelope
    from ...signing.reasons import Refused

    try:
        return moved and envelope.address(moved)
    except Refused as problem:
        raise console.Failure(
            f"{moved} is no address of a server", "it looks like http://192.168.1.10:8266"
        ) from problem


def _needs(package: str, what: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise console.Failure(
            f"the package for {what} is not installed", f"pip install 'mipy-ota[{extra}]'"
        )


def broker_settings(path: Path) -> BrokerSettings:
    """The broker that the file names.

    Raises:
        Failure: the file cannot be used, or the package for it is missing.
    """
    from ...ota_server.mqtt.settings import Unusable, load

    _needs("aiomqtt", "MQTT", "mqtt")
    try:
        return load(path)
    except Unusable as problem:
        hint = 'it has lines like `host = "192.168.1.10"`: docs/mqtt.md'
        raise console.Failure(f"cannot use {path}: {problem}", hint) from problem


def _app(
    folder: Path,
    token: str,
    interval: float | None,
    moved: str | None,
    port: int | None,
    broker: BrokerSettings | None = None,
    database: str | None = None,
) -> App:
    from sqlalchemy.exc import SQLAlchemyError

    from ...ota_server.app import make_app
    from ..app.compile.tracebacks import readable

    try:
        return make_app(
            folder,
            token=token,
            every=interval,
            moved=moved,
            port=port,
            readable=readable,
            broker=broker,
            database=database,
        )
    except OSError as problem:
        raise failed(f"cannot use the data folder {folder}", problem, _OTHER_DATA) from problem
    except (SQLAlchemyError, RuntimeError, ValueError) as problem:
        if database and not (folder / "server.db").exists():
            raise _no_database(database, problem) from problem
        cause = str(getattr(problem, "orig", None) or problem)
        raise console.Failure(
            f"cannot use the data folder {folder}: {cause}",
            "make room on that disk" if cause.endswith("is full") else _OTHER_DATA,
        ) from problem


def _no_database(url: str, problem: Exception) -> console.Failure:
    """Why a database on PostgreSQL cannot be used; a password in its URL stays unsaid."""
    from ...ota_server.storage.memory import cause_of
    from ...ota_server.storage.postgres import shown

    cause = cause_of(problem)
    hint = "see that PostgreSQL runs there and knows user and database: docs/operations.md"
    if isinstance(problem, ValueError):
        hint = "docs/operations.md has examples"
    elif isinstance(problem, RuntimeError):
        hint = "stop that server, or name another database"
        if "newer" in cause:
            hint = "install that version here"
    return console.Failure(f"cannot use the database {shown(url)}: {cause}", hint)


def _token(path: Path) -> str:
    from ...ota_server.app import read_token

    try:
        return read_token(path)
    except OSError as problem:
        raise failed(f"cannot use {path}", problem) from problem


def _reachable(host: str) -> str:
    """An address that boards can use, where the server listens on all of them."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    from .address import lan_address

    return lan_address() or "127.0.0.1"


@dataclass
class Running:
    """A server in a thread.

    Attributes:
        up, down: bytes on the wire so far, by the client's address.
    """

    url: str
    token: str
    storage: Storage
    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)
    _server: Any = None
    _thread: Any = None
    _loop: Any = None

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the server's thread do something with its storage, and return what comes of it."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def counts(self) -> tuple[int, int]:
        """Bytes up and bytes down, of all clients together."""
        return sum(self.up.values()), sum(self.down.values())

    def stop(self) -> None:
        """Stop serving; returns when the port is free and the database closed."""
        self._server.should_exit = True
        self._thread.join()


@contextmanager
def running(
    data_dir: Path,
    port: int = 0,
    interval: float | None = None,
    host: str = "127.0.0.1",
    moved: str | None = None,
    calls: bool = False,
    broker: BrokerSettings | None = None,
    database: str | None = None,
) -> Iterator[Running]:
    """Serve in a thread, with a token of its own in `data_dir/token`.

    Args:
        data_dir: the server's data folder.
        port: 0 picks a free one.
        interval: seconds between polls; None leaves it to the policy.
        moved: the server that boards are sent on to.
        calls: answer boards that call for their server.
        broker: where boards are nudged.
        database: URL of one on PostgreSQL.

    Raises:
        Failure: the port is taken, or the folder cannot be used.
    """
    from uvicorn import Server

    from ...ota_server.app import uvicorn_config

    listener = _listen(host, port)
    token = _token(data_dir / "token")
    port = listener.getsockname()[1]
    app = _app(data_dir, token, interval, moved, port if calls else None, broker, database)
    running = Running(f"http://{host}:{port}", token, app.storage)
    server: Server = Server(uvicorn_config(app, _counting(running)))
    started = threading.Event()

    def begin(loop: Any) -> None:
        running._loop = loop
        started.set()

    running._server = server
    running._thread = threading.Thread(target=_run, args=(server, listener, begin), daemon=True)
    running._thread.start()
    started.wait(START_SECONDS)
    try:
        yield running
    finally:
        running.stop()
        listener.close()


def _run(server: Server, listener: socket.socket, started: Callable[[Any], None]) -> None:
    import asyncio

    async def main() -> None:
        serving = asyncio.create_task(server.serve([listener]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.005)
        started(asyncio.get_running_loop())
        await serving

    asyncio.run(main())


def _counting(running: Running) -> Any:
    """The server's protocol, which also counts what goes over the wire."""
    from ...ota_server.web.limits import GuardedProtocol

    class CountingTransport:
        def __init__(self, transport: Any, address: str) -> None:
            self._transport = transport
            self._address = address

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            running.down[self._address] = running.down.get(self._address, 0) + len(data)
            self._transport.write(data)

    class CountingProtocol(GuardedProtocol):
        def connection_made(self, transport: Any) -> None:
            address = transport.get_extra_info("peername")[0]
            super().connection_made(CountingTransport(transport, address))  # type: ignore[arg-type]

        def data_received(self, data: bytes) -> None:
            address = self.client[0] if self.client else ""
            running.up[address] = running.up.get(address, 0) + len(data)
            super().data_received(data)

    return CountingProtocol
