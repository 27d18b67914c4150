"""The firmware's `umqtt.simple`, for virtual boards: fetched once, never committed.

Every stock image has it frozen, the interpreter of the virtual board has not. Its authors publish
it on PyPI as a source archive without a setup script, which pip refuses to handle; so the file is
taken from the index itself (PEP 691) and counts only if its SHA-256 is the one below.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile

from .. import console, places

NAME = "micropython-umqtt.simple"
VERSION = "1.3.4"  # the oldest that firmware of 1.22 and newer may hold
SHA256 = "b6a2520239e3992c63a7de9370ee9b3d9d27819a90359c521f1c0f7ccab8d12f"
_INDEX = re.compile(r"Python\s+Package\s+Index\s+\(default\s+(https?://[^\s)]+)\)")
_ACCEPT = "application/vnd.pypi.simple.v1+json"
_SECONDS = 30
_MOST = 65536  # bytes; it has 4,000


def source() -> bytes | None:
    """The text of umqtt/simple.py, from the cache if it is there; None when it cannot be had."""
    kept = places.cache() / "umqtt" / f"{VERSION}.tar.gz"
    try:
        archive = kept.read_bytes()
    except OSError:
        archive = b""
    if not _right(archive):
        try:
            with console.busy("fetching the firmware's umqtt.simple from PyPI, once"):
                archive = _fetch()
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f".{kept.name}.{os.getpid()}")
            part.write_bytes(archive)
            part.rename(kept)
        except OSError as problem:  # those of requests are of this kind
            console.warn(f"virtual boards have no umqtt.simple: {problem}")
            return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        file = packed.extractfile(f"{NAME}-{VERSION}/umqtt/simple.py")
        assert file
        return file.read()


def _right(archive: bytes) -> bool:
    return hashlib.sha256(archive).hexdigest() == SHA256


def _default_index() -> str:
    """The index that pip asks unless told otherwise: its help names it, as configured.

    Raises:
        OSError: there is no pip here, or its help names none.
    """
    said = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--help"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    found = _INDEX.search(said.stdout)
    if found is None:
        raise OSError("there is no pip here that knows where PyPI is")
    return found[1]


def _fetch() -> bytes:
    import requests

    index = os.environ.get("PIP_INDEX_URL") or _default_index()
    page = requests.get(
        f"{index.rstrip('/')}/{NAME}/", headers={"accept": _ACCEPT}, timeout=_SECONDS
    )
    page.raise_for_status()
    files = page.json().get("files", ())
    url = next((f["url"] for f in files if f["hashes"].get("sha256") == SHA256), None)
    if url is None:
        raise OSError(f"{index} does not list {NAME} {VERSION}")
    with requests.get(url, timeout=_SECONDS, stream=True) as reply:
        reply.raise_for_status()
        archive = reply.raw.read(_MOST)
    if not _right(archive):
        raise OSError(f"{NAME} {VERSION} has another SHA-256 than expected")
    return archive
