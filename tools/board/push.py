"""`mipy push`, `watch` and `follow`: the edit-run loop over the cable or the air.

The app is built, signed with the dev key that the board carries, and sent straight to the board:
only files that are on neither of its slots travel. From there on it is a release like any other:
in the other slot, verified by the boot stage, on trial, and left again when it fails. No server
takes part; one that knows the board leaves it alone until `mipy follow`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...signing import bundle, manifest
from ...signing.reasons import SENTENCES, Refused
from .. import console, options
from ..app import build, checks, collect, project
from ..app.compile import modules
from ..console import Failure
from ..keys import sign
from ..keys import store as keys
from . import session, target
from .remote import Remote, Uploader, show
from .repl import Raised, Repl, Stream
from .target import Target

TRIAL_SECONDS = 120.0
"""Longest time to follow a trial; a plain app that never calls ota.check() takes 33 s."""
_LOOK_SECONDS = 5.0
"""After a connection was made again, how long to wait for word of the trial before asking the
board, which stops its app."""
_LONG = 64
"""From here on a path is too long for WebREPL's own way."""
_INCOMING = b"/state/incoming"
_FACTS = """\
sys.path.insert(0,'/')
from bootloader import board,install_slot,record,slots
b=board.load()
r=record.load()
from bootloader import pushed
print((b['id'],b['app'],b['class'],r.seq,slots.digest16(r.active) or b'',install_slot.choose(r)))
"""
_LIFE = re.compile(r"ota: (\S+) (\d+) (\S+)$")
_CONFIRMED = re.compile(r"ota: confirmed (\d+)$")
_WORDS = {"busy": "a release is on trial; wait until it is confirmed"}


def push(board: options.Board, app: options.App = None) -> None:
    """Send an app to a board that carries your dev key, and follow it until it has proved itself.

    Only what has changed travels. A release that fails is left again, as every other.
    """
    folder = project.app_folder(app)
    console.say(Push(target.find(board), folder).run())


def watch(board: options.Board, app: options.App = None) -> None:
    """Push an app each time one of its files is saved, until Ctrl-C."""
    from watchfiles import watch as changes

    folder = project.app_folder(app)
    found = target.find(board)
    saves = changes(
        folder, raise_interrupt=True, debounce=50, step=20, rust_timeout=100, yield_on_timeout=True
    )
    next(saves)  # nothing yet; but from here on no save is missed, nor one during a push
    _round(found, folder)
    console.note(f"watching {folder}; Ctrl-C ends it")
    for saved in saves:
        if saved:
            _round(found, folder)


def _round(found: Target, folder: Path) -> None:
    """One push; after a failure the next save is pushed all the same."""
    try:
        console.say(Push(found, folder).run())
    except Failure as failure:
        console.error(failure.text, failure.hint)


def follow(board: options.Board) -> None:
    """Have the server offer releases again to a board that is paused: pushed to, or so ordered."""
    from ..fleet.client import connect

    said = connect().order(board, "follow")
    console.say(f"{said['id']} takes the server's next release")


