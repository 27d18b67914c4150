"""The log: lines on the console, the last of them kept in RAM for reports.

Secrets do not belong into a log; nothing here can tell one from other text.
"""

import gc
import io
import sys
from micropython import const

_RING = const(768)  # bytes
_LINE = const(200)  # characters

level = 1  # 0 debug, 1 info, 2 warning, 3 error
up = 0  # seconds since the start, set by the loop
_ring = bytearray(_RING)
_at = 0  # the ring's oldest byte, written next


def _write(n, text, args):
    global _at
    if n < level:
        return
    line = "%d %s %s" % (up, "DIWE"[n], text % args if args else text)
    print(line)
    for part in line.split("\n"):
        b = (part[:_LINE] + "\n").encode()[:_RING]
        room = min(len(b), _RING - _at)
        _ring[_at : _at + room] = b[:room]
        _ring[: len(b) - room] = b[room:]
        _at = (_at + len(b)) % _RING


def debug(text, *args):
    _write(0, text, args)


def info(text, *args):
    _write(1, text, args)


def warning(text, *args):
    _write(2, text, args)


def error(text, *args):
    _write(3, text, args)


def trace(e):
    """Return the traceback of `e` as text."""
    try:
        out = io.StringIO()
        sys.print_exception(e, out)
        return out.getvalue().strip()  # pyright: ignore
    except MemoryError:
        gc.collect()
        return type(e).__name__


def tail():
    """Return the last lines as text, whole lines only."""
    b = bytes(_ring[_at:]) + bytes(_ring[:_at])
    return b[b.find(b"\n") + 1 :].decode() if b[0] else b.replace(b"\0", b"").decode()
