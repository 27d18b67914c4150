"""`mipy rollout ...` and `mipy promote`: how releases go out, wave by wave."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .. import console, options
from .. import rollout_options as asked
from ..app import project
from .client import connect
from .pick import chosen, title

NUMBER = Annotated[int, typer.Argument(metavar="N", help="Its number; see mipy rollout show.")]
RELEASE = Annotated[
    str, typer.Argument(metavar="RELEASE", help="Its seq, note, or the start of its digest.")
]
REASON = Annotated[str, typer.Option(help="Why, for the audit and for who looks at it.")]


def show(
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", help="One rollout, with its boards.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show the newest rollouts; or one, with who failed and why, and who waits for what."""
    server = connect()
    if number is not None:
        _show(server.rollout(number), as_json)
        return
    every = server.rollouts()
    if as_json:
        console.data(every)
    elif not every:
        console.say("there are no rollouts yet; `mipy release` begins one")
    else:
        rows = [
            (one["id"], one["app"], one["class"], one["channel"], called(one), progress(one))
            for one in every
        ]
        console.table("", ("rollout", "app", "class", "channel", "release", "state"), rows)


def start(
    release: RELEASE,
    app: options.AppName = None,
    channel: asked.Channel = None,
    canary: asked.Canary = None,
    tag: asked.Tag = None,
    waves: asked.Waves = None,
    soak: asked.Soak = None,
    hours: asked.Hours = None,
    tolerated: asked.Tolerated = None,
    approval: asked.Approval = False,
    rehearse: asked.Rehearse = False,
    as_json: options.Json = False,
) -> None:
    """Start a rollout of a release that the server has; N of a draft starts that.

    With --rehearse nothing is started: it says which boards would get it in which wave.
    """
    wanted = asked.wanted(channel, canary, tag, waves, soak, hours, tolerated, approval)
    server = connect()
    drafts = [one for one in server.rollouts() if one["state"] == "draft"]
    if any(str(one["id"]) == release for one in drafts):
        _show(server.steer_rollout(int(release), "start"), as_json)
        return
    for one in chosen(server.releases(), release, project.app_named(app)):
        _show(server.start_rollout(one["digest"], rehearse=rehearse, **wanted), as_json, rehearse)


def promote(
    release: RELEASE,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Such as stable.")],
    app: options.AppName = None,
    canary: asked.Canary = None,
    tag: asked.Tag = None,
    waves: asked.Waves = None,
    rehearse: asked.Rehearse = False,
    as_json: options.Json = False,
) -> None:
    """Bring a release to one more channel, by a rollout among its boards."""
    wanted = asked.wanted(channel, canary, tag, waves)
    server = connect()
    for one in chosen(server.releases(), release, project.app_named(app)):
        _show(server.start_rollout(one["digest"], rehearse=rehearse, **wanted), as_json, rehearse)


def pause(number: NUMBER, reason: REASON = "", as_json: options.Json = False) -> None:
    """Offer the release to no further board until `mipy rollout resume`."""
    _show(connect().steer_rollout(number, "pause", reason=reason), as_json)


def resume(number: NUMBER, as_json: options.Json = False) -> None:
    """Go on. After a halt the failures so far are accepted: they count no more."""
    _show(connect().steer_rollout(number, "resume"), as_json)


def cancel(number: NUMBER, reason: REASON = "", as_json: options.Json = False) -> None:
    """End a rollout. Boards that run the release keep it; `mipy reissue` takes them back."""
    _show(connect().steer_rollout(number, "cancel", reason=reason), as_json)


def approve(number: NUMBER, as_json: options.Json = False) -> None:
    """Let the next wave of a rollout pass that was started with --approval."""
    _show(connect().steer_rollout(number, "approve"), as_json)


def retry(
    number: NUMBER,
    board: Annotated[
        str | None, typer.Option(metavar="BOARD", help="Only this one, by name or id.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Offer the release again to boards that failed it, or fell silent."""
    more = {} if board is None else {"board": board}
    _show(connect().steer_rollout(number, "retry", **more), as_json)


def called(one: Mapping[str, Any]) -> str:
    """What people call the release of a rollout."""
    return title(one) if one["published"] else one["digest"][:8]


def progress(one: Mapping[str, Any]) -> str:
    """A rollout in one line: state, wave, counts."""
    counts = {name: n for name, n in one["counts"].items() if n}
    parts = [f"{n} {'updating' if name == 'offered' else name}" for name, n in counts.items()]
    if one.get("waiting_in_all"):
        parts.append(f"{one['waiting_in_all']} to go")
    wave = f", wave {one['wave'] + 1} of {one['waves_in_all']}"
    state = one["state"] + (wave if one["state"] in ("running", "paused", "halted") else "")
    return ": ".join(part for part in (state, ", ".join(parts)) if part)


def _show(one: Mapping[str, Any], as_json: bool, rehearsed: bool = False) -> None:
    if as_json:
        console.data(one)
        return
    name = "rehearsal" if rehearsed else f"rollout {one['id']}"
    console.say(f"{name} of {called(one)} to {one['app']} for {one['class']}, {one['channel']}")
    console.say(progress(one))
    if one["why"]:
        console.say(f"why  {one['why']}")
    if one["state"] == "halted":
        console.note(f"mipy rollout resume {one['id']} goes on, cancel {one['id']} ends it")
    for board in one["boards"]:
        if board["trace"]:
            console.say(f"{board['name'] or board['board']}: {board['reason']}")
            console.passage(board["trace"])
    rows = [
        (
            board["name"] or board["board"],
            board["state"],
            board["wave"] + 1,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(board["offered_at"])),
            board["reason"],
        )
        for board in one["boards"]
    ]
    rows += [
        (board["name"] or board["id"], "waits", (board["wave"] or 0) + 1, "", board["text"])
        for board in one["waiting"]
    ]
    if rows:
        console.table("", ("board", "state", "wave", "offered", "why"), rows)
