"""`mipy release`, `mipy reissue` and `mipy rollback`: what boards are to run."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from ...ota_server.condition import ABSENT
from ...ota_server.rollout import WITHOUT_CANARY
from ...ota_server.words import many
from ...signing import bundle, manifest
from ...signing import trust as trust_file
from ...signing.reasons import Refused
from .. import console, options
from .. import rollout_options as asked
from ..app import build, project
from ..console import Failure
from ..keys import signed
from ..keys import store as keys
from ..keys.sign import in_words, sign_for_fleet
from ..printable import printable
from .client import Client, connect
from .pick import ROLLOUTS_LOOKED_AT, Step, chosen, one_app, steps, title
from .trust_upload import publish_trust

WENT_BACK = 3
"""Exit code when a board went back from the release that was followed."""
OUT_OF_TIME = 4
"""Exit code when boards had neither confirmed nor rejected it in time."""
_DAY_MINUTES = 24 * 60
_OVER = ("halted", "cancelled", "superseded")
"""A rollout in these states goes on only if a person wants it."""
BY_NAME = 3
"""Of more boards than these, counts are shown in the place of names."""
LISTED = 6
"""So many releases are listed where a name means several."""
LOOK_SECONDS = 1.0
_WAITS = {
    "trial": "on trial: it has to run for a minute, and to hear from its server",
    "never seen": "waits for its first poll: has it power and Wi-Fi?",
    "crashing": "crashing: it tries again, and goes back after some crashes in a row",
}
"""What is waited for in a board's state, where its name does not tell."""
MISSED_LOOKS = 10
"""A server that does not answer so often in a row has gone."""

Follow = Annotated[
    bool, typer.Option("--follow", help="Wait until every board has confirmed or gone back.")
]
Timeout = Annotated[
    float, typer.Option(min=0, metavar="MINUTES", help="Follow the boards at most this long.")
]


def release(
    folder: options.AppFolder = None,
    cls: options.Classes = None,
    floor: options.Floor = None,
    note: options.Note = "-",
    compile_all: options.CompileAll = False,
    channel: asked.Channel = None,
    canary: asked.Canary = None,
    tag: asked.Tag = None,
    waves: asked.Waves = None,
    soak: asked.Soak = None,
    hours: asked.Hours = None,
    tolerated: asked.Tolerated = None,
    approval: asked.Approval = False,
    draft: Annotated[
        bool, typer.Option("--draft", help="Offer it to nobody until mipy rollout start.")
    ] = False,
    follow: Follow = False,
    timeout: Timeout = 30,
    as_json: options.Json = False,
) -> None:
    """Build, sign and publish a release, one for each class of boards.

    Up to three boards just get it. Of more, some get it first, and a failure there halts it; see
    mipy rollout show.

    With --follow: exit code 0 when every board has confirmed it, 3 when one went back or the
    rollout halted, 4 when the time ran out. Ctrl-C stops watching; the release and the boards
    go on.
    """
    rollout = asked.wanted(channel, canary, tag, waves, soak, hours, tolerated, approval)
    if draft:
        rollout["draft"] = True
    app_dir = project.app_folder(folder)
    classes = project.classes_of(app_dir, cls)
    server = connect()
    publish_trust(server)
    about, known = project.facts(app_dir), server.releases()
    if cls:
        _ask_about(classes, about.name, server.boards())
    published = []
    with console.progress() as bar:
        task = bar.add_task("building", total=3 * len(classes))
        for one in classes:
            bar.update(task, description=f"building for {one}")
            seq = free_seq(known, about.name, one)
            built = build.assemble(
                app_dir,
                one,
                seq,
                floor=_floor(floor, about, one, seq),
                note=note,
                compile_all=compile_all,
            )
            for warning in built.warnings:
                console.warn(warning)
            bar.update(task, description=f"signing for {one}", advance=1)
            signed = _signed(built.bundle)
            bar.update(task, description=f"publishing for {one}", advance=1)
            published.append(server.publish(signed, **rollout))
            bar.advance(task)
    _finish(server, published, follow, timeout, as_json)


