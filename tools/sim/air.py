"""The air between a host and a virtual board's WebREPL, on which a board that goes says nothing.

A chip that resets, or loses its power or Wi-Fi, sends no FIN. What it had not sent yet is lost, and
only what comes later is answered, by RST. The operating system, which owns a virtual board's
sockets, says FIN in its place: this keeps it back. And of what the board says the first two bytes,
the head of a frame, go out at once, the rest only with the host's acknowledgement, which is late:
stock WebREPL sends the two apart, with Nagle's algorithm on.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

PORT = 8266
SHIFT = 10_000
"""Behind the air the board listens so much higher."""
LAG = 0.04
"""Seconds by which the host's acknowledgement is late (Linux, TCP_DELACK_MIN)."""
_HEAD = 2
_LOOK = 0.01
# Of Linux' struct tcp_info: how many segments have come in, probes included.
_SEGMENTS_IN = struct.Struct("140xI")
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: close() sends RST."""


class Air:
    """Takes connections to WebREPL at `address` until it is closed.

    Raises:
        OSError: somebody listens there.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._over, self._end = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._door = socket.create_server((address, PORT))
        self._run(self._serve)

    def close(self) -> None:
        """Let go of all connections."""
        self._end.close()
        for thread in self._threads:  # while it grows, at most by one
            thread.join()
        self._door.close()
        self._over.close()

    def _run(self, what: object, *words: object) -> None:
        thread = threading.Thread(target=what, args=words, daemon=True)  # pyright: ignore
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while self._door in self._ready(self._door):
            self._run(self._pass_on, self._door.accept()[0])

    def _ready(self, *sockets: socket.socket, timeout: float | None = None) -> list[socket.socket]:
        """Which of them have something; none of them once all is over."""
        ready = select.select([*sockets, self._over], [], [], timeout)[0]
        return [] if self._over in ready else ready

    def _pass_on(self, client: socket.socket) -> None:
        with client:
            try:
                board = socket.create_connection((self._address, PORT + SHIFT), 5)
            except OSError:
                _abort(client)
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            board.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with board, contextlib.suppress(OSError):
                # One that goes has closed the socket by which it listens before this one.
                if self._talk(client, board) and not _listens(self._address, PORT + SHIFT):
                    self._be_silent(client)

    def _talk(self, client: socket.socket, board: socket.socket) -> bool:
        """Pass bytes on, the board's a little late; whether it was the board that ended it."""
        while ready := self._ready(client, board):
            if board in ready:
                said = _received(board)
                if not said:
                    return True
                client.sendall(said[:_HEAD])
                time.sleep(LAG)  # sim/clock.py sees that, and the board's time does not skip
                if _has_ended(board) and not _listens(self._address, PORT + SHIFT):
                    return True  # the rest is lost
                client.sendall(said[_HEAD:])
            if client in ready:
                keys = client.recv(65536)
                if not keys:
                    return False
                with contextlib.suppress(OSError):
                    board.sendall(keys)
        return False

    def _be_silent(self, client: socket.socket) -> None:
        """Until something comes, be it a probe."""
        time.sleep(LAG)  # acknowledgements that are on their way
        before = _segments_in(client)
        while not self._ready(client, timeout=0) and _segments_in(client) == before:
            if self._over in select.select([self._over], [], [], 0)[0]:
                return
            time.sleep(_LOOK)
        _abort(client)


def _received(board: socket.socket, flags: int = 0) -> bytes:
    try:
        return board.recv(65536, flags)
    except OSError:
        return b""


def _has_ended(board: socket.socket) -> bool:
    return bool(select.select([board], [], [], 0)[0]) and not _received(board, socket.MSG_PEEK)


def _listens(address: str, port: int) -> bool:
    """Whether anybody does (proc_pid_net(5): addresses as the CPU has them, state 0A)."""
    packed = int.from_bytes(IPv4Address(address).packed, "little")
    wanted = [f"{packed:08X}:{port:04X}", "0A"]
    rows = Path("/proc/net/tcp").read_text().splitlines()
    return any([row.split()[1], row.split()[3]] == wanted for row in rows)


def _segments_in(client: socket.socket) -> int:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS_IN.size)
    return _SEGMENTS_IN.unpack(info)[0]


def _abort(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    client.close()
