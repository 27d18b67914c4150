"""`make demo`: the whole road once, on a virtual board, with a running commentary.

Keys, server and board are made for one run and are gone with it. What is shown is what happened:
each step waits for the server or the board to say so, and ends the demo when that does not come.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...signing import board_file, bundle, manifest
from .. import console, places
from ..app import build
from ..app.compile import boot_stage
from ..console import Failure
from ..flash import provision
from ..fleet import release, serve
from ..fleet.client import Client
from ..fleet.trust_upload import publish_trust
from ..keys import changes
from ..keys import store as keys
from ..keys.sign import sign_for_fleet
from ..printable import printable
from .board import VirtualBoard

if TYPE_CHECKING:
    from rich.console import Console

    from ...signing.manifest import Manifest

SPEED = 10
"""Computing takes the board so many times as long as this computer."""
PATIENCE = 3600.0
"""Seconds of the board's own clock within which each single thing has to happen."""
INTERVAL = 15
"""Seconds of the board's clock between two polls."""
LOOK_SECONDS = 1.0
TRIAL_SECONDS = 60
TRIES = 3
NAME = "kitchen"
CLASS = "esp8266-generic"
WIFI = {"virtual": "virtual-air"}
TABLE_BYTES = 60_000
CUT = 300
"""The flash operation at which the power goes: within the table's blocks."""

ALIVE = '"%s is alive, '
WELL = '"%s is alive and well, '
AGAIN = '"%s is alive again, '
RIGHT = "app.every("
WRONG = "app.evry("

_FILE = re.compile(r"^file (\d+) \S+ (kept|copied|loaded)$", re.MULTILINE)
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Release:
    """A release that was published, and what people call it."""

    name: str
    bundle: bytes
    manifest: Manifest

    @property
    def half(self) -> str:
        """What boards report: half of the digest."""
        return self.manifest.digest[:32]


@dataclass(frozen=True)
class Step:
    """What one step of the story cost. Bytes are the board's, `seconds` real ones."""

    name: str
    boots: int
    operations: int
    erases: int
    received: int
    sent: int
    seconds: float


@dataclass
class Story:
    """What happened, for the closing table and for tests.

    Attributes:
        rejected: reason and traceback of release 3 as the server has them.
        cut: what lay on the flash right after the power cut.
        running: the release that the board runs at the end.
        last: the board as the server knows it at the end.
        peak: bytes of heap in use at most until release 2 was confirmed, of `heap`.
    """

    heap: int
    steps: list[Step] = field(default_factory=list)
    rejected: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, Any] = field(default_factory=dict)
    running: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    peak: int = 0


class Teller:
    """Says what happens; draws progress bars where they can be seen.

    Args:
        screen: where to.
        bars: also leave finished bars on it where it is not a terminal, as for a picture.
    """

    def __init__(self, screen: Console, bars: bool = False) -> None:
        self._screen = screen
        self._bars = bars or screen.is_terminal

    def title(self, text: str) -> None:
        self._screen.print(f"\n{printable(text)}", style="bold", markup=False)

    def say(self, text: str, style: str = "") -> None:
        for line in text.splitlines():
            self._screen.print(f"   {printable(line)}", style=style, markup=False)

    def good(self, text: str) -> None:
        from rich.markup import escape

        self._screen.print(f"   [green]✓[/] {escape(printable(text))}")

    def change(self, old: str, new: str) -> None:
        self.say(f"- {old}", "red")
        self.say(f"+ {new}", "green")

    @contextmanager
    def bar(self, text: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A progress bar; yields the function that moves it to a number."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("   {task.description:<22}", markup=False),
            BarColumn(36),
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
        )
        with Progress(*columns, console=self._screen, disable=not self._bars) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.update(task, completed=min(done, total))

    def table(self, story: Story) -> None:
        """The closing table."""
        from rich import box
        from rich.table import Table

        grid = Table(box=box.SIMPLE, pad_edge=False, show_footer=True)
        total = total_of(story.steps)
        names = ("step", "boots", "flash operations", "erases", "bytes down", "bytes up", "seconds")
        for name, foot in zip(names, _cells(total), strict=True):
            grid.add_column(name, foot, justify="left" if name == "step" else "right")
        for step in story.steps:
            grid.add_row(*_cells(step))
        self._screen.print()
        self._screen.print(grid)
        self.say(f"peak heap of the update: {story.peak:,} of {story.heap:,} bytes")


