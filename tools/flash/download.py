"""Stock firmware from micropython.org, kept in the cache, never taken unseen.

Which version, and the SHA-256 of every file where it is known, stand in firmware.toml. A file
whose SHA-256 is not known must be the build and the version that was asked for, by its own
checksums; then its SHA-256 is announced and recorded in the cache, and nothing else is taken later.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .. import console, places
from ..console import Failure
from ..files import failed, write
from . import firmware
from .firmware import BadFirmware, Firmware

_MOST = 16 * 1024 * 1024
"""Bytes of flash that the largest chip has."""
_CONNECT_SECONDS, _READ_SECONDS = 10, 60


class Pins(NamedTuple):
    """What firmware.toml says; `sha256`: build -> hex, "" where it is not known."""

    source: str
    version: str
    sha256: dict[str, str]


@cache
def pins() -> Pins:
    """The firmware that is fetched."""
    return Pins(**tomllib.loads(Path(__file__).with_name("firmware.toml").read_text("utf-8")))


def cached(build: str) -> Path:
    """Where the stock firmware `build` is kept; a file of this name may be put there by hand."""
    return places.cache() / "firmware" / f"{build}-{pins().version}.bin"


def fetch(build: str) -> Firmware:
    """The stock firmware `build` from the cache, else from micropython.org.

    Raises:
        Failure: it cannot be fetched, or is not what it should be.
    """
    path = cached(build)
    try:
        if path.exists():
            try:
                return _checked(path.read_bytes(), build)
            except BadFirmware as refused:
                console.warn(f"{path}: {refused}; fetching it again")
        url = pins().source + path.name
        console.note(f"fetching {url}")
        data = _download(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _checked(data, build)
        write(path, data)
        return found
    except OSError as problem:
        raise failed(f"cannot use {path.parent}", problem) from problem
    except BadFirmware as refused:
        record = _record(build)
        hint = "fetch it by another way and name it with --firmware FILE"
        if record.exists():
            hint += f"; if the change is known to be right, delete {record}"
        raise Failure(f"{pins().source}{path.name}: {refused}", hint) from refused


def _checked(data: bytes, build: str) -> Firmware:
    """The image in `data`, if it is `build`; a first SHA-256 is announced and recorded.

    Raises:
        BadFirmware: it is something else, or damaged.
    """
    digest, record = hashlib.sha256(data).hexdigest(), _record(build)
    known = pins().sha256.get(build) or _recorded(record)
    if known and digest != known:
        raise BadFirmware("this is not the known firmware, its SHA-256 differs")
    found = firmware.parse(data)
    number = pins().version.rpartition("-v")[2]
    if (found.build, found.number) != (build, number):
        raise BadFirmware(f"this is {found.build} {found.number}, not {build} {number}")
    if not known:
        console.warn(
            f"no SHA-256 of {cached(build).name} is known here: the first one, {digest}, is "
            f"trusted and recorded in {record}; no other is taken from now on"
        )
        write(record, digest.encode() + b"\n")
    return found


def _record(build: str) -> Path:
    """Where the SHA-256 of a build is recorded that firmware.toml does not know."""
    return cached(build).with_suffix(".sha256")


def _recorded(record: Path) -> str:
    return record.read_text("ascii").strip() if record.exists() else ""


def _download(url: str) -> bytes:
    import requests

    try:
        timeouts = (_CONNECT_SECONDS, _READ_SECONDS)
        with requests.get(url, stream=True, timeout=timeouts) as answer, console.progress() as bar:
            answer.raise_for_status()
            size = int(answer.headers.get("content-length", 0)) or None
            task = bar.add_task("fetching the firmware", total=size)
            data = bytearray()
            for part in answer.iter_content(65536):
                data += part
                bar.advance(task, len(part))
                if len(data) > _MOST:
                    raise Failure(f"{url} does not end", "name a firmware with --firmware FILE")
    except requests.RequestException as problem:
        raise Failure(
            f"cannot fetch {url}",
            "check the network, or download it on another machine and give it with --firmware FILE",
        ) from problem
    return bytes(data)
