"""Where the boards find their server: an address that means the same on every machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from ...signing import envelope
from ...signing.reasons import Refused
from .. import console
from ..addresses import loopback
from ..console import Failure

CONNECT_SECONDS = 3


def server_address() -> str:
    """The address that boards get: the fleet's server, or this machine as others reach it.

    Raises:
        Failure: this machine is on no network, or the server's is no address for boards.
    """
    from .client import address, served_port

    url = address()
    if not loopback(url):
        refuse_loopback(url)
        return url
    port = urlsplit(url).port or served_port()
    here = lan_address()
    if here is None:
        raise Failure(
            "this machine has no address that a board could reach",
            "name the server's with --server http://HOST:PORT",
        )
    if from_dhcp(here):
        console.warn(
            f"{here} comes from DHCP and may change; give this machine a fixed address in "
            "the router, or name the server with --server http://HOST:PORT"
        )
    return f"http://{here}:{port}"


def refuse_loopback(url: str) -> None:
    """Raises Failure for an address that means the board itself, or none that a board may have."""
    try:
        envelope.address(url)
    except Refused as refused:
        raise Failure(f"'{url}' is no server address: {refused}", "http://HOST:PORT") from refused
    if loopback(url):
        raise Failure(
            f"for a board, {url} is the board itself",
            f"name the server as others reach it, like http://{lan_address() or 'HOST'}:8266",
        )


def listens(url: str) -> bool:
    """Whether anything takes connections at the server's address, from here."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False


def warn_of_silence(servers: Iterable[str]) -> None:
    """Warn of each address that a board is about to be given and where nothing answers."""
    for url in servers:
        if listens(url):
            continue
        parts = urlsplit(url)
        ours = parts.hostname == lan_address()
        here = ours and listens(f"http://127.0.0.1:{parts.port or 80}")
        hint = (
            "the server listens for this computer only: `mipy serve --host 0.0.0.0`"
            if here
            else "start it with `mipy serve`; `mipy doctor` says what else may be wrong"
        )
        console.warn(f"nothing answers at {url}, where the board will look for its server; {hint}")


def lan_address() -> str | None:
    """The IPv4 address under which the local network knows this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table (RFC 5737)
            found = probe.getsockname()[0]
        except OSError:
            return None
    return None if loopback(f"http://{found}") else found


def from_dhcp(address: str) -> bool:
    """Whether this machine has `address` for a time only; False where that cannot be told."""
    try:
        shown = subprocess.run(
            ["ip", "-json", "-4", "address"], capture_output=True, check=True, timeout=5
        )
        links = json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return False
    return any(
        one.get("local") == address and one.get("dynamic", False)
        for link in links
        for one in link.get("addr_info", ())
    )


def reachable(given: list[str] | None) -> tuple[str, ...]:
    """The servers of --server. Raises Failure for one that a board cannot reach."""
    for url in given or ():
        refuse_loopback(url)
    return tuple(given or ())


def proposed_server() -> str:
    """This machine's address, which somebody at the keyboard may change."""
    found = server_address()
    if sys.stdin.isatty():
        found = console.prompt("The server, as the board reaches it", found)
        refuse_loopback(found)
    return found
