"""Addresses and ports of this process's own: two test runs, or two workers of one, never share any.

All of 127.0.0.0/8 is this machine. A process takes the first free one of 254 blocks, 127.N.0.0/16,
and holds it by a socket until it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from functools import cache

_HOLDER = 20_127  # the port, on a block's first address, by which it is held
_PORTS, _EACH = 10_000, 64
_ports = itertools.count()


def address() -> str:
    """An address that was never handed out before; all its ports are free."""
    block, numbers, _ = _block()
    number = next(numbers)
    return f"127.{block}.{number >> 8}.{number & 255}"


def port() -> int:
    """A free port of 127.0.0.1 for a program that must be told one.

    Below those that the kernel gives to whoever names none, so that nobody gets it meanwhile.
    """
    block, _, _ = _block()
    while True:
        number = _PORTS + block * _EACH + next(_ports) % _EACH
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number


@cache
def _block() -> tuple[int, itertools.count[int], socket.socket]:
    for block in range(1, 255):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            holder.bind((f"127.{block}.0.1", _HOLDER))
        except OSError:
            holder.close()
            continue
        return block, itertools.count(2), holder
    raise OSError("every block of loopback addresses is taken")


# A forked process shares the socket, not the count: it takes a block of its own.
os.register_at_fork(after_in_child=_block.cache_clear)
