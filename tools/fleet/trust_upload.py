"""The fleet's trust files, on their way to the server."""

from __future__ import annotations

from dataclasses import replace

from ...signing import trust as trust_file
from ...signing.reasons import Refused
from .. import console
from ..console import Failure
from ..keys import store as keys
from .client import Client


def publish_trust(client: Client) -> int:
    """Send the server every trust version it has not got; returns how many that were.

    Raises:
        Failure: as `Client.add_trust`; or the server has another file under one of our versions.
    """
    ours = keys.trust_files()
    have = _version_at(client.trust(), ours)
    if have > len(ours):
        console.warn(
            f"the server has trust version {have}, the newest here is {len(ours)}: bring the newer "
            "one here with `mipy keys restore` before you change keys"
        )
    missing = ours[have:]
    for raw in missing:
        client.add_trust(raw)
    return len(missing)


def _version_at(server: bytes | None, ours: list[bytes]) -> int:
    """The version of the server's newest trust file, which is one of ours or a later one."""
    if server is None:
        return 0
    try:
        theirs = trust_file.parse(server)
        if theirs.version <= len(ours):
            same = trust_file.parse(ours[theirs.version - 1])
            if replace(theirs, signatures=()) != replace(same, signatures=()):
                raise Refused("trust-version", f"another file is version {theirs.version} here")
    except Refused as refused:
        raise Failure(
            f"the server's trust file is not this fleet's: {refused}",
            "is it another fleet's server? see MIPY_SERVER and `mipy keys list`",
        ) from refused
    return theirs.version