class Push:
    """One push of the app in `folder` to a board."""

    def __init__(self, found: Target, folder: Path) -> None:
        self._target = found
        self._about = project.facts(folder)
        self._folder = folder
        self._sources = collect.collect(folder, self._about.runtime, self._about.public)
        self._cls = found.board.cls if found.board else None
        # Before the board is disturbed: what does not compile is not its business.
        self._files = self._compiled(self._cls) if self._cls else {}

    def run(self) -> str:
        """Send it and follow its trial; returns the outcome in a sentence.

        Raises:
            Failure: the board refuses it, went back from it, or is not reached.
        """
        began = time.monotonic()
        try:
            sent = self._sent_and_tried()
        except Raised as raised:
            if raised.kind != "MemoryError":
                raise
            # The app had cut its heap into pieces. It was reset, and is stopped before it does so.
            console.note(f"{self._target.name} has no room beside its app: once more")
            sent = self._sent_and_tried()
        if sent is None:
            return f"{self._target.name} runs exactly this already"
        took = time.monotonic() - began
        return (
            f"{self._target.name} runs it, confirmed after {took:.1f} s; "
            f"sent: {', '.join(sent) or 'the manifest alone'}"
        )

    def _sent_and_tried(self) -> list[str] | None:
        """What went, once it has proved itself; None when the board runs it already."""
        with session.opened(self._target, restart=True) as repl:
            facts = self._facts(repl)
            release = self._release(facts)
            raw, contents = bundle.read(release)
            digest = manifest.parse(raw).digest
            if bytes.fromhex(digest)[:16] == facts["digest"]:
                return None
            sent = self._send(repl, "ab"[facts["slot"]], raw, contents)
            repl.reset()
            Trial(self._target, repl.stream, digest).follow()
        return sent

    def _compiled(self, cls: str) -> dict[str, bytes]:
        for warning in checks.check(self._folder, self._about, self._sources, cls):
            console.warn(warning)
        return modules.compiled(self._sources, cls, compile_all=False)

    def _facts(self, repl: Repl) -> dict[str, Any]:
        try:
            said = repl.run(_FACTS)
        except Raised as raised:
            if raised.kind != "ImportError":
                raise
            raise Failure(
                f"{self._target.name} has no boot stage that takes a push",
                "flash it: `mipy flash`, or take it into the fleet: `mipy adopt`",
            ) from raised
        facts = _understood(said)
        known = self._target.board
        if known and (facts["id"], facts["class"]) != (known.id, known.cls):
            raise Failure(
                f"the board at {self._target.host or self._target.port} says that it is "
                f"{facts['id']}, of class {facts['class']}, and not {known.id} of {known.cls}",
                "give the address or port of the board that is meant; see `mipy boards`",
            )
        return facts

    def _release(self, facts: dict[str, Any]) -> bytes:
        """The app as a release for this very board, signed.

        Its seq is the highest that the board has confirmed: a dev-signed release raises none, so
        whatever the server publishes next is newer.
        """
        if facts["app"] != self._about.name:
            raise Failure(
                f"{self._target.name} is a board of the app '{facts['app']}', "
                f"this is '{self._about.name}'",
                "name the app's folder with --app DIR",
            )
        cls = str(facts["class"])
        files = self._files if self._cls == cls else self._compiled(cls)
        made = build.packed(self._about.name, cls, facts["seq"], files, note="pushed")
        try:
            return sign.sign_bundle(made.bundle, keys.private(_dev_key(facts["id"])))
        except Refused as refused:
            raise Failure(f"the release is not signed: {refused}") from refused

    def _send(self, repl: Repl, slot: str, raw: bytes, contents: dict[str, bytes]) -> list[str]:
        """Bring the release into `slot`; returns the names of the files that went."""
        write = Sender(repl).write
        write(_INCOMING, raw)
        try:
            missing = repl.run("pushed.begin()").split()
            with console.progress() as bar:
                task = bar.add_task("sending", total=sum(len(contents[name]) for name in missing))
                for name in missing:
                    bar.update(task, description=name)
                    write(f"/app_slots/{slot}/{name}".encode(), contents[name])
                    bar.advance(task, len(contents[name]))
            repl.run("pushed.end()", timeout=60)
        except Raised as raised:
            code = raised.text.rpartition(" ")[2]
            if raised.kind != "Rejected":
                raise
            raise Failure(
                f"{self._target.name} refuses it: {_WORDS.get(code) or SENTENCES.get(code, code)}",
                "only a board that carries your dev key takes a push: `mipy flash --dev`"
                if code in ("key", "revoked")
                else "see `mipy boards`",
            ) from None
        return missing


def _understood(said: str) -> dict[str, Any]:
    """What `_FACTS` printed; types are checked, since it may have come from anybody."""
    import ast

    types = {"id": str, "app": str, "class": str, "seq": int, "digest": bytes, "slot": int}
    try:
        values = ast.literal_eval(said.strip().splitlines()[-1])
        facts = dict(zip(types, values, strict=True))
    except (ValueError, SyntaxError, TypeError, IndexError) as problem:
        raise Failure("the board does not say what it is", "run it again") from problem
    if any(type(facts[name]) is not kind for name, kind in types.items()) or facts["slot"] > 1:
        raise Failure("the board does not say what it is", "run it again")
    return facts


