"""What the device tests share: keys, releases made of a few lines, a server, virtual boards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from mipy_ota.signing import board_file, bundle, keys, manifest, trust
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import places
from mipy_ota.tools.app import collect
from mipy_ota.tools.app.compile import bytecode, modules
from mipy_ota.tools.flash import provision
from mipy_ota.tools.fleet.serve import Running
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import testkeys
from tests.support.boards import Board

FLEET, APP = "default", "demo"
CLASS = "esp8266-generic"
WIFI = {"home": "secret-word"}


def key(name: str) -> RSAPrivateKey:
    """A test key; "root", "release", or any other name."""
    return testkeys.key(name)


@cache
def first_trust(fleet: str = FLEET) -> bytes:
    """Trust version 1 of the keys "root" and "release"."""
    raw = trust.first(
        fleet, [("root", PublicKey.of(key("root"))), ("release", PublicKey.of(key("release")))]
    ).encode()
    return trust.add_signature(raw, key("root"))


@cache
def mpy(name: str, source: str) -> bytes:
    """Bytecode of a module as the build makes it."""
    return bytecode.compiled(source.encode(), name)


def compiled(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    """Slot content: text named x.py becomes x.mpy, bytes stay as they are."""
    texts = {name: text for name, text in files.items() if isinstance(text, str)}
    ours = {name for name, text in texts.items() if modules.our_sources().get(name) == text}
    beside = (c.encode() if isinstance(c, str) else c for n, c in files.items() if n not in ours)
    short = _our_modules(tuple(sorted(beside))) if ours else {}
    slot = {name: content for name, content in files.items() if isinstance(content, bytes)}
    for name, text in texts.items():
        slot[f"{manifest.stem(name)}.mpy"] = mpy(name, short[name] if name in ours else text)
    return slot


@cache
def _our_modules(beside: tuple[bytes, ...]) -> dict[str, str]:
    return modules.our_modules(beside)


def release(
    files: Mapping[str, str | bytes],
    seq: int,
    *,
    floor: int = 0,
    signer: str = "release",
    cls: str = CLASS,
    app: str = APP,
    note: str = "-",
) -> bytes:
    """A signed bundle."""
    slot = compiled(files)
    raw = manifest.make(app, cls, seq, slot, floor=floor, note=note)
    return bundle.write(manifest.add_signature(raw, key(signer)), slot)


def runtime() -> dict[str, str | bytes]:
    """The runtime as a release without options has it, as source."""
    found = collect.collect(places.sources("app_slots"), True)
    return {name: path.read_text() for name, path in found.items() if name.startswith("runtime/")}


def digest(release: bytes) -> str:
    """Digest of a bundle's manifest, hex."""
    return manifest.parse(bundle.read(release)[0]).digest


class Fleet:
    """A server with the trust registered, and boards enrolled at it."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self._session = requests.Session()
        self._session.headers["authorization"] = f"Bearer {server.token}"
        self.post("/api/trust", first_trust())

    def post(self, path: str, data: bytes | None = None, json: Any = None) -> requests.Response:
        """POST to the people's side; raises on an error."""
        reply = self._session.post(self.server.url + path, data=data, json=json, timeout=30)
        assert reply.ok, reply.text
        return reply

    def get(self, path: str) -> Any:
        """GET from the people's side."""
        reply = self._session.get(self.server.url + path, timeout=30)
        assert reply.ok, reply.text
        return reply.json()

    def publish(self, release: bytes, **rollout: Any) -> str:
        """Publish a bundle; returns its digest. `rollout`: how it goes out, as the API has it."""
        query = "?" + urlencode({"rollout": json.dumps(rollout)}) if rollout else ""
        self.post(f"/api/releases{query}", release)
        return digest(release)

    def enrol(self, board: board_file.Board) -> None:
        """Make the board known."""
        facts = {
            "fleet": board.fleet,
            "id": board.id,
            "name": board.name or board.id,
            "app": board.app,
            "class": board.cls,
            "key": board.key.hex(),
            "dev": board.dev is not None,
        }
        self.post("/api/boards", json=facts)

    def board(
        self, folder: Path, release: bytes | None, name: str = "b1", *, dev: str = "", **options
    ) -> VirtualBoard:
        """A provisioned, enrolled board that is switched off; close it."""
        who = identity(name, (self.server.url,), dev)
        self.enrol(who)
        return prepared(folder, who, release, **options)


def identity(
    name: str = "b1", servers: tuple[str, ...] = (), dev: str = "", app: str = APP
) -> board_file.Board:
    """A board file's content."""
    return board_file.Board(
        fleet=FLEET,
        id=name,
        app=app,
        cls=CLASS,
        key=secrets.token_bytes(32),
        servers=servers,
        dev=PublicKey.of(key(dev)) if dev else None,
    )


def prepared(folder: Path, who: board_file.Board, release: bytes | None, **options) -> VirtualBoard:
    """A virtual board with all its files, and a network in reach."""
    board = Board(folder, **options)
    board.format(provision.board_files(who, first_trust(), release, WIFI))
    board.radio(networks=WIFI)
    return board


__all__ = [
    "Fleet",
    "compiled",
    "digest",
    "first_trust",
    "identity",
    "key",
    "keys",
    "mpy",
    "release",
    "runtime",
]
