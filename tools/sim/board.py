"""One virtual board, from the host's side.

A board is a folder: the flash chip (`flash.img`, or `disk/` for the storage model) and the memory
that it shares with the host. Each life of the board, from a start to a reset, is one process.

    with VirtualBoard(tmp_path) as board:
        board.format({"/main.py": b"print('hello')"})
        life = board.life()
        assert (life.cause, life.console) == ("repl", "hello\\n")
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from ..console import Failure
from ..flash import image
from . import interpreter
from .air import Air
from .clock import Keeper, Loan
from .page import COUNTERS, Page

Chip = Literal["esp8266", "esp32"]
Storage = Literal["littlefs", "model"]
Clock = Literal["own", "wall"]
Map = Literal["reset", "live"]
Cause = Literal["reset", "deepsleep", "watchdog", "soft reset", "cut", "repl", "killed", "crash"]
Until = Callable[["VirtualBoard"], bool] | str

# Heap and file system of the stock images for 4 MB of flash.
_HEAP = {"esp8266": 38912, "esp32": 112 * 1024}
_BLOCKS = {"esp8266": 763, "esp32": 512}
_SEGMENT = 0x50000
# Exit codes as in chip/_page.py.
_CAUSES: dict[int, Cause] = {
    40: "reset",
    41: "deepsleep",
    42: "repl",
    43: "cut",
    44: "soft reset",
    -signal.SIGALRM: "watchdog",
    -signal.SIGKILL: "killed",
}
# Number of the event that starts the next life (chip/machine.py turns it into the chip's own
# number). Somebody who finds a board at its REPL presses the reset button.
_POWER_ON = 0
_EVENTS: dict[Cause, int] = {
    "reset": 1,
    "crash": 1,
    "watchdog": 2,
    "deepsleep": 3,
    "soft reset": 4,
    "repl": 5,
}
_TICK = 0.02
_HOUR = 3600.0
_STEP = 1.0
"""Seconds of its time after which a condition that is no text is asked again."""
_STUCK = 600.0
"""Real seconds beside the board time that is waited for, after which it is given up."""


@dataclass(frozen=True)
class Life:
    """What one life of a board came to.

    `cause` is why it ended, `ops` and `erases` count flash operations, `console` is all it printed,
    `exit` the exit status of the process.
    """

    cause: Cause
    ops: int
    erases: int
    console: str
    exit: int


@dataclass
class Stats:
    """Sums over a board's lives; `peak` is the highest heap use in bytes (with `heap_profile`)."""

    boots: int = 0
    ops: int = 0
    erases: int = 0
    programmed: int = 0
    peak: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Flash and memory of a board that is off, to return to; `clock` is in ms."""

    flash: Mapping[str, bytes]
    segment: bytes
    memory: bytes
    clock: int
    event: int


@dataclass
class _Process:
    process: subprocess.Popen[bytes]
    told: int
    started: float
    text: str = ""


def _locked(folder: Path) -> IO[bytes]:
    """The lock of a board's folder: two that run on one flash would damage it.

    Raises:
        Failure: another process runs it.
    """
    lock = (folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Failure(
            f"{folder.name} runs already, in another terminal",
            "switch it off there, or name another",
        ) from None
    return lock


class VirtualBoard:
    """A board.

    Args:
        folder: where its flash and memory lie; made when missing.
        chip: "esp8266" or "esp32".
        address: its own loopback address, 127.0.0.N; ports below 1024 appear there 8000 higher.
        speed: how many times as long as on this host computing takes in its time (integer); with
            the wall's clock, how many times faster than real all its time passes.
        clock: "own" or the "wall"'s (sim/clock.py).
        silent: when it resets or loses its power, who talks to its WebREPL hears nothing, as with a
            chip (sim/air.py), and no FIN, as the operating system sends it.
        storage: "littlefs", or "model": files whose rewriting is not atomic (chip/_model.py).
        heap: bytes of heap; None takes the chip's.
        blocks: 4 KB blocks of flash; None takes the stock file system of a 4 MB chip.
        heap_profile: collect often and sample the heap, for `stats.peak`; slow.
        romfs: whether the firmware has a ROMFS segment; None: as `mipy flash` would choose it, so
            an ESP8266's has.
        flash_map: what the segment's map into memory shows of what this life has written: the
            content of the last "reset", or the "live" one (chip/_segment.py).
        stuck: offset of a byte of the segment whose lowest bit stays 0.
    """

    def __init__(
        self,
        folder: Path | str,
        chip: Chip = "esp8266",
        address: str = "127.0.0.2",
        speed: int = 1,
        storage: Storage = "littlefs",
        heap: int | None = None,
        blocks: int | None = None,
        heap_profile: bool = False,
        clock: Clock = "wall",
        silent: bool = False,
        romfs: bool | None = None,
        flash_map: Map = "reset",
        stuck: int | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder)
        self._silence = Air(address) if silent else None
        self.chip: Chip = chip
        self.address = address
        self.speed = speed
        self.storage: Storage = storage
        self.heap = heap or _HEAP[chip]
        self.blocks = blocks or _BLOCKS[chip]
        self.heap_profile = heap_profile
        self.romfs = chip == "esp8266" if romfs is None else romfs
        self.flash_map: Map = flash_map
        self.stuck = stuck
        self.lives: list[Life] = []
        self.clock: Clock = clock
        self._page = Page(self.folder / "memory")
        self._keeper = Keeper(self._page)
        self._air: dict[str, Any] = {"up": True, "clients": 0, "networks": {}}
        self._page.set_air(self._air)
        self._sums = Stats()
        self._event = _POWER_ON
        self._clock = 0
        self._current: _Process | None = None
        self._supervisor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._unplugged = threading.Event()
        self._listeners: list[Callable[[str], None]] = []
        self._text = ""

    def __enter__(self) -> VirtualBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it and let go of its memory; the folder stays."""
        self.stop()
        if self._silence:
            self._silence.close()
        self._page.close()
        self._lock.close()

    # --- the flash, while the board is off

    @property
    def _image(self) -> Path:
        return self.folder / ("disk" if self.storage == "model" else "flash.img")

    @property
    def _segment(self) -> Path:
        return self.folder / "segment.img"

    def _make_segment(self) -> None:
        if not self._segment.exists():  # a board of before there was one
            self._segment.write_bytes(b"\xff" * _SEGMENT)

    @property
    def segment(self) -> bytes:
        """The raw flash of the ROMFS segment, 320 KB."""
        self._check_off()
        self._make_segment()
        return self._segment.read_bytes()

    @segment.setter
    def segment(self, content: bytes) -> None:
        self._check_off()
        self._segment.write_bytes(content)

    def format(self, files: Mapping[str, bytes]) -> None:
        """A new chip, flashed with `files` (absolute paths): nothing of its former life is left."""
        self._check_off()
        if self.storage == "model":
            shutil.rmtree(self._image, ignore_errors=True)
            self._image.mkdir()
            for path, data in files.items():
                self.write(path, data)
        else:
            self._image.write_bytes(image.build(files, self.blocks))
        self._segment.write_bytes(b"\xff" * _SEGMENT)
        self._page.forget_rtc()
        self._page.set("started", 0)
        self._event = _POWER_ON
        self._clock = 0

    def files(self) -> dict[str, bytes]:
        """Every file on the flash by absolute path."""
        self._check_off()
        if self.storage == "model":
            return image.from_folder(self._image)
        return image.read(self._image.read_bytes())

    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            FileNotFoundError: there is none.
        """
        self._check_off()
        if self.storage == "model":
            return (self._image / path.lstrip("/")).read_bytes()
        return image.get(self._image, path)

    def write(self, path: str, data: bytes) -> None:
        """Write one file; folders are made."""
        self._check_off()
        if self.storage == "model":
            target = self._image / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        else:
            image.put(self._image, {path: data})

    def remove(self, path: str) -> None:
        """Delete one file.

        Raises:
            FileNotFoundError: there is none.
        """
        self._check_off()
        if self.storage == "model":
            (self._image / path.lstrip("/")).unlink()
        else:
            image.remove(self._image, path)

    def save(self) -> Snapshot:
        """Flash and memory as they are now, for `restore`."""
        self._check_off()
        if self.storage == "model":
            flash = {str(p.relative_to(self._image)) + "/": b"" for p in self._folders()}
            flash |= image.from_folder(self._image)
        else:
            flash = {"": self._image.read_bytes()}
        return Snapshot(flash, self.segment, self._page.dump(), self._clock, self._event)

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot; the sums in `stats` go on."""
        self._check_off()
        if self.storage == "model":
            shutil.rmtree(self._image, ignore_errors=True)
            self._image.mkdir()
            for path, data in snapshot.flash.items():
                if path.endswith("/"):
                    (self._image / path).mkdir(parents=True, exist_ok=True)
                else:
                    self.write(path, data)
        else:
            self._image.write_bytes(snapshot.flash[""])
        self.segment = snapshot.segment
        self._page.load(snapshot.memory)
        self._clock = snapshot.clock
        self._event = snapshot.event

    def _folders(self) -> list[Path]:
        return sorted(p for p in self._image.rglob("*") if p.is_dir())

    # --- lives

    def life(
        self,
        cut: int | None = None,
        torn: bool = False,
        timeout: float | None = None,
        until: Until | None = None,
    ) -> Life:
        """One life, from a start to its end.

        Args:
            cut: the power goes at this flash operation (1 is the first); None: never.
            torn: half of that operation still happens.
            timeout: seconds of its time after which the board is switched off, an hour if not
                given; by the wall's clock real ones, a minute.
            until: switch it off when this text was printed, or when this function says so.

        Returns:
            What it came to; `cause` is "killed" after `timeout` and `until`. After "killed" and
            "cut" the next life starts from a power-on, after "repl" from the reset button.
        """
        self._check_off()
        if timeout is None:
            timeout = _HOUR if self._own else 60
        loan = _loan(
            lambda: self._current and until and _holds(until, self, self._current.text),
            timeout,
            None if until is None or isinstance(until, str) else _STEP,
        )
        self._keeper.run(True)
        try:
            real = timeout + _STUCK if self._own else timeout
            return self._live(cut, torn, loan, real, stay=False)
        finally:
            self._keeper.run(False)

    def start(
        self,
        listener: Callable[[str], None] | None = None,
        cut: int | None = None,
        torn: bool = False,
    ) -> None:
        """Let it run in the background, life after life, until `stop`.

        Args:
            listener: is called with every piece of text it prints (in another thread).
            cut, torn: as `life` takes them, for the first life.
        """
        self._check_off()
        if listener:
            self._listeners.append(listener)
        self._stopping.clear()
        self._supervisor = threading.Thread(target=self._supervise, args=(cut, torn), daemon=True)
        self._supervisor.start()

    def stop(self) -> None:
        """Switch it off; a board that is off stays off."""
        self._stopping.set()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            while supervisor.is_alive():
                self._kill()
                supervisor.join(_TICK)
        self._listeners.clear()

    def power_cut(self) -> None:
        """Take the power away and give it back (or leave it off, when it does not run)."""
        self._unplugged.set()  # it may be between two lives
        self._kill()
        if not self.running:
            self._plug_in()

    def ctrl_c(self) -> None:
        """Press Ctrl-C at its console."""
        current = self._current
        if current and current.process.poll() is None:
            self._page.set("interrupt", 1)

    def type(self, text: str) -> None:
        """Type at its console."""
        current = self._current
        if current and current.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                current.process.stdin.write(text.encode())
                current.process.stdin.flush()

    def wait(self, until: Until, timeout: float | None = None, step: float = _STEP) -> bool:
        """Wait for a text on the console (of all lives since `start`) or for a condition.

        Meanwhile the board's clock may skip what the board would wait through.

        Args:
            until: the text, or a function.
            step: seconds of its time after which a function is asked again, though nothing was
                printed.
            timeout: seconds of its time, an hour if not given; by the wall's clock, or when it is
                off, real ones, half a minute.

        Returns:
            False when it did not come in time, or the board was stopped.

        Raises:
            RuntimeError: it is called by what another `wait` of this board asks.
        """
        if threading.current_thread() is self._supervisor:
            raise RuntimeError("what a board's `until` calls must not wait for the board itself")
        if self._own and self.running:
            timeout = _HOUR if timeout is None else timeout
            loan = _loan(
                lambda: _holds(until, self, self._text),
                timeout,
                None if isinstance(until, str) else step,
            )
            self._keeper.lend(loan)
            end = time.monotonic() + timeout + _STUCK
            while not loan.over.wait(_STEP) and self.running and time.monotonic() < end:
                pass
            self._keeper.call_in(loan)
            return loan.result()
        end = time.monotonic() + (30 if timeout is None else timeout)
        while time.monotonic() < end:
            if _holds(until, self, self._text):
                return True
            time.sleep(_TICK)
        return False

    def go_on(self, seconds: float) -> None:
        """Let so much of its time pass."""
        self.wait(lambda _: False, seconds, seconds)

    @contextlib.contextmanager
    def passing(self, timeout: float = 600) -> Iterator[None]:
        """Its clock may skip while somebody here waits for something that the board does.

        Args:
            timeout: seconds of its time after which it is real again.
        """
        loan = _loan(lambda: False, timeout, None)
        self._keeper.lend(loan)
        try:
            yield
        finally:
            self._keeper.call_in(loan)

    @property
    def age(self) -> float:
        """Seconds of its own clock since it was made, deep sleep included."""
        return self._keeper.now / 1000

    @property
    def running(self) -> bool:
        """Whether `start` has been called and `stop` has not."""
        return self._supervisor is not None and self._supervisor.is_alive()

    @property
    def console(self) -> str:
        """All that it printed in all its lives."""
        return self._text

    # --- what is around it

    def radio(
        self,
        *,
        up: bool | None = None,
        networks: Mapping[Any, str | Mapping[str, Any]] | None = None,
        clients: int | None = None,
        dns: int | None = None,
    ) -> None:
        """Set the air around it, at any time; what is left out stays as it is.

        Args:
            up: False: no network is in reach, running connections hang.
            networks: by SSID (str, or bytes where it is no text) the password ("": open), or a
                mapping of password, rssi, hidden, the reason that an ESP32 gives for a wrong
                password, and the milliseconds that joining takes.
            clients: how many phones are on its access point.
            dns: no name is found, and only after so many seconds; 0: the host's names are found.
        """
        if up is not None:
            self._air["up"] = up
        if dns is not None:
            self._page.set("dns", dns)
        if clients is not None:
            self._air["clients"] = clients
        if networks is not None:
            self._air["networks"] = {_hex(name): _network(net) for name, net in networks.items()}
        self._page.set_air(self._air)

    def drive(self, pin: int, level: int | None) -> None:
        """Put a level (0, 1) on a pin from outside, or let go of it (None)."""
        self._page.drive(pin, level)

    def level(self, pin: int) -> int | None:
        """What it drives a pin to; None while that is an input."""
        return self._page.level(pin)

    @property
    def rtc(self) -> bytes:
        """RTC memory, which survives everything but the loss of power."""
        return self._page.rtc

    @rtc.setter
    def rtc(self, data: bytes) -> None:
        self._page.rtc = data

    @property
    def stats(self) -> Stats:
        """Sums over all lives, the running one included."""
        now = Stats(**vars(self._sums))
        if self._current:
            self._add(now)
        return now

    # --- inside

    def _supervise(self, cut: int | None, torn: bool) -> None:
        self._keeper.run(True)
        try:
            self._live_on(cut, torn)
        finally:
            self._keeper.run(False)

    def _live_on(self, cut: int | None, torn: bool) -> None:
        while not self._stopping.is_set():
            life = self._live(cut, torn, None, None, stay=True)
            cut = None
            if life.cause == "deepsleep":
                ms = self._page.get("sleep")
                if self._own:
                    self._keeper.sleep(ms, self._stopping)
                else:
                    self._stopping.wait(ms / 1000 / self.speed)

    def _live(
        self,
        cut: int | None,
        torn: bool,
        loan: Loan | None,
        real: float | None,
        stay: bool,
    ) -> Life:
        self._plug_in()
        self._page.begin_life(self._event, self._clock // 1000)
        began = self._keeper.now
        current = self._spawn(cut, torn, stay)
        self._keeper.begin(current.process.pid)
        if loan:
            self._keeper.lend(loan)
        self._current = current
        if self._unplugged.is_set():
            self._kill()
        try:
            self._listen(current, loan, real)
        finally:
            # Also on Ctrl-C: no process is left behind.
            if current.process.poll() is None:
                current.process.kill()
            status = current.process.wait()
            os.close(current.told)
            self._keeper.end(current.process.pid)
            for pipe in (current.process.stdin, current.process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._add(self._sums)
            self._current = None
        passed = self._keeper.now - began
        if not self._own:
            passed = int((time.monotonic() - current.started) * self.speed * 1000)
        return self._ended(current, status, passed)

    def _spawn(self, cut: int | None, torn: bool, stay: bool) -> _Process:
        if not self._image.exists():
            self.format({})
        self._make_segment()
        heap = interpreter.heap(self.heap)
        told, tell = os.pipe()
        environment = {
            "SIM_PAGE": str(self._page.path),
            "SIM_IMAGE": str(self._image),
            "SIM_STORAGE": self.storage,
            "SIM_CHIP": self.chip,
            "SIM_ADDRESS": self.address,
            "SIM_SPEED": str(self.speed),
            "SIM_CLOCK": self.clock,
            "SIM_TELL": str(tell),
            "SIM_HEAP": str(self.heap),
            "SIM_FREE": str(heap.free),
            "SIM_USED": str(heap.used),
            "SIM_CUT": str(-1 if cut is None else cut),
            "SIM_TORN": "1" if torn else "0",
            "SIM_STAY": "1" if stay else "0",
            "SIM_PROFILE": "1" if self.heap_profile else "0",
            "SIM_SEGMENT": str(self._segment) if self.romfs else "",
            "SIM_MAP": self.flash_map,
            "SIM_STUCK": str(-1 if self.stuck is None else self.stuck),
            "SIM_SILENT": "1" if self._silence else "0",
            "SIM_PARENT": str(os.getpid()),
        }
        process = subprocess.Popen(
            interpreter.command(heap),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # A Ctrl-C at the terminal is the host's, not the board's.
            start_new_session=True,
            pass_fds=(tell,),
        )
        os.close(tell)
        return _Process(process, told, time.monotonic())

    def _listen(self, current: _Process, loan: Loan | None, real: float | None) -> None:
        """Hear what it prints, and lend it time, until it ends; switch it off when `loan` is over.

        Args:
            real: seconds after which it is switched off as well.
        """
        end = None if real is None else current.started + real
        output = current.process.stdout
        assert output is not None
        pause = _TICK
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            selector.register(current.told, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select(pause)]
                heard = output.fileno() in ready
                if current.told in ready and not os.read(current.told, 4096):
                    selector.unregister(current.told)  # it has ended
                if heard:
                    self._keeper.hold()
                    data = os.read(output.fileno(), 65536)
                    if not data:
                        return
                    self._heard(current, data.decode(errors="replace"))
                if self._own:
                    pause = self._keeper.turn(heard)
                elif loan:
                    loan.judge()
                if (end and time.monotonic() > end) or (loan and loan.over.is_set()):
                    current.process.kill()

    def _heard(self, current: _Process, text: str) -> None:
        current.text += text
        self._text += text
        for listener in self._listeners:
            listener(text)

    def _ended(self, current: _Process, status: int, passed: int) -> Life:
        cause = _CAUSES.get(status, "crash")
        asleep = self._page.get("sleep") if cause == "deepsleep" else 0
        self._clock += passed + asleep
        if cause in _EVENTS:
            self._event = _EVENTS[cause]
        else:
            self._power_off()
        ops, erases = self._page.get("ops"), self._page.get("erases")
        life = Life(cause, ops, erases, current.text, status)
        self.lives.append(life)
        return life

    def _plug_in(self) -> None:
        if self._unplugged.is_set():
            self._unplugged.clear()
            self._power_off()

    def _power_off(self) -> None:
        self._event = _POWER_ON
        self._clock = 0
        self._page.forget_rtc()

    def _add(self, sums: Stats) -> None:
        now = {name: self._page.get(name) for name in COUNTERS}
        peak = max(sums.peak, now.pop("peak"))
        for name, value in now.items():
            setattr(sums, name, getattr(sums, name) + value)
        sums.peak = peak if self.heap_profile else 0
        sums.boots += 1

    @property
    def _own(self) -> bool:
        return self.clock == "own"

    def _kill(self) -> None:
        current = self._current
        if current and current.process.poll() is None:
            current.process.kill()

    def _check_off(self) -> None:
        if self._current or self.running:
            raise RuntimeError("the board is running: stop it first")


def _loan(holds: Callable[[], object], seconds: float, step: float | None) -> Loan:
    asked = (int(step * 1000),) if step else ()
    return Loan(lambda: bool(holds()), int(seconds * 1000), *asked)


def _holds(until: Until, board: VirtualBoard, text: str) -> bool:
    return until in text if isinstance(until, str) else until(board)


def _hex(name: str | bytes) -> str:
    return (name.encode() if isinstance(name, str) else name).hex()


def _network(net: str | Mapping[str, Any]) -> dict[str, Any]:
    given = {"password": net} if isinstance(net, str) else net
    return {"password": "", "rssi": -55, "hidden": False, **given}