def _ask_about(classes: Iterable[str], app: str, boards: Iterable[Mapping[str, Any]]) -> None:
    """Ask before a release is published for a class that no board of the app has.

    A fleet without boards is not asked about: the first release may come before the first board.

    Raises:
        Failure: the person thinks better of it, or nobody is there to ask.
    """
    there = {board["class"] for board in boards if board["app"] == app}
    if not there or not (strange := set(classes) - there):
        return
    text = f"no board of {app} is of class {', '.join(sorted(strange))}"
    hint = f"its boards are of class {', '.join(sorted(there))}"
    if not sys.stdin.isatty():
        raise Failure(text, f"{hint}; without --class a release is built for all of app.toml's")
    console.warn(f"{text}; {hint}")
    if not console.confirm("publish it all the same?"):
        raise Failure("nothing was published", hint)


def reissue(
    wanted: Annotated[
        str, typer.Argument(metavar="RELEASE", help="Its seq, note, or the start of its digest.")
    ],
    app: options.AppName = None,
    follow: Follow = False,
    timeout: Timeout = 30,
    as_json: options.Json = False,
) -> None:
    """Publish an earlier release again under a new number, so that boards go back to it.

    The server hands over its content. It must be the release that this computer has signed; one
    that was signed elsewhere is shown, and asked about.
    """
    server = connect()
    publish_trust(server)
    known, name = server.releases(), project.app_named(app)
    meant = [(one, wanted) for one in chosen(known, wanted, name)]
    _finish(server, _published_again(server, known, meant, name), follow, timeout, as_json)


def _published_again(
    server: Client,
    known: list[dict[str, Any]],
    meant: Iterable[tuple[Mapping[str, Any], str]],
    app: str | None,
    **rollout: Any,
) -> list[dict[str, Any]]:
    """Sign earlier releases again under new numbers, and publish them; the server's answers.

    Args:
        known: all of the server's releases.
        meant: releases as the server lists them, each with what a person calls it.
        app: whose releases they must be; None where nobody has said it.
        rollout: how they go out.
    """
    found = [(one, server.bundle(one["digest"]), wanted) for one, wanted in meant]
    for listed, content, wanted in found:
        check_meant(content, listed, wanted, app)
    published: list[dict[str, Any]] = []
    for listed, content, _ in found:
        seq = free_seq(known, listed["app"], listed["class"])
        floor = boards_floor(listed["app"], listed["class"], seq)
        published.append(server.publish(_signed(renumbered(content, seq, floor)), **rollout))
    return published


def rollback(
    board: Annotated[
        str | None, typer.Argument(metavar="[BOARD]", help="Its name or id; or give --all.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="All boards of an app, by its former release, numbered anew."),
    ] = False,
    app: options.AppName = None,
    cls: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="With --all: only boards of this class."),
    ] = None,
    channel: asked.Channel = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Take back what BOARD has not followed yet.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    follow: Follow = False,
    timeout: Timeout = 30,
    as_json: options.Json = False,
) -> None:
    """Send a board back to its other slot; or all boards of an app to its former release.

    BOARD goes at its next poll, if the release in its other slot verifies and is not below the
    floor. The release it leaves is not offered to it again. A board that cannot go is asked five
    times, and its history says so.

    With --all the release before the newest is published again under a new number, which takes the
    release key. It goes to all boards of the app at once, since they ran it before; failures halt
    it as any rollout. Shows how many boards run what, and asks. --follow ends as that of mipy
    release.
    """
    if every == (board is not None) or (every and cancel):
        raise Failure(
            "give one BOARD, or --all for every board" if not cancel else "--cancel takes a BOARD",
            "what --all began is ended by `mipy rollout cancel`" if cancel else "see `mipy boards`",
            2,
        )
    server = connect()
    if board is None:
        _roll_all_back(server, app, channel or "stable", cls or (), yes, follow, timeout, as_json)
        return
    given = server.order(board, "cancel" if cancel else "rollback")
    if as_json:
        console.data(given)
    elif cancel:
        console.say(f"{board} is asked for nothing any more")
    else:
        console.say(f"{board} goes back when it polls next; see `mipy boards {board}`")


