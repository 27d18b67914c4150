"""Which of the server's releases a person means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
