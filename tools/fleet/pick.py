"""Which of the server's releases a person means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...ota_server.policy import ROLLBACK_REASONS
from ..console import Failure

_NAMED = 6
"""So many releases are listed where a name means several."""


def title(release: Mapping[str, Any]) -> str:
    """What people know a release by: its note, and when it was published."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(release["published"]))
    return when if release["note"] in ("", "-") else f"{release['note']}, {when}"


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
        raise _several(wanted, found)
    return found


def _several(wanted: str, found: Sequence[Mapping[str, Any]]) -> Failure:
    """The failure where a name means several releases; it tells them apart."""
    lines = [f"{one['seq']} ({title(one)}) for {one['class']}" for one in found[:_NAMED]]
    if len(found) > _NAMED:
        lines.append(f"and {len(found) - _NAMED} more, see `mipy status`")
    return Failure(
        f"'{wanted}' names {len(found)} releases: {'; '.join(lines)}",
        "give the number of the one that is meant, or more of its digest",
    )


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
