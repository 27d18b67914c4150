"""A browser's terminal joined to a board's WebREPL. Who may do that is not decided here.

Both sides speak WebSocket. `websockets` is the client: it hands over what is in a text frame as
bytes, without asking whether they are UTF-8 (a REPL prints any byte), and takes a socket that is
connected already, so that it looks up no name, uses no proxy and follows no redirect. Everything
goes to the browser in binary frames, for browsers drop text frames that are not UTF-8, and to the
board in text frames, which are keys: binary ones are its file transfer, which this is not.

What somebody types has a password in it: it is kept no longer than it takes to send it, and
nothing of either side is logged.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket

from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from .. import keepalive

PORT = 8266
CONNECT_SECONDS = 5.0
SHAKE_SECONDS = 10.0
CLOSE_SECONDS = 2.0
SEND_SECONDS = 20.0
"""How long either side may leave lying what is sent to it."""
LOGIN_SECONDS = 25.0
"""For the password: the board gives 30 s, and lets nobody else in meanwhile."""
IDLE_SECONDS = 3600.0
"""After so long without a key the board is free for others."""
FRAME_BYTES = 65536
"""A board cannot send longer ones."""
QUEUE = 4
"""Frames from the board that wait for the browser."""

# What MicroPython's WebREPL says, and what the boot stage adds (bootloader/webrepl_session.py).
_PROMPT, _DENIED, _WELCOME = b"Password: ", b"Access denied", b"WebREPL connected\r\n"
_WAIT = re.compile(rb"wrong passwords, wait (\d+) s\s*$")
_OVER = re.compile(rb"([0-9.]+) has taken over\s*$")
_TAIL = 128
"""Bytes; the last of what a board says tells why it closes."""


class Ended(Exception):
    """Why there is no connection, or no longer.

    Args:
        code: a word for the page.
        text: what happened, one sentence.
        hint: what to do next.
    """

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint


async def reach(address: str, name: str) -> ClientConnection:
    """A connection to the WebREPL at `address`, a numeric one; `name` is for messages.

    Raises:
        Ended: closed, unreachable or no-webrepl.
    """
    found = await _connected(address, name)
    try:
        return await connect(
            "ws://board/",
            sock=found,
            proxy=None,
            compression=None,
            user_agent_header=None,
            open_timeout=SHAKE_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=None,
            max_size=FRAME_BYTES,
            max_queue=QUEUE,
        )
    except TimeoutError as problem:
        raise Ended(
            "no-webrepl",
            f"{name} takes the connection at {address}, and says nothing.",
            "Its app may keep it too busy: reset it and connect at once.",
        ) from problem
    except (OSError, ValueError, EOFError, WebSocketException) as problem:
        raise Ended(
            "taken",
            f"{name} closes the connection at {address}.",
            "Somebody may be logging in there at this moment: try again soon.",
        ) from problem


async def _connected(address: str, name: str) -> socket.socket:
    version = ipaddress.ip_address(address).version
    found = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET)
    try:
        found.setblocking(False)
        keepalive.probe(found)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(found, (address, PORT))
    except BaseException as problem:
        found.close()
        if isinstance(problem, ConnectionRefusedError):
            raise Ended(
                "closed",
                f"The WebREPL of {name} is closed.",
                "A dev board opens it as soon as it has Wi-Fi, a production board by its button or"
                " an order signed by a debug key.",
            ) from problem
        if isinstance(problem, OSError):
            raise Ended(
                "unreachable",
                f"{name} cannot be reached at {address}.",
                "See that it has power and Wi-Fi.",
            ) from problem
        raise
    return found


class Relay:
    """Between `browser`, accepted, and `board`, connected; `name` is for messages."""

    def __init__(self, browser: WebSocket, board: ClientConnection, name: str) -> None:
        self._browser = browser
        self._board = board
        self._name = name
        self._said = b""
        self._patience: asyncio.Timeout | None = None
        self.logged_in = False

    async def run(self) -> None:
        """Pass on what comes from either side until the browser leaves.

        Raises:
            Ended: something else was the end.
        """
        ways = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in done:
            way.result()

    async def _up(self) -> None:
        while True:
            keys = await self._typed()
            if keys is None:
                return
            try:
                # Once it is closed the other way tells why, after what the board said last.
                with contextlib.suppress(ConnectionClosed):
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._board.send(keys, text=True)
            except TimeoutError as problem:
                raise Ended("stuck", f"{self._name} reads nothing.", "Reset it.") from problem

    async def _typed(self) -> bytes | None:
        """What was typed; None when the browser has left."""
        seconds = IDLE_SECONDS if self.logged_in else LOGIN_SECONDS
        try:
            async with asyncio.timeout(seconds) as self._patience:
                while True:
                    message = await self._browser.receive()
                    if message["type"] == "websocket.disconnect":
                        return None
                    if message.get("bytes"):
                        return message["bytes"]
        except TimeoutError as problem:
            if self.logged_in:
                text = f"Nothing was typed for {IDLE_SECONDS / 60:.0f} minutes."
                raise Ended("idle", text, f"{self._name} serves others meanwhile.") from problem
            raise Ended("silent", "No password was given in time.") from problem

    async def _down(self) -> None:
        while True:
            try:
                said = await self._board.recv(decode=False)
            except ConnectionClosed as problem:
                raise self._closed() from problem
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._browser.send_bytes(said)
                    self._said = (self._said + said)[-_TAIL:]
                    if not self.logged_in and _WELCOME in self._said:
                        await self._let_in()
            except TimeoutError as problem:
                raise Ended("slow", "The browser takes nothing more.") from problem

    async def _let_in(self) -> None:
        self.logged_in = True
        if self._patience and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + IDLE_SECONDS)
        await self._browser.send_json({"state": "open"})

    def _closed(self) -> Ended:
        """The board has closed: what it said last tells why."""
        over = _OVER.search(self._said)
        if over:
            text = f"{over[1].decode()} has taken this terminal over."
            return Ended("over", text, "Whoever logs in last has it.")
        if self.logged_in:
            return Ended("gone", f"The connection to {self._name} is lost.")
        if _DENIED in self._said:
            return Ended(
                "denied",
                f"{self._name} does not take this password.",
                "It is on the board's label: `mipy label`.",
            )
        wait = _WAIT.search(self._said)
        if wait:
            text = f"After wrong passwords {self._name} takes none for {int(wait[1])} s."
            return Ended("wait", text)
        if _PROMPT in self._said:
            return Ended("gone", f"The connection to {self._name} is lost.")
        return Ended(
            "taken",
            f"Somebody else is connected to the WebREPL of {self._name}.",
            "A board serves one at a time: close the other terminal.",
        )
