"""The fleet's trust files, on their way to the server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...signing import trust as trust_file
from ...signing.reasons import Refused
from .. import console
from ..console import Failure
from ..keys import store as keys
from .client import Client


def publish_trust(client: Client) -> int:
    """Send the server every trust version it has not got; returns how many that were.

    Raises:
        Failure: as `Client.add_trust`; the server has another file under one of our versions; or
            a board is ahead of what would be sent, and no person insists.
    """
    ours = keys.trust_files()
    have = _version_at(client.trust(), ours)
    if have > len(ours):
        console.warn(
            f"the server has trust version {have}, the newest here is {len(ours)}: bring the newer "
            "one here with `mipy keys restore` before you change keys"
        )
    missing = ours[have:]
    _check_ahead(client.status()["ahead"], len(ours), bool(missing))
    if missing:
        with console.busy("registering the fleet's keys" if have == 0 else "sending the new keys"):
            for raw in missing:
                client.add_trust(raw)
    return len(missing)


def _check_ahead(ahead: Mapping[str, Any] | None, newest: int, sending: bool) -> None:
    """Tell of a board with a later trust file than the newest here: a backup was too old.

    What it already has under a version, it takes from nobody again. One board may lie, so a
    person has the last word.
    """
    if ahead is None or ahead["trust"] <= newest:
        return
    board = ahead["board"]
    text = f"{board} has trust version {ahead['trust']}, the newest here is {newest}"
    hint = (
        "bring back a backup from after the last change of keys; "
        f"if that board is not to be believed: mipy board retire {board}"
    )
    if sending and not sys.stdin.isatty():
        raise Failure(text, hint)
    console.warn(text)
    console.note(hint)
    if sending and not console.confirm("send what is here all the same?"):
        raise Failure("nothing was sent", hint)


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