def _dev_key(board_id: str) -> keys.KeyFile:
    """The dev key that the board carries, else the only one there is: then the board decides."""
    from ..fleet import enrol

    carried = {
        one.board.dev.id for one in enrol.records() if one.board.id == board_id and one.board.dev
    }
    return next((key for key in keys.usable("dev") if key.id in carried), None) or keys.find(
        None, ("dev",)
    )


class Sender:
    """Writes files on the board at `repl`; that they are whole, its own check of all tells."""

    def __init__(self, repl: Repl) -> None:
        self._repl = repl
        self._remote: Remote | None = None

    def write(self, path: bytes, content: bytes) -> None:
        """The fastest way there is: WebREPL's own, where its rules for names and sizes allow."""
        stream = self._repl.stream
        if isinstance(stream, Uploader) and content and len(path) < _LONG:
            stream.upload(path, content, lambda _: None)
            return
        self._remote = self._remote or Remote(self._repl)
        self._remote.write(path, content)


class Trial:
    """The trial of what was pushed, told by what the board prints."""

    def __init__(self, found: Target, stream: Stream, digest: str) -> None:
        self._target = found
        self._stream = stream
        self._digest = digest
        self._slot = ""
        self._rest = b""
        self._quiet_until: float | None = None

    def follow(self) -> None:
        """Until it is confirmed. Over the air it connects anew at once: the board was reset.

        Raises:
            Failure: the board went back, or nothing is heard of it.
        """
        end = time.monotonic() + TRIAL_SECONDS
        try:
            if self._target.port is None:
                self._connect()
            while time.monotonic() < end:
                for line in self._lines():
                    if self._told(line):
                        return
                if self._quiet_until and (self._reported() or self._overdue()):
                    return
        finally:
            self._stream.close()
        raise Failure(
            f"{self._target.name} has not confirmed it within {TRIAL_SECONDS:.0f} s",
            f"see `mipy logs {self._target.name}`; unconfirmed it is left again",
        )

    def _lines(self) -> Iterator[str]:
        try:
            self._rest += self._stream.read(0.5)
        except Failure:
            self._connect()
        *whole, self._rest = self._rest.replace(b"\r", b"").split(b"\n")
        for raw in whole:
            line = show(raw)
            console.note(line)
            yield line

    def _connect(self) -> None:
        self._stream.close()
        self._stream = self._target.reopen()
        self._quiet_until = time.monotonic() + _LOOK_SECONDS
        self._rest = b""

    def _told(self, line: str) -> bool:
        """Whether a line says that it is confirmed.

        Raises:
            Failure: it says that the board went back.
        """
        life = _LIFE.search(line)
        if _CONFIRMED.search(line):
            return True
        if life and not life[3].startswith("/"):
            if self._slot and life[1] != self._slot:
                raise self._left()
            self._slot = life[1]
        return False

    def _reported(self) -> bool:
        """Whether the server has heard from the board, since this began, that it is confirmed."""
        before = self._target.told
        if before is None:
            return False
        now = target.told(before["id"])
        return (
            now is not None
            and now["last_seen"] != before["last_seen"]
            and (now["state"], now["digest"]) == ("ok", self._digest[:32])
        )

    def _overdue(self) -> bool:
        """Whether it is confirmed, when nobody has said so for a while."""
        if not self._quiet_until or time.monotonic() < self._quiet_until:
            return False
        return self._asked()

    def _asked(self) -> bool:
        """Ask the board itself, when what it said was missed."""
        repl = Repl(self._stream, self._target.name)
        try:
            repl.enter(soft_reset=False)
            digest, trial = repl.evaluate(
                "(lambda o:(o.digest16,o.trial))(__import__('sys').modules['ota'])"
            )
            repl.reset()
        except Failure:  # it starts again just now
            self._connect()
            return False
        if trial:
            self._connect()
        if digest != bytes.fromhex(self._digest)[:16]:
            raise self._left()
        return not trial

    def _left(self) -> Failure:
        return Failure(
            f"{self._target.name} went back to the release before",
            "the traceback is above; fix the app and push again",
        )
