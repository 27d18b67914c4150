"""Which of the server's releases a person means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...ota_server.policy import ROLLBACK_REASONS
from ..console import Failure


def chosen(known: Iterable[Mapping[str, Any]], wanted: str) -> list[Mapping[str, Any]]:
    """The releases that `wanted` names: one for each class.

    Raises:
        Failure: none, or several of one class.
    """
    found = [
        one
        for one in known
        if wanted in (str(one["seq"]), one["note"])
        or (len(wanted) >= 4 and one["digest"].startswith(wanted))
    ]
    if not found:
        raise Failure(f"there is no release '{wanted}' on the server", "see `mipy status`")
    if len({(one["app"], one["class"]) for one in found}) != len(found):
        raise Failure(
            f"'{wanted}' names {len(found)} releases", "give the seq or digest of one of them"
        )
    return found


def left(boards: Iterable[Mapping[str, Any]], cls: str) -> dict[str, str]:
    """The releases that boards of a class have gone back from for good, by fault of the release.

    A release that one board would not install, for what that board is, is not among them.

    Returns:
        The first half of a digest -> the name of the first such board.
    """
    found: dict[str, str] = {}
    for board in boards:
        for bad in board["rejected"]:
            if board["class"] == cls and not bad["soft"] and bad["reason"] in ROLLBACK_REASONS:
                found.setdefault(bad["digest"], board["name"] or board["id"])
    return found