def _cells(step: Step) -> tuple[str, ...]:
    numbers = (step.boots, step.operations, step.erases, step.received, step.sent)
    return (step.name, *(f"{n:,}" for n in numbers), f"{step.seconds:.1f}")


def total_of(steps: list[Step]) -> Step:
    """All steps together."""
    sums = [sum(getattr(step, name) for step in steps) for name in list(asdict(steps[0]))[1:]]
    return Step("together", *sums)


class Demo:
    """One run.

    Args:
        folder: where everything of this run lies.
        server: a running server.
        board: a virtual board that is switched off.
        tell: says what happens.
    """

    def __init__(
        self, folder: Path, server: serve.Running, board: VirtualBoard, tell: Teller
    ) -> None:
        self._app = folder / "app"
        self._board = board
        self._server = server
        self._client = Client(server.url, server.token)
        self._tell = tell
        self._mark = 0
        self.story = Story(board.heap)

    # --- the story

    def play(self) -> Story:
        """All of it.

        Raises:
            Failure: something did not come as it should; the text says what.
        """
        first = self.begin()
        second = self.update(first)
        self.crash(second)
        fourth = self.recover()
        self.power_cut(fourth)
        self.go_back_to(second)
        self.story.last = dict(self._seen())
        return self.story

    def begin(self) -> Release:
        """Keys, release 1, and a board that runs it."""
        with self._step("1. Keys, a first release, a board", "first start"):
            changes.make_fleet(server=self._server.url)
            publish_trust(self._client)
            kinds = ", ".join(f"{key.role} {key.id[:8]}" for key in keys.entries())
            self._tell.say(f"keys for this run alone, RSA-3072: {kinds}")
            shutil.copytree(places.sources("app_slots"), self._app)
            first = self._publish("release 1")
            self._prepare(first)
            self._board.start()
            self._wait(lambda: self._runs(first), f"the board has not started {first.name}")
            self._tell.good(f"{NAME} runs {first.name}, as it was flashed")
        return first

    def update(self, first: Release) -> Release:
        """Release 2 is taken into the other slot, tried and confirmed."""
        with self._step("2. One line changes: release 2 goes out", "update"):
            self._edit(ALIVE, WELL)
            second = self._publish("release 2")
            self._follow(second)
            self._tell.good(f"{NAME} has confirmed {second.name}; {first.name} stays in slot a")
        # Watching the heap takes most of the time, and an update is what takes most heap.
        self.story.peak = self._board.stats.peak
        self._board.heap_profile = False
        return second

    def crash(self, second: Release) -> None:
        """Release 3 crashes at start, and the board goes back by itself."""
        with self._step("3. Release 3 has a bug and crashes at start", "bad release"):
            self._edit(RIGHT, WRONG)
            third = self._publish("release 3")
            self._install(third)
            with self._tell.bar("crashes, tried again", TRIES, "tries") as show:

                def back() -> bool:
                    show(self._heard().count(_TRACEBACK))
                    return self._runs(second) and bool(self._rejection(third))

                self._wait(back, f"the board has not gone back from {third.name}")
            self.story.rejected = self._rejection(third)
            self.story.rejected["tries"] = self._heard().count(_TRACEBACK)
            self._tell.good(f"{NAME} went back to {second.name} by itself, and told the server why")
            self._tell.say(f"reason: {self.story.rejected['reason']}", "yellow")
            self._tell.say(self.story.rejected["trace"].strip(), "yellow")

    def recover(self) -> Release:
        """Release 4 mends it."""
        with self._step("4. The bug is fixed: release 4", "fixed release"):
            self._edit(WRONG, RIGHT)
            self._edit(WELL, AGAIN)
            fourth = self._publish("release 4")
            self._follow(fourth)
            self._tell.good(f"{NAME} has confirmed {fourth.name}")
        return fourth

    def power_cut(self, fourth: Release) -> None:
        """The power goes in the middle of an install, and nothing is lost."""
        with self._step("5. The power goes in the middle of an install", "power cut"):
            self._board.stop()
            (self._app / "table.bin").write_bytes(secrets.token_bytes(TABLE_BYTES))
            fifth = self._publish("release 5", ", a table among them")
            self._cut(fifth)
            self._show_flash(fourth, fifth)
            before = time.time()
            self._board.start()
            self._wait(
                lambda: self._runs(fourth) and self._last_seen() > before,
                f"the board has not come back with {fourth.name}",
            )
            self._tell.good(f"the power is back: {NAME} runs {fourth.name} as if nothing had been")
            self._follow(fifth)
            self._tell.good(f"and has confirmed {fifth.name} at its second attempt")

    def go_back_to(self, second: Release) -> None:
        """Release 2 again, under a new number."""
        with self._step("6. Second thoughts: release 2 again", "re-issue"):
            known = self._client.releases()
            seq = release.free_seq(known, second.manifest.app, CLASS)
            old = self._client.bundle(second.manifest.digest)
            self._tell.say(f"what the server has as {second.name} is verified and signed anew")
            again = self._send("release 2 again", release.renumbered(old, seq))
            self._follow(again)
            self._tell.good(f"{NAME} has confirmed it; no board ever takes a lower number")
            self.story.running = again.name

    # --- what the story is made of

    def _publish(self, name: str, about: str = "") -> Release:
        seq = release.free_seq(self._client.releases(), "demo", CLASS)
        return self._send(name, build.make(self._app, CLASS, seq, note=name), about)

    def _send(self, name: str, unsigned: bytes, about: str = "") -> Release:
        signed = sign_for_fleet(unsigned)
        made = manifest.parse(bundle.read(signed)[0])
        self._mark = len(self._board.console)
        self._client.publish(signed)
        self._tell.say(
            f"{name} is built, signed and published: seq {made.seq}, {len(made.files)} files, "
            f"{made.total:,} bytes{about}"
        )
        return Release(name, signed, made)

    def _edit(self, old: str, new: str) -> None:
        path = self._app / "main.py"
        lines = path.read_text("utf-8").splitlines(keepends=True)
        found = [n for n, line in enumerate(lines) if old in line]
        if len(found) != 1:
            raise Failure(f"main.py of the demo's app has {len(found)} lines with {old!r}, not 1")
        line = lines[found[0]]
        lines[found[0]] = line.replace(old, new)
        path.write_text("".join(lines), "utf-8")
        if new != RIGHT:
            self._tell.change(line.strip(), lines[found[0]].strip())

    def _prepare(self, first: Release) -> None:
        who = board_file.Board(
            fleet=keys.trust().fleet,
            id="sim-01",
            name=NAME,
            app="demo",
            cls=CLASS,
            key=secrets.token_bytes(32),
            servers=(self._server.url,),
        )
        self._client.enrol(who.encode())
        files = provision.board_files(who, keys.trust_files()[0], first.bundle, WIFI)
        self._board.format(files)
        self._board.radio(networks=WIFI)
        stage = sum(map(len, boot_stage.files().values()))
        self._tell.say(
            f"a board called {NAME}, flashed once: boot stage of {stage:,} bytes, its trust file,\n"
            f"its board file, and {first.name} in slot a"
        )

    def _follow(self, wanted: Release) -> None:
        """Show the board install, try and confirm a release."""
        self._install(wanted)
        began = self._board.age
        with self._tell.bar("on trial", TRIAL_SECONDS, "seconds of the board's clock") as show:

            def confirmed() -> bool:
                show(int(self._board.age - began))
                self._check_kept(wanted)
                return self._confirmed(wanted)

            self._wait(confirmed, f"the board has not confirmed {wanted.name}")
            show(TRIAL_SECONDS)

    def _install(self, wanted: Release) -> None:
        total = len(wanted.manifest.files)
        with self._tell.bar("polled, installs", total, "files") as show:

            def tried() -> bool:
                show(len(self._files()))
                self._check_kept(wanted)
                # An earlier attempt may have begun: what counts is that the trial is under way.
                return self._tries(wanted)

            self._wait(tried, f"the board has not installed {wanted.name}")
            show(total)
        loaded = self._files().count("loaded")
        self._tell.say(
            f"{loaded} of {total} files came over the air, the others were on the flash already"
        )

    def _cut(self, fifth: Release) -> None:
        total = len(fifth.manifest.files)
        with self._tell.bar("polled, installs", total, "files") as show:

            def watch(_: VirtualBoard) -> bool:
                show(len(self._files()))
                return False

            for _ in range(TRIES):
                life = self._board.life(cut=CUT, torn=True, timeout=PATIENCE, until=watch)
                if life.cause == "cut":
                    break
            else:
                raise Failure(f"the board did not begin to install {fifth.name}")
        self._tell.say(
            f"the power goes at flash operation {CUT}, half of which is still written", "yellow"
        )

    def _show_flash(self, fourth: Release, fifth: Release) -> None:
        files = self._board.files()
        whole = [slot for slot in "ab" if _is_whole(files, slot, fourth.manifest)]
        if not whole:
            raise Failure(f"{fourth.name} is whole in neither slot after the power cut")
        other = "b" if whole[0] == "a" else "a"
        done = _finished(files, other, fifth.manifest)
        bootable = f"/app_slots/{other}/manifest" in files
        self.story.cut = {
            "operation": CUT,
            "whole": whole[0],
            "finished": done,
            "files": len(fifth.manifest.files),
            "bootable": bootable,
        }
        self._tell.say(
            f"on the flash now: slot {whole[0]} holds {fourth.name}, whole; slot {other} holds "
            f"{done} of {len(fifth.manifest.files)} files of {fifth.name}\n"
            f"and no manifest, without which a slot cannot boot"
        )

    # --- what board and server say

    def _heard(self) -> str:
        """What the board printed since the newest release was published."""
        return self._board.console[self._mark :]

    def _files(self) -> list[str]:
        """How each file of the install that runs, or ran last, has come: kept, copied, loaded."""
        came: list[str] = []
        for number, how in _FILE.findall(self._heard()):
            came = [*came[: int(number) - 1], how]
        return came

    def _seen(self) -> Mapping[str, Any]:
        return self._client.board(NAME)

    def _last_seen(self) -> float:
        return self._seen()["last_seen"] or 0.0

    def _runs(self, wanted: Release) -> bool:
        seen = self._seen()
        return seen["state"] == "ok" and seen["digest"] == wanted.half

    def _tries(self, wanted: Release) -> bool:
        """Whether its trial has begun: the server knows, or the board has started to crash."""
        seen = self._seen()
        return seen["digest"] == wanted.half or _TRACEBACK in self._heard()

    def _confirmed(self, wanted: Release) -> bool:
        seen = self._seen()
        return seen["state"] == "ok" and seen["confirmed"] == wanted.half

    def _rejection(self, wanted: Release) -> dict[str, Any]:
        found = [bad for bad in self._seen()["rejected"] if bad["digest"] == wanted.half]
        return found[0] if found else {}

    def _check_kept(self, wanted: Release) -> None:
        """A good release must not be rejected; waiting longer would not help."""
        bad = self._rejection(wanted)
        if bad and not bad["soft"]:
            self._tell.say(bad["trace"], "red")
            raise Failure(f"the board rejected {wanted.name}: {bad['reason']}")

    # --- time and cost

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something, through which the board's clock skips.

        Raises:
            Failure: it has not come in time; `what` says what has not.
        """
        if not self._board.wait(lambda _: holds(), PATIENCE, LOOK_SECONDS):
            self._tell.say("\n".join(self._board.console.splitlines()[-8:]), "red")
            raise Failure(
                f"{what} within {PATIENCE:.0f} seconds of its clock; above is what it said last",
                "run it again; if it comes again, it is a fault of this project: tell us",
            )

    @contextmanager
    def _step(self, title: str, name: str) -> Iterator[None]:
        self._tell.title(title)
        began, before = time.monotonic(), self._board.stats
        yield
        now = self._board.stats
        step = Step(
            name,
            now.boots - before.boots,
            now.ops - before.ops,
            now.erases - before.erases,
            now.received - before.received,
            now.sent - before.sent,
            time.monotonic() - began,
        )
        self.story.steps.append(step)
        self._tell.say(
            f"boots {step.boots}, flash operations {step.operations}, "
            f"bytes down {step.received:,}, up {step.sent:,}, seconds {step.seconds:.1f}",
            "dim",
        )


def _finished(files: Mapping[str, bytes], slot: str, listed: Manifest) -> int:
    """How many of a release's files are in the slot as they should be."""
    return sum(
        sha256(files.get(f"/app_slots/{slot}/{file.name}", b"")).hexdigest() == file.sha256
        for file in listed.files
    )


