"""A board's raw REPL: run a piece of Python there and get what it printed.

The protocol is MicroPython's (docs.micropython.org, "The MicroPython REPL", raw mode and
raw-paste mode). It is spoken over a `Stream`, so that it does not matter what carries the bytes.
Every wait is bounded: a board that says nothing, or loses power in the middle, ends in a `Failure`.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ..console import Failure

BAUD = 115200
ANSWER_SECONDS = 10.0
"""Longest silence in an answer."""
ATTENTION_SECONDS = 10.0
"""How long to try to interrupt the program that runs."""

PROMPT_SECONDS = 0.6
"""How long a prompt takes at most to come after Enter."""

OBEYED_SECONDS = 0.5
"""How long to wait for the acknowledgement of a reset, which need not come."""
# Once an app was stopped there is no other alarm. Its time is in ticks of half a second; the life
# ends in good order, with rtc.ASKED in rtc.END (bootloader/resident.py).
_ALARM = """\
import sys
_o=sys.modules.get('ota')
if hasattr(_o,'alarms'):
 _o.alarms[:]=[%s]
del _o
"""

_RAW = b"raw REPL; CTRL-B to exit\r\n>"
_INTERRUPT, _ENTER, _LEAVE, _END = b"\x03", b"\x01", b"\x02", b"\x04"
_PASTE = b"\x05A\x01"
_PASTE_ANSWERS = b"R\x01", b"R\x00", _RAW
"""The last by a firmware without raw-paste, which took Ctrl-A as usual."""
_LOOK = 0.2
"""Seconds between two looks for a Ctrl-C."""
_CHUNK, _PAUSE = 128, 0.02
"""Without raw-paste nothing tells when a board is ready for more; its buffer has 256 bytes."""


class Stream(Protocol):
    """What carries the bytes: a serial port, or a connection to WebREPL."""

    def read(self, timeout: float) -> bytes:
        """What has arrived; empty when nothing did for `timeout` seconds."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def fileno(self) -> int:
        """For select(): readable when `read` has something."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Raised(Failure):
    """The code raised on the board; `trace` is the traceback, `kind` the exception's name."""

    def __init__(self, trace: str) -> None:
        last = (trace.strip().splitlines() or ["no traceback"])[-1]
        super().__init__(f"the board reports {last}", "run it again; if it stays, report it")
        self.trace = trace
        self.kind = last.partition(":")[0]


class Serial:
    """A serial port, opened for nobody else.

    Raises:
        Failure: it is not there, is in use, or may not be used; says which.
    """

    def __init__(self, port: str) -> None:
        import serial

        from ..flash import port as ports

        ports.check(port)
        self.port = port
        try:
            self._line = serial.Serial(port, BAUD, timeout=0, exclusive=True)
        except (OSError, ValueError) as problem:
            raise self._gone() from problem

    def read(self, timeout: float) -> bytes:
        """See `Stream`."""
        import serial

        try:
            self._line.timeout = timeout
            first = self._line.read(1)
            return first + self._line.read(self._line.in_waiting) if first else b""
        except (OSError, serial.SerialException) as problem:
            raise self._gone() from problem

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        import serial

        try:
            self._line.write(data)
            self._line.flush()
        except (OSError, serial.SerialException) as problem:
            raise self._gone() from problem

    def fileno(self) -> int:
        """See `Stream`."""
        return self._line.fileno()

    def close(self) -> None:
        """See `Stream`."""
        self._line.close()

    def _gone(self) -> Failure:
        return Failure(f"{self.port} has gone", "check the cable and run it again")