def _roll_all_back(
    server: Client,
    app: str | None,
    channel: str,
    classes: Sequence[str],
    yes: bool,
    follow: bool,
    timeout: float,
    as_json: bool,
) -> None:
    publish_trust(server)
    name = project.app_named(app)
    known = [one for one in server.releases() if name in (None, one["app"])]
    one_app(known, "the server has releases")
    ours = {one.digest: frozenset((f.name, f.sha256) for f in one.files) for one in signed.known()}
    back = steps(known, server.rollouts(ROLLOUTS_LOOKED_AT), ours, channel, classes)
    if not back:
        of = f" of {name}" if name else ""
        raise Failure(
            f"there is no former release{of} in the channel {channel} to go back to",
            "see `mipy status`; `mipy reissue RELEASE` brings back one that you name",
        )
    boards = [one for one in server.boards() if one["channel"] == channel and not one["retired"]]
    for step in back:
        _show_step(step, boards)
    if not yes:
        _confirm_step(back, channel)
    # By its number, which the server has no part in where it was signed here.
    meant = [(step.former, str(step.former["seq"])) for step in back]
    concerned = max(len(_of(step, boards)) for step in back)
    at_once = {"waves": [100], "strict": False} if concerned > WITHOUT_CANARY else {}
    published = _published_again(server, known, meant, name, channel=channel, **at_once)
    _finish(server, published, follow, timeout, as_json)


