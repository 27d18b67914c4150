"""Which of the server's releases a person means."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...ota_server.policy import ROLLBACK_REASONS
from ..console import Failure

ROLLOUTS_LOOKED_AT = 100
"""As many as the server lists at once; older ones say nothing of what boards may get."""
_NAMED = 6
"""So many releases are listed where a name means several."""
Release = Mapping[str, Any]
Content = frozenset[tuple[str, str]]
"""Names and hashes of a release's files."""


def title(release: Mapping[str, Any]) -> str:
    """What people know a release by: its note, and when it was published."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(release["published"]))
    return when if release["note"] in ("", "-") else f"{release['note']}, {when}"


def chosen(
    known: Iterable[Mapping[str, Any]], wanted: str, app: str | None = None
) -> list[Mapping[str, Any]]:
    """The releases that `wanted` names: one for each class of one app.

    Args:
        app: only this one's.

    Raises:
        Failure: none, several of one class, or such of several apps.
    """
    found = [
        one
        for one in known
        if wanted in (str(one["seq"]), one["note"])
        or (len(wanted) >= 4 and one["digest"].startswith(wanted))
    ]
    mine = [one for one in found if app in (None, one["app"])]
    if not mine:
        of = f" of {app}" if app else ""
        others = "; another app has one, name it with --app" if found else ""
        text = f"there is no release '{wanted}'{of} on the server"
        raise Failure(text, f"see `mipy status`{others}")
    one_app(mine, f"'{wanted}' names releases")
    if len({one["class"] for one in mine}) != len(mine):
        raise _several(wanted, mine)
    return mine


def one_app(releases: Iterable[Mapping[str, Any]], what: str) -> None:
    """See that releases are all of one app.

    Args:
        what: begins the error's text.

    Raises:
        Failure: they are not.
    """
    apps = sorted({one["app"] for one in releases})
    if len(apps) > 1:
        raise Failure(
            f"{what} of {len(apps)} apps: {', '.join(apps)}",
            "name the app with --app, or do this in its folder",
        )


def _several(wanted: str, found: Sequence[Mapping[str, Any]]) -> Failure:
    """The failure where a name means several releases; it tells them apart."""
    lines = [f"{one['seq']} ({title(one)}) for {one['class']}" for one in found[:_NAMED]]
    if len(found) > _NAMED:
        lines.append(f"and {len(found) - _NAMED} more, see `mipy status`")
    return Failure(
        f"'{wanted}' names {len(found)} releases: {'; '.join(lines)}",
        "give the number of the one that is meant, or more of its digest",
    )


@dataclass(frozen=True)
class Step:
    """One step back, for the boards of one app and class: from a release to the former one."""

    leaving: Release
    former: Release


def steps(
    releases: Iterable[Release],
    rollouts: Iterable[Mapping[str, Any]],
    content: Mapping[str, Content],
    channel: str,
    classes: Sequence[str] = (),
) -> list[Step]:
    """The step back of each app and class in a channel that has a former release.

    The former one is the newest of those before it that went out and was not stopped. A release
    that was published again is one with its first issue: who goes back twice comes to what was
    before, not to what was left.

    Args:
        releases: all of the server's, newest first.
        rollouts: the server's.
        content: what is known of releases' files, by digest.
        classes: only these; empty: all.
    """
    newest = {
        one["digest"]: one
        for one in sorted(rollouts, key=lambda one: one["id"])
        if one["channel"] == channel
    }
    lines: dict[tuple[str, str], list[Release]] = {}
    for one in releases:
        rollout = newest.get(one["digest"])
        draft = rollout is not None and rollout["state"] == "draft"
        if channel in one["channels"] and not one["withdrawn"] and not draft:
            lines.setdefault((one["app"], one["class"]), []).append(one)
    found: list[Step] = []
    for (_, cls), line in sorted(lines.items()):
        first = _first_issue(line, content)
        before = (one for one in line[first + 1 :] if _went_out(newest.get(one["digest"])))
        former = next(before, None)
        if former and (not classes or cls in classes):
            found.append(Step(line[0], former))
    return found


def _first_issue(line: Sequence[Release], content: Mapping[str, Content]) -> int:
    """Index of the oldest release with the content of the newest one."""
    files = content.get(line[0]["digest"])
    same = (i for i, one in enumerate(line) if files and content.get(one["digest"]) == files)
    return max(same, default=0)


def _went_out(rollout: Mapping[str, Any] | None) -> bool:
    """Whether a release that went out so proved itself; None: it went to everybody at once."""
    if rollout is None or rollout["state"] == "done":
        return True
    return rollout["state"] not in ("halted", "cancelled") and rollout["counts"]["confirmed"] > 0


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
