"""The air between a host and a virtual board, on which a board that goes says nothing.

A chip that resets, or loses its power or Wi-Fi, sends no FIN. What it had not sent yet is lost, and
only what comes later is answered: by RST, once it has started anew. The operating system of a
virtual board says FIN in its place, which this keeps back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mipy_ota.tools.board.webrepl import PORT

LAG = 0.04
"""Seconds for which the host's acknowledgement, and so the board's next segment, is late."""
_LOOK = 0.01
_OVER = 0.2
"""Seconds within which the end is noticed."""
# Of Linux' struct tcp_info: how many segments have come in, probes included.
_SEGMENTS_IN = struct.Struct("140xI")
_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: close() sends RST."""


@contextmanager
def air(here: str, board: str) -> Iterator[None]:
    """Connections to WebREPL at `here` go to `board`, and fall silent when it ends them."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server((here, PORT)) as door:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = door.accept()[0]
                    thread = threading.Thread(target=_pass_on, args=(client, board, over))
                    threads.append(thread)
                    thread.start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            door.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in threads:
                one.join()


def _pass_on(client: socket.socket, address: str, over: threading.Event) -> None:
    with client:
        try:
            board = socket.create_connection((address, PORT), 5)
        except OSError:
            _abort(client)
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with board, contextlib.suppress(OSError):
            if _talk(client, board, over):
                _be_silent(client, over)


def _talk(client: socket.socket, board: socket.socket, over: threading.Event) -> bool:
    """Pass bytes on, the board's a little late; whether it was the board that ended it."""
    late: list[tuple[float, bytes]] = []
    while not over.is_set():
        if late:
            # Slept through, for the board's clock to see that something is on its way to the host.
            due, said = late.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            client.sendall(said)
        ready = select.select([client, board], [], [], 0 if late else _OVER)[0]
        if board in ready:
            try:
                said = board.recv(65536)
            except OSError:
                said = b""
            if not said:
                return True  # what is late is lost
            late.append((time.monotonic() + LAG, said))
        if client in ready:
            keys = client.recv(65536)
            if not keys:
                return False
            with contextlib.suppress(OSError):
                board.sendall(keys)
    return False


def _be_silent(client: socket.socket, over: threading.Event) -> None:
    """Until something comes, be it a probe."""
    over.wait(LAG)  # acknowledgements that are on their way
    before = _segments_in(client)
    while not over.is_set():
        if select.select([client], [], [], _LOOK)[0] or _segments_in(client) != before:
            break
    _abort(client)


def _segments_in(client: socket.socket) -> int:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS_IN.size)
    return _SEGMENTS_IN.unpack(info)[0]


def _abort(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    client.close()