def _of(step: Step, boards: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    line = step.leaving["app"], step.leaving["class"]
    return [one for one in boards if (one["app"], one["class"]) == line]


def _show_step(step: Step, boards: Iterable[Mapping[str, Any]]) -> None:
    """Say what is left for what, and how many boards run either."""
    mine = _of(step, boards)
    absent = [one["condition"] for one in mine if one["condition"] in ABSENT]
    away = "".join(f", {absent.count(name)} {name}" for name in ABSENT if name in absent)
    console.note(
        f"{step.leaving['app']} for {step.leaving['class']}: {many(len(mine), 'board')}{away}"
    )
    for word, one in (("from", step.leaving), ("to", step.former)):
        half = one["digest"][:32]
        run = sum(1 for board in mine if board["digest"] == half)
        back = sum(1 for board in mine if any(bad["digest"] == half for bad in board["rejected"]))
        gone = f", {back} went back from it" if back else ""
        console.note(f"{word:>6}  {title(one)}, number {one['seq']}: {run} run it{gone}")


def _confirm_step(back: Sequence[Step], channel: str) -> None:
    """Ask whether all boards are to go back.

    Raises:
        Failure: the person thinks better of it, or nobody is there to ask.
    """
    if not sys.stdin.isatty():
        raise Failure("nobody is here to be asked", "--yes goes on without a question")
    names = ", ".join(dict.fromkeys(title(step.former) for step in back))
    boards = f"all boards of {back[0].leaving['app']} in the channel {channel}"
    if not console.confirm(f"Publish {names} again, for {boards}?"):
        raise Failure("nothing was published", "`mipy rollback BOARD` sends one board back")


def free_seq(known: Iterable[Mapping[str, Any]], app: str, cls: str) -> int:
    """The seq of a release made now, or the next that the server takes after those it knows.

    Whatever the server says, it is at most a day ahead: a higher one would keep boards from
    everything that follows.
    """
    latest = build.minutes() + _DAY_MINUTES
    ours = [(one["app"], one["class"], one["seq"]) for one in known]
    ours += [(one.app, one.cls, one.seq) for one in signed.known()]
    taken = [seq for *of, seq in ours if of == [app, cls] and seq < latest]
    return max(build.minutes(), max(taken, default=0) + 1)


def boards_floor(app: str, cls: str, seq: int) -> int:
    """The floor that boards may have by now, of what was signed here: a lower one they refuse.

    A trust file's `reset` is the one thing that lowers it.

    Args:
        seq: of the release that is to have it.
    """
    resets = [new.reset for new in map(trust_file.parse, keys.trust_files()) if new.reset]
    reset_seq, floor = resets[-1] if resets else (0, 0)
    since = [
        one.floor
        for one in signed.known()
        if (one.app, one.cls) == (app, cls) and one.seq > reset_seq and one.floor <= seq
    ]
    return max([floor, *since])


def _floor(asked: int | None, about: project.Facts, cls: str, seq: int) -> int:
    """The floor of a new release: what was asked for, else app.toml's, and no lower than before."""
    lowest = boards_floor(about.name, cls, seq)
    if asked is None:
        return max(about.floor, lowest)
    if asked < lowest:
        console.warn(f"boards whose floor is {lowest} already refuse a release with floor {asked}")
    return asked


def check_meant(
    content: bytes, listed: Mapping[str, Any], wanted: str, app: str | None = None
) -> None:
    """See that a release from the server is the one that was asked for, before it is signed again.

    Args:
        content: the bundle.
        listed: what the server says of it.
        wanted, app: as for `chosen`.

    Raises:
        Failure: it is another one, or was not signed here and nobody has confirmed it.
    """
    found = _verified(content)[0]
    names = (str(found.seq), found.title)
    says = (listed["digest"], listed["app"], listed["class"], listed["seq"], listed["note"])
    if says != (found.digest, found.app, found.cls, found.seq, found.title) or not (
        app in (None, found.app) and (wanted in names or found.digest.startswith(wanted))
    ):
        raise Failure(
            f"the server was asked for '{wanted}' and sends {in_words(found)}",
            "do not trust this server; build the release again from its sources",
        )
    same = [
        one
        for one in signed.known()
        if one.cls == found.cls
        and app in (None, one.app)
        and (wanted in (str(one.seq), one.title) or one.digest.startswith(wanted))
    ]
    several = {one.digest: one for one in (found, *same)}
    if len(several) > 1:
        newest = sorted(several.values(), key=lambda one: -one.seq)[:LISTED]
        more = f"; and {len(several) - LISTED} more" if len(several) > LISTED else ""
        raise Failure(
            f"'{wanted}' names {len(several)} releases that were signed here: "
            f"{'; '.join(map(in_words, newest))}{more}",
            "give the seq or digest of one of them, or its app with --app",
        )
    if same or wanted == found.digest:
        return
    console.note(f"not signed on this computer: {in_words(found)}")
    if not sys.stdin.isatty():
        raise Failure(
            f"'{wanted}' was not signed on this computer, and nobody is here to say that it is "
            "what the server sends",
            f"if it is, name it by its whole digest: {found.digest}",
        )
    if not console.confirm("Is this the release that is to be signed again?"):
        raise Failure("nothing was signed", "build the release again from its sources")


def renumbered(release: bytes, seq: int, floor: int = 0) -> bytes:
    """A release's content under another seq, with at least this floor, unsigned.

    What the server returns is verified before anybody signs it again: a server that was broken
    into must not get its own code signed.

    Raises:
        Failure: it is not what this fleet has signed.
    """
    found, files = _verified(release)
    again = replace(found, seq=seq, floor=max(found.floor, floor), signatures=())
    return bundle.write(again.encode(), files)


def _verified(release: bytes) -> tuple[manifest.Manifest, dict[str, bytes]]:
    """The manifest and the files of a release that this fleet has signed.

    Raises:
        Failure: it has not, or they do not fit.
    """
    try:
        raw, files = bundle.read(release)
        found = manifest.verify(raw, keys.trust()).manifest
        bundle.check(found, files)
        return found, files
    except Refused as refused:
        raise Failure(
            f"the server's copy of this release is refused ({refused.code}): {refused}",
            "build it again from its sources",
        ) from refused


def _signed(unsigned: bytes) -> bytes:
    try:
        return sign_for_fleet(unsigned)
    except Refused as refused:
        raise Failure(f"the release is not signed: {refused}", "see `mipy keys list`") from refused


def _finish(
    server: Client,
    published: list[dict[str, Any]],
    follow: bool,
    timeout: float,
    as_json: bool,
) -> None:
    if not as_json:
        for one in published:
            console.say(
                f"published {one['app']} for {one['class']}: {title(one)}, {one['total']} bytes, "
                f"number {one['seq']}, digest {one['digest'][:8]}"
            )
            _say_how(one.get("rollout"))
    watch = Watch(server, published)
    watched = watch.run(timeout * 60) if follow else []
    if as_json:
        console.data({"releases": published, "boards": [vars(one) for one in watched]})
    if follow:
        _conclude(watched, watch.halted)


def _say_how(rollout: Mapping[str, Any] | None) -> None:
    """Say by which rollout a release goes out, where it does not just go out."""
    if rollout and (
        rollout["canary"] or rollout["waves_in_all"] > 1 or rollout["state"] == "draft"
    ):
        first = f"{rollout['canary_in_all']} first, then " if rollout["canary"] else ""
        waves = ", ".join(f"{percent} %" for percent in rollout["waves"])
        console.say(
            f"rollout {rollout['id']}, {rollout['state']}: {first}{waves}; "
            f"see `mipy rollout show {rollout['id']}`"
        )


def _conclude(watched: list[Seen], halted: Mapping[str, Any] | None) -> None:
    if not watched:
        console.note("no board of this app and class follows the server's releases")
    back = [one for one in watched if one.outcome == "went back"]
    if back:
        names = ", ".join(f"{one.board} ({one.detail})" for one in back)
        raise Failure(f"went back: {names}", f"see `mipy boards {back[0].board}`", WENT_BACK)
    if halted:
        number = halted["id"]
        raise Failure(
            f"rollout {number} is {halted['state']}: {halted['why'] or 'no reason was given'}",
            f"see `mipy rollout show {number}`",
            WENT_BACK,
        )
    late = [one.board for one in watched if one.outcome != "confirmed"]
    if late:
        raise Failure(
            f"not decided in time: {', '.join(late)}",
            "they go on by themselves; see `mipy boards`",
            OUT_OF_TIME,
        )


@dataclass
class Seen:
    """How a board stands to a release: outcome is "confirmed", "went back" or "open"."""

    board: str
    outcome: str
    detail: str


def judge(board: Mapping[str, Any], digest: str) -> Seen:
    """How a board (as the API gives it) stands to the release with this digest."""
    name, half = board["name"] or board["id"], digest[:32]
    if board["confirmed"] == half and board["state"] == "ok":
        return Seen(name, "confirmed", "")
    for bad in board["rejected"]:
        if bad["digest"] == half and not bad["soft"]:
            return Seen(name, "went back", bad["reason"])
        if bad["digest"] == half and board["state"] == "ok":
            return Seen(name, "open", f"tries again ({bad['reason']})")
    progress = f" {board['progress']}" if board["progress"] else ""
    state = "waits for its next poll" if board["state"] == "ok" else board["state"]
    return Seen(name, "open", (state or "never seen") + progress)


class Watch:
    """Looks at the boards until each has decided on its release.

    Args:
        releases: as the server returned them.
    """

    def __init__(self, server: Client, releases: Iterable[Mapping[str, Any]]) -> None:
        self._server = server
        releases = list(releases)
        self._digests = {(one["app"], one["class"]): one["digest"] for one in releases}
        self._rollouts = [one["rollout"]["id"] for one in releases if one.get("rollout")]
        self.halted: Mapping[str, Any] | None = None
        """The rollout that goes on no more, for which nobody needs to wait."""

    def run(self, seconds: float, pause: Callable[[float], None] = time.sleep) -> list[Seen]:
        """Watch for at most so many seconds; returns how the boards stand at the end.

        Raises:
            Failure: the server is gone.
        """
        end, missed = time.monotonic() + seconds, 0
        with _display() as show:
            while True:
                try:
                    seen, missed = self._look(), 0
                except Failure:
                    # The server may restart while boards install; their state is theirs.
                    missed += 1
                    if missed >= MISSED_LOOKS:
                        raise
                    seen = None
                if seen is not None:
                    show(seen)
                    decided = all(one.outcome != "open" for one in seen)
                    if decided or self.halted or time.monotonic() >= end:
                        return seen
                pause(LOOK_SECONDS)

    def _look(self) -> list[Seen]:
        found = [self._server.rollout(number) for number in self._rollouts]
        self.halted = next((one for one in found if one["state"] in _OVER), None)
        return [
            judge(board, digest)
            for board in self._server.boards()
            if board["follow"] and (digest := self._digests.get((board["app"], board["class"])))
        ]


def _display() -> AbstractContextManager[Callable[[list[Seen]], None]]:
    return _Live() if console.err().is_terminal else nullcontext(_Changes())


class _Changes:
    """Without a terminal: a line for each change."""

    def __init__(self) -> None:
        self._last: dict[str, Seen] = {}
        self._counts = ""

    def __call__(self, seen: list[Seen]) -> None:
        if len(seen) > BY_NAME:
            if self._counts != (counts := _counts(seen)):
                console.note(counts)
                self._counts = counts
            return
        for one in seen:
            if self._last.get(one.board) != one:
                console.note(f"{one.board}: {_words(one)}")
                self._last[one.board] = one


class _Live:
    """On a terminal: one line a board, or one for all of many, rewritten in place."""

    def __enter__(self) -> Callable[[list[Seen]], None]:
        from rich.live import Live

        self._live = Live(console=console.err(), refresh_per_second=4)
        self._since: dict[str, tuple[Seen, float]] = {}
        self._live.__enter__()
        return self._show

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def _show(self, seen: list[Seen]) -> None:
        from rich.text import Text

        if len(seen) > BY_NAME:
            self._live.update(Text(_counts(seen)), refresh=True)
            return
        colours = {"confirmed": "green", "went back": "red", "open": "yellow"}
        width = max((len(one.board) for one in seen), default=0)
        lines = [
            Text.assemble(
                printable(f"{one.board:<{width}}  "),
                (printable(_words(one)), colours[one.outcome]),
                self._clock(one),
            )
            for one in seen
        ]
        self._live.update(Text("\n").join(lines), refresh=True)

    def _clock(self, one: Seen) -> str:
        """For how long it has been waited for what a board does now."""
        last, since = self._since.get(one.board, (None, 0.0))
        if last != one:
            since = time.monotonic()
            self._since[one.board] = one, since
        minutes, seconds = divmod(int(time.monotonic() - since), 60)
        return f"  {minutes}:{seconds:02}" if one.outcome == "open" else ""


def _counts(seen: list[Seen]) -> str:
    """How many boards have decided, in one line."""
    number = Counter(one.outcome for one in seen)
    back = f", {number['went back']} went back" if number["went back"] else ""
    of = many(len(seen), "board")
    return f"{number['confirmed']} of {of} confirmed{back}, {number['open']} to go"


def _words(one: Seen) -> str:
    if one.outcome == "open":
        return _WAITS.get(one.detail, one.detail)
    return f"{one.outcome} ({one.detail})" if one.detail else one.outcome
