"""WebREPL: a board's console over the network, as a `repl.Stream`.

The framing is `websockets`' (its protocol without I/O), the socket is ours: every wait has an end,
small frames leave at once, and text frames are bytes, as MicroPython's REPL sends them. On top is
what MicroPython's WebREPL says (docs/webrepl.md, "The protocol"): `Password: `, a line, and the
console. The PyPI package `webrepl` was not taken: it waits for ever for a silent peer and does not
notice a wrong password.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import select
import socket
import struct
import time
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from ...ota_server import keepalive
from .. import console
from ..console import Failure
from ..printable import printable

PORT = 8266
CONNECT_SECONDS = 5.0
LOGIN_SECONDS = 10.0
WRITE_SECONDS = 20.0
"""Longest time a board may leave what was sent to it lying: it reads nothing while it is busy."""
_INTERRUPT_SECONDS = 0.1
"""An ESP8266 leaves what arrives together with a Ctrl-C lying until more comes."""
_CHUNK = 512
"""Bytes of a file in a frame: what a board takes at once."""
_PIECE = 1024
"""Bytes of a frame; a board keeps the frame's rest in its few kilobytes of network buffer."""
_PROMPT, _DENIED = b"Password: ", b"Access denied"
_WELCOME = b"WebREPL connected\r\n>>> "
"""The prompt in it says nothing: it comes while a program runs, too."""
# What the boot stage adds (bootloader/webrepl_session.py).
_HERE, _TAKEN, _WAIT = b"the password takes over", b"has taken over", b"wrong passwords, wait"
_WORDS = 80
"""Bytes that a last word has at most."""
_PROOF = "ota-proof"
"""The header by which a board proves that it is the one (bootloader/webrepl_session.py)."""
_PUT = struct.Struct("<2sBBQLH64s")  # "WA", operation, flags, offset, size, length of name, name
_NAME_BYTES = 63
_DONE = b"WB\0\0"
_SLOWEST = 5_000
"""Bytes a second that a slow board takes in: it pauses for 20 ms after each 512."""
_BUFFER = 8192
"""Of the socket, so that what was sent is about what the board has got."""


class Unreachable(Failure):
    """Nothing answers there: the board is off, elsewhere, or its WebREPL is closed."""


class Closed(Unreachable):
    """The board is there, and its WebREPL is not: it is closed, or the board is starting."""


class Deaf(Unreachable):
    """It takes a connection and does not get as far as letting us in: it may be starting."""


class Busy(Deaf):
    """Somebody else is connected; or the board went away just then, which looks the same."""


class Refused(Failure):
    """Somebody answers, and does not let us in."""


class Unproved(Refused):
    """Somebody answers who may be another, and gets no password."""


class Taken(Failure):
    """Somebody else with the password has come: who came first has to go."""


