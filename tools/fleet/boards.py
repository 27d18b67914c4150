"""`mipy boards` and `mipy status`: what the server knows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ...ota_server import rollout as rules
from ...ota_server.condition import CONDITIONS
from .. import console
from ..files import failed
from .pick import ROLLOUTS_LOOKED_AT, title

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def boards(
    board: Annotated[
        str | None, typer.Argument(metavar="[BOARD]", help="One board, with its history.")
    ] = None,
    add: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a board known by its board file.")
    ] = None,
    state_is: Annotated[
        str | None, typer.Option("--state", help=f"Those in this state: {', '.join(CONDITIONS)}.")
    ] = None,
    app: Annotated[str | None, typer.Option(help="Those of this app.")] = None,
    tag: Annotated[str | None, typer.Option(help="Those with this tag.")] = None,
    search: Annotated[str | None, typer.Option(help="Those with this in name or id.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Those out of use.")] = False,
    as_json: JSON = False,
) -> None:
    """List the boards and what they run."""
    from .client import connect

    server = connect()
    if add is not None:
        console.show(server.enrol(_board_file(add)), as_json)
        return
    if board is not None:
        found, events = server.board(board), server.events(board)
        if as_json:
            console.data(found | {"events": events})
        else:
            _show_board(found, events)
        return
    wanted = {"state": state_is, "app": app, "tag": tag, "search": search, "retired": retired}
    every = server.search(**wanted)
    if as_json:
        console.data(every)
        return
    if not every:
        console.say("no such board" if any(wanted.values()) else "no board is enrolled yet")
        return
    releases, rollouts = server.releases(), server.rollouts(ROLLOUTS_LOOKED_AT)
    console.table(
        "",
        ("board", "app", "class", "state", "release", "seen", "last setback"),
        [
            (
                one["name"] or one["id"],
                one["app"],
                one["class"],
                state(one),
                called(one, releases, rollouts),
                age(one["last_seen"]),
                one["reason"],
            )
            for one in every
        ],
    )


def status(as_json: JSON = False) -> None:
    """Show the server, its releases and where the boards are."""
    from .client import connect

    server = connect()
    numbers, releases, every = server.status(), server.releases(), server.boards()
    if as_json:
        console.data({"server": numbers, "releases": releases, "boards": every})
        return
    states = ", ".join(f"{count} {name}" for name, count in sorted(numbers["states"].items()))
    console.show(
        {
            "server": f"{server.url} (mipy-ota {numbers['version']})",
            "boards": f"{numbers['boards']}{f': {states}' if states else ''}",
            "trust": _trust(numbers),
        },
        as_json=False,
    )
    if releases:
        console.table(
            "",
            ("app", "note", "published", "class", "boards", "bytes", "digest", "number"),
            [_release_row(release, every) for release in releases],
        )


def _trust(numbers: Mapping[str, Any]) -> str:
    words = f"version {numbers['trust']}" if numbers["trust"] else "no keys registered"
    if ahead := numbers["ahead"]:
        words += f", but {ahead['board']} has version {ahead['trust']}: a backup was too old"
    return words


def state(board: Mapping[str, Any]) -> str:
    """A board's state in a few words; the first is its condition, as the pages show it."""
    words = board["condition"]
    if words == "updating":
        words += f": {board['state']}"
    elif words == "offline" and board["state"] != "ok":
        words += f", was {board['state']}"
    if board["progress"]:
        words += f" {board['progress']}"
    if board["crashes"] and board["state"] in ("crashing", "recovery"):
        words += f" ({board['crashes']} crash{'es' if board['crashes'] > 1 else ''})"
    if not board["follow"] and board["condition"] != "paused":
        words += ", paused"
    if board["open"]:
        left = board["last_seen"] + board["open"] - time.time()
        words += f", WebREPL open for {max(0, round(left / 60))} min"
    elif board["open"] is not None:
        words += ", WebREPL open"
    return words