class Repl:
    """The raw REPL of the board behind `stream`; `name` is what messages call it.

    Every method raises `Failure` when the board does not answer as a REPL does.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._heard = b""
        self._paste = True
        self._limit = 0
        self._alarm_at = 0.0
        self.gone = False
        """The board was reset: what it says from now on is its own."""

    def waiting(self, timeout: float = PROMPT_SECONDS) -> bool:
        """Whether it is at its prompt for people: no program runs."""
        self._stream.write(b"\r")
        found = self._arrives(b">>> ", timeout)
        self._heard = b""
        return found

    def enter(self, soft_reset: bool = True, timeout: float = ATTENTION_SECONDS) -> None:
        """Interrupt what runs and enter raw mode.

        Args:
            soft_reset: start afresh with an empty heap; boot.py runs, main.py does not.
            timeout: seconds to try.
        """
        self._attention(timeout)
        if soft_reset:
            self._stream.write(_END)
            self._until(b"soft reboot\r\n", timeout)
            # boot.py runs now. One that does not end by itself is interrupted as main.py is.
            if not self._arrives(_RAW, timeout):
                self._attention(timeout)

    def _attention(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self._stream.write(b"\r" + _INTERRUPT)
            self._arrives(b">>> ", 0.3)
            self._heard = b""
            self._stream.write(b"\r" + _ENTER)
            if self._arrives(_RAW, 0.7):
                # What an earlier round asked for may be answered only now.
                while self._stream.read(0.2):
                    pass
                self._heard = b""
                return
        raise Failure(
            f"the board at {self._name} does not stop at Ctrl-C",
            "press its reset button and run it again at once; is this the right port?",
        )

    def run(self, code: str, timeout: float = ANSWER_SECONDS) -> str:
        """Run `code` and return what it printed.

        Args:
            timeout: longest silence to bear, seconds.

        Raises:
            Raised: the code raised an exception.
        """
        if self._limit and time.monotonic() - self._alarm_at > self._limit / 20:
            self._set_alarm()
        return self._run(code, timeout)

    def _run(self, code: str, timeout: float) -> str:
        self._send(code.encode())
        printed = self._until(_END, timeout)
        trace = self._until(_END, timeout)
        self._until(b">", timeout)
        if trace:
            raise Raised(trace.decode(errors="replace"))
        return printed.decode(errors="replace").replace("\r\n", "\n")

    def follow(self, code: bytes, heard: Callable[[bytes], None]) -> None:
        """Run `code` for as long as it takes, and pass on what it prints as it comes.

        Ctrl-C interrupts what runs on the board, and is raised here once that has ended.

        Raises:
            Raised: the code raised an exception.
        """
        self._send(code)
        stopped = False
        while True:
            try:
                before, mark, self._heard = self._heard.partition(_END)
                heard(before)
                if mark:
                    break
                self._heard += self._stream.read(_LOOK)
            except KeyboardInterrupt:
                stopped = True
                self._stream.write(_INTERRUPT)
        trace = self._until(_END, ANSWER_SECONDS)
        self._until(b">", ANSWER_SECONDS)
        if stopped:
            raise KeyboardInterrupt
        if trace:
            raise Raised(trace.decode(errors="replace"))

    def paste(self, code: bytes, heard: Callable[[bytes], None]) -> None:
        """From the prompt for people: as `follow`; `prompt` goes back there."""
        self._stream.write(_ENTER)
        self._until(_RAW, ANSWER_SECONDS)
        self.follow(code, heard)

    def prompt(self) -> None:
        """Back to the prompt for people, whose greeting is taken in."""
        self._stream.write(_LEAVE)
        self._until(b">>> ", ANSWER_SECONDS)

    def evaluate(self, expression: str, timeout: float = ANSWER_SECONDS) -> Any:
        """The value of an expression made of literals. Raises as `run`."""
        said = self.run(f"print(repr({expression}))", timeout)
        try:
            return ast.literal_eval(said.strip())
        except (ValueError, SyntaxError) as problem:
            raise self._strange(said) from problem

    def reset(self) -> None:
        """Reset the board as its button would; what it says after that is not ours.

        A chip that resets falls silent in the middle of whatever it was saying, and does not even
        tell its peers: no answer is needed.
        """
        self._heard = b""
        self._stream.write(b"import machine; machine.reset()" + _END)
        self.gone = True
        with suppress(Failure):  # the connection has gone, over which the order went before
            self._arrives(b"OK", OBEYED_SECONDS)

    def limit(self, seconds: int) -> None:
        """Have the board reset by itself should nothing be run on it for so long.

        That starts an app again which was stopped by a host that has gone since. Only a boot stage
        does it; 0 ends it.
        """
        self._limit = seconds
        self._set_alarm()

    def _set_alarm(self) -> None:
        alarm = f"(_o.ticks+{2 * self._limit},0,5,True)" if self._limit else ""
        self._run(_ALARM % alarm, ANSWER_SECONDS)
        self._alarm_at = time.monotonic()

    @property
    def stream(self) -> Stream:
        """What carries the bytes; after `reset`, for whoever listens to the board then."""
        return self._stream

    def leave(self) -> None:
        """Back to the prompt for people."""
        self._stream.write(b"\r" + _LEAVE)

    def close(self) -> None:
        """Let go of the stream."""
        self._stream.close()

    def _send(self, code: bytes) -> None:
        if self._paste:
            self._stream.write(_PASTE)
            if self._first(*_PASTE_ANSWERS) == b"R\x01":
                return self._send_pasted(code)
            self._paste = False
        for start in range(0, len(code), _CHUNK):
            self._stream.write(code[start : start + _CHUNK])
            time.sleep(_PAUSE)
        self._stream.write(_END)
        self._expect(b"OK")

    def _send_pasted(self, code: bytes) -> None:
        window = int.from_bytes(self._exactly(2), "little")
        room = window
        while code:
            if not room or self._waiting():
                sign = self._exactly(1)
                if sign != b"\x01":
                    # The board wants no more: what it has does not compile.
                    self._stream.write(_END)
                    return
                room += window
                continue
            self._stream.write(code[:room])
            code, room = code[room:], room - min(room, len(code))
        self._stream.write(_END)
        self._until(_END, ANSWER_SECONDS)

    def _waiting(self) -> bool:
        if not self._heard:
            self._heard = self._stream.read(0)
        return bool(self._heard)

    def _exactly(self, count: int) -> bytes:
        while len(self._heard) < count:
            more = self._stream.read(ANSWER_SECONDS)
            if not more:
                raise self._silent()
            self._heard += more
        got, self._heard = self._heard[:count], self._heard[count:]
        return got

    def _expect(self, wanted: bytes) -> None:
        got = self._exactly(len(wanted))
        if got != wanted:
            raise self._strange(got.decode(errors="replace"))

    def _until(self, mark: bytes, timeout: float) -> bytes:
        while mark not in self._heard:
            more = self._stream.read(timeout)
            if not more:
                raise self._silent()
            self._heard += more
        before, _, self._heard = self._heard.partition(mark)
        return before

    def _first(self, *marks: bytes) -> bytes:
        """Which of the marks comes first; before it, a board's own doings may print a line."""
        while not (found := [mark for mark in marks if mark in self._heard]):
            more = self._stream.read(ANSWER_SECONDS)
            if not more:
                raise self._silent()
            self._heard += more
        first = min(found, key=self._heard.index)
        self._heard = self._heard.partition(first)[2]
        return first

    def _arrives(self, mark: bytes, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while mark not in self._heard:
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._heard += self._stream.read(left)
        self._heard = self._heard.partition(mark)[2]
        return True

    def _silent(self) -> Failure:
        return Failure(
            f"the board at {self._name} stopped answering",
            "see that it has power, press its reset button, and run it again",
        )

    def _strange(self, said: str) -> Failure:
        return Failure(
            f"what answers at {self._name} is no MicroPython ({said[:40]!r})",
            "check the port; `mipy flash` puts MicroPython on a board",
        )