class WebRepl:
    """The console of the board at `host`, logged in.

    Args:
        host: name or IPv4 address.
        password: a function that gives it, called when the board asks; never shown. It is told why
            this may be another board, in words that follow "what answers there"; "" when it has
            proved to be the one with `key`, at the address that was called.
        name: what messages call the board.
        port: where its WebREPL listens.
        patience: seconds that it may take with its answers; None: LOGIN_SECONDS.
        key: the board's device key, if that is known.
        tunnel: what answers on this computer may pass on to the board, as `ssh -L` does.

    Raises:
        Unreachable: nothing answers there as WebREPL does.
        Refused: the password is wrong, or somebody else is connected.
    """

    def __init__(
        self,
        host: str,
        password: Callable[[str], str],
        name: str,
        port: int = PORT,
        patience: float | None = None,
        key: bytes | None = None,
        tunnel: bool = False,
    ) -> None:
        self._name = name
        self._patience = patience or LOGIN_SECONDS
        self._let_in = False
        self._at = f"{name} ({host}:{port})" if name != host else f"{host}:{port}"
        self._got = self._last = b""
        self._answer = b""  # binary frames: the file protocol's
        self._proof = ""
        self._text = True  # what a continued frame belongs to
        try:
            self._socket = socket.create_connection((host, port), CONNECT_SECONDS)
        except OSError as problem:
            raise self._unreachable(problem) from problem
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keepalive.probe(self._socket)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._protocol = ClientProtocol(WebSocketURI(False, host, port, "/", ""))
        try:
            self._shake_hands()
            self._log_in(lambda: password(self._doubt(key, tunnel)))
            self._let_in = True
        except BaseException:
            self._socket.close()
            raise

    def read(self, timeout: float) -> bytes:
        """See `Stream`."""
        end = time.monotonic() + timeout
        while not self._got and self._arrived(max(0.0, end - time.monotonic())):
            pass
        got, self._got = self._got, b""
        self._last = (self._last + got)[-_WORDS:]
        return got

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        for part in re.split(b"(?<=\x03)", data):
            for at in range(0, len(part), _PIECE):
                self._send(part[at : at + _PIECE], text=True)
            if part.endswith(b"\x03"):
                time.sleep(_INTERRUPT_SECONDS)

    def fileno(self) -> int:
        """For select(): readable when something has arrived."""
        return self._socket.fileno()

    def upload(self, path: bytes, content: bytes, progress: Callable[[int], object]) -> None:
        """Write a file by WebREPL's own way, which is fast and checks nothing: see to the hash.

        No program may run on the board. A path has at most 63 bytes.
        """
        assert content and len(path) <= _NAME_BYTES
        self._answer = b""
        self._send(_PUT.pack(b"WA", 1, 0, 0, len(content), len(path), path), text=False)
        self._answered(LOGIN_SECONDS)
        for at in range(0, len(content), _CHUNK):
            self._send(content[at : at + _CHUNK], text=False)
            progress(at)
        self._answered(LOGIN_SECONDS + len(content) / _SLOWEST)
        progress(len(content))

    def close(self) -> None:
        """See `Stream`. The board is told, so that it lets the next one in."""
        try:
            if self._protocol.state is State.OPEN:
                self._protocol.send_close()
                self._flush()
        except Failure:
            pass  # it has gone before us
        finally:
            self._socket.close()

    # --- inside

    def _send(self, data: bytes, text: bool) -> None:
        if self._protocol.state is not State.OPEN:
            raise self._gone()
        (self._protocol.send_text if text else self._protocol.send_binary)(data)
        self._flush()

    def _answered(self, timeout: float) -> None:
        """Wait for the file protocol's word that all is done."""
        end = time.monotonic() + timeout
        while len(self._answer) < len(_DONE):
            left = end - time.monotonic()
            if left <= 0 or not self._arrived(left):
                raise Failure(
                    f"{self._at} does not take the file in time",
                    "run it again, nearer to the router",
                )
        said, self._answer = self._answer[: len(_DONE)], self._answer[len(_DONE) :]
        if said != _DONE:
            raise Failure(f"{self._at} refuses the file", "see that its flash is not full")

    def _shake_hands(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        end = time.monotonic() + min(CONNECT_SECONDS, self._patience)
        while self._protocol.state is State.CONNECTING:
            if not self._arrived(end - time.monotonic(), shaking=True):
                raise Deaf(
                    f"what answers at {self._at} is no WebREPL, or a board that starts just now",
                    "is this the board's address?",
                )

    def _doubt(self, key: bytes | None, tunnel: bool) -> str:
        """Why what answers may be another board; "" when it has proved that it is not.

        The proof is `<its address> <HMAC-SHA256(device key, "webrepl1\\0" + the request's
        Sec-WebSocket-Key + " " + its address)>`. With the address in it, nobody elsewhere can pass
        on what the board says (docs/webrepl.md).
        """
        if key is None:
            return "is not known here"
        # Whatever stands in the header: a proof is ASCII.
        heard = self._proof.encode("ascii", "replace").decode()
        address, _, proof = heard.partition(" ")
        said = b"webrepl1\0%b %b" % (self._protocol.key.encode(), address.encode())
        if not hmac.compare_digest(hmac.digest(key, said, "sha256").hex().encode(), proof.encode()):
            return f"does not prove to be {self._name}"
        if address == "0.0.0.0":
            raise Deaf(f"{self._at} has no address yet", "it is starting: try once more")
        called = self._socket.getpeername()[0]
        if address != called and not (tunnel and ipaddress.ip_address(called).is_loopback):
            return f"passes on what {self._name} says, which is at {printable(address)}"
        return ""

    def _log_in(self, password: Callable[[], str]) -> None:
        said = self._hear(b"", _PROMPT)
        if _PROMPT not in said:
            raise self._kept_out(said)
        if _HERE in said:
            console.note(_word(said))
        self.write(password().encode() + b"\r")
        said = self._hear(said.partition(_PROMPT)[2], _WELCOME, _DENIED)
        if _WELCOME not in said:
            if _DENIED not in said:
                raise Deaf(f"{self._at} hung up", "it may be starting again: try once more")
            raise Refused(
                f"the WebREPL of {self._at} does not take this password",
                "it is in the fleet's record of the board and on its label: `mipy label`",
            )
        self._got = said.partition(_WELCOME)[2]

    def _kept_out(self, said: bytes) -> Failure:
        if _WAIT in said:
            return Refused(
                f"{self._at} takes no password now: {_word(said)}", "wait, and try again"
            )
        return Busy(
            f"somebody else is connected to the WebREPL of {self._at}",
            "a board serves one at a time: close the other terminal, or wait until it is gone",
        )

    def _hear(self, said: bytes, *marks: bytes) -> bytes:
        """What is said until one of the marks, or until the board closes."""
        end = time.monotonic() + self._patience
        while not any(mark in said for mark in marks):
            try:
                more = self.read(end - time.monotonic())
            except Failure:
                break  # closed: what was said until then tells why
            if not more:
                raise Deaf(
                    f"the WebREPL of {self._at} does not answer",
                    "its app may be blocking it: press reset and try again at once",
                )
            said += more
        return said

    def _arrived(self, timeout: float, shaking: bool = False) -> bool:
        """Wait for bytes and take them in; False when none came.

        Raises:
            Failure: the board has closed the connection, and all that it said was read.
        """
        if not select.select([self._socket], [], [], max(0.0, timeout))[0]:
            return False
        try:
            data = self._socket.recv(65536)
        except OSError as problem:
            raise self._gone() from problem
        try:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
        except (WebSocketException, EOFError) as problem:
            raise self._gone() from problem
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._proof = " ".join(event.headers.get_all(_PROOF))
                continue
            assert isinstance(event, Frame)
            if event.opcode is not Opcode.CONT:
                self._text = event.opcode is Opcode.TEXT
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if self._text:
                    self._got += bytes(event.data)
                else:
                    self._answer += bytes(event.data)
        if self._protocol.handshake_exc is not None:
            raise Unreachable(
                f"what answers at {self._at} is no WebREPL", "is this the board's address?"
            )
        self._flush()
        if (
            not (self._got or self._answer)
            and (not data or self._protocol.state is not State.OPEN)
            and not shaking
        ):
            raise self._gone()
        return bool(data)

    def _flush(self) -> None:
        try:
            self._socket.settimeout(WRITE_SECONDS)
            for data in self._protocol.data_to_send():
                if data:
                    self._socket.sendall(data)
                else:
                    self._socket.shutdown(socket.SHUT_WR)
        except OSError as problem:
            raise self._gone() from problem

    def _gone(self) -> Failure:
        if _TAKEN in self._last:
            return Taken(
                f"{_word(self._last)} the WebREPL of {self._at}",
                "a board serves one at a time; what comes later with the password goes first",
            )
        if not self._let_in:
            return Deaf(f"{self._at} hung up", "it may be starting again: try once more")
        return Failure(
            f"the connection to {self._at} has gone",
            "it was reset, or has lost power or Wi-Fi: `mipy boards` shows when it was last seen, "
            "`mipy logs -f` what it prints",
        )

    def _unreachable(self, problem: OSError) -> Unreachable:
        # What passes connections on takes one, and ends it when the board refuses.
        if isinstance(problem, ConnectionRefusedError | ConnectionResetError):
            return Closed(
                f"the WebREPL of {self._at} is closed",
                "a production board opens it by its button or `mipy open`, a dev board when it has "
                "Wi-Fi",
            )
        return Unreachable(
            f"cannot reach {self._at}: {problem.strerror or problem}",
            "see that the board has power and Wi-Fi, and `mipy boards` for its address",
        )


def _word(said: bytes) -> str:
    """The last line of what a board said."""
    return said.replace(_PROMPT, b"").strip().rpartition(b"\n")[2].decode(errors="replace")