def _is_whole(files: Mapping[str, bytes], slot: str, listed: Manifest) -> bool:
    raw = files.get(f"/app_slots/{slot}/manifest", b"")
    return raw.startswith(listed.body) and _finished(files, slot, listed) == len(listed.files)


@contextmanager
def _own_home(folder: Path) -> Iterator[None]:
    """Nothing of this run touches the user's fleets."""
    names = ("MIPY_HOME", "MIPY_FLEET")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["MIPY_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MIPY_HOME"]
        os.environ.update(before)


def run(tell: Teller) -> Story:
    """Play the demo; whatever it starts has ended when this returns.

    Args:
        tell: says what happens.

    Raises:
        Failure: something did not come as it should; the text says what.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mipy-demo-")))
        stack.enter_context(_own_home(folder / "home"))
        server = stack.enter_context(serve.running(folder / "server", interval=INTERVAL))
        board = stack.enter_context(
            VirtualBoard(folder / "board", speed=SPEED, clock="own", heap_profile=True)
        )
        tell.title("MiPy-OTA: the whole road once")
        tell.say(
            f"The board is virtual: a real MicroPython with the ESP8266's heap of {board.heap:,} "
            "bytes, on a real\nLittleFS. The server is the real one. The board's clock skips what "
            "it would wait through, so that\nits minute on trial takes you a moment. All of it is "
            "gone when the demo ends."
        )
        story = Demo(folder, server, board, tell).play()
    tell.table(story)
    return story


def main() -> int:
    """`python -m mipy_ota.tools.sim.demo`; returns the exit code as `mipy` does."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print what happened as JSON")
    parser.add_argument("--picture", metavar="FILE", help="keep what is printed as an SVG, too")
    wanted = parser.parse_args()
    drawn = None
    if wanted.picture:
        # No terminal: of a bar that moves the record would hold every position.
        drawn = Console(record=True, width=100, highlight=False, force_terminal=False)
    screen = drawn or (console.err() if wanted.json else console.out())
    try:
        story = run(Teller(screen, bars=bool(wanted.picture)))
    except Failure as failure:
        console.error(failure.text, failure.hint)
        return failure.code
    except KeyboardInterrupt:
        console.note("stopped; nothing is left running")
        return 130
    if drawn:
        picture = drawn.export_svg(title="make demo")
        # Nothing is fetched when somebody looks at it: any monospaced font will do.
        picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
        Path(wanted.picture).write_text(picture, "utf-8")
    if wanted.json:
        console.data(asdict(story))
    return 0


if __name__ == "__main__":
    sys.exit(main())