def called(
    board: Mapping[str, Any],
    releases: Iterable[Mapping[str, Any]],
    rollouts: Iterable[Mapping[str, Any]] = (),
) -> str:
    """What people call the release that a board runs, and what there is newer for it.

    A release that the board rejected is named as such, and one that does not reach it yet with
    the reason.

    Args:
        board: as the API gives it.
        releases: all, newest first.
        rollouts: the server's newest ones.
    """
    digest, releases = board["digest"], list(releases)
    running = next((one for one in releases if one["digest"][:32] == digest), None)
    words = title(running) if running else digest[:8] or "none"
    if not digest:
        return words
    newest = {
        one["digest"]: one
        for one in sorted(rollouts, key=lambda one: one["id"])
        if one["channel"] == board["channel"]
    }
    rejected = {bad["digest"]: bad["reason"] for bad in board["rejected"] if not bad["soft"]}
    for one in releases:
        if one is running:
            break
        rollout = newest.get(one["digest"])
        if not _meant(board, one) or (rollout and rollout["state"] in ("draft", "cancelled")):
            continue
        if reason := rejected.get(one["digest"][:32]):
            words += f"; rejected: {title(one)} ({reason})"
            continue
        return f"{words}; newer: {title(one)}{_not_yet(board, rollout)}"
    return words


def _meant(board: Mapping[str, Any], release: Mapping[str, Any]) -> bool:
    """Whether a release is for boards like this one, in its channel."""
    alike = (release["app"], release["class"]) == (board["app"], board["class"])
    return alike and board["channel"] in release["channels"] and not release["withdrawn"]


def _not_yet(board: Mapping[str, Any], rollout: Mapping[str, Any] | None) -> str:
    """Why a release does not reach a board yet, as far as its rollout tells."""
    if rollout is None or rollout["state"] == "done":
        return ""
    if rollout["state"] != "running":
        return f", its rollout is {rollout['state']}"
    members = rollout["members"]
    wave = rules.wave_of(
        rules.Rollout(
            rollout["id"],
            rollout["digest"],
            canary=frozenset(rollout["canary"]),
            waves=tuple(rollout["waves"]),
            members=None if members is None else frozenset(members),
        ),
        board["id"],
    )
    if wave is None:
        return ", its rollout is not for this board"
    turn = f", in wave {wave + 1} of {rollout['waves_in_all']}"
    return turn if wave > rollout["wave"] else ""


def age(then: float | None) -> str:
    """How long ago a time (seconds since 1970) was."""
    if then is None:
        return "never"
    seconds = max(0, int(time.time() - then))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _release_row(release: Mapping[str, Any], every: list[dict[str, Any]]) -> tuple[object, ...]:
    running = sum(1 for board in every if board["digest"] == release["digest"][:32])
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(release["published"]))
    return (
        release["app"],
        "" if release["note"] == "-" else release["note"],
        when + (", withdrawn" if release["withdrawn"] else ""),
        release["class"],
        running,
        release["total"],
        release["digest"][:8],
        release["seq"],
    )


def _show_board(board: Mapping[str, Any], events: list[dict[str, Any]]) -> None:
    shown = ("id", "name", "app", "class", "state", "seq", "digest", "chip", "fw", "mpy", "boot")
    console.show(
        {name: board[name] for name in (*shown, "trust", "address", "heap", "up", "crashes")}
        | {"seen": age(board["last_seen"]), "orders": ", ".join(board["orders"]) or "none"},
        as_json=False,
    )
    if board["reason"]:
        console.say(f"last setback  {board['reason']}")
        console.passage(board["trace"])
    console.table(
        "",
        ("when", "event", "release", "reason"),
        [
            (
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"])),
                event["kind"],
                event["digest"][:8],
                event["reason"] or event["text"][:60],
            )
            for event in events
        ],
    )


def _board_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "name a board file") from problem
