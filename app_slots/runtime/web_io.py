"""Reads a request to runtime.web, and sends the answer; loaded for either.

All that is kept is one request, and of that so much. Who is slow, huge or mad is dropped, at once
where others wait.
"""

from asyncio import sleep_ms
from micropython import const
from time import ticks_diff, ticks_ms

_MOST = const(8000)  # ms for a request, and for the answer
_ASKS = const(200)  # ms for a request while others wait
_TAKES = const(2000)  # ms for an answer while others wait
_LINES = const(4096)  # bytes before the body
_LINE = const(65)  # bytes kept of a line: after `authorization: Basic ` whole words of base64
_BODY = const(1024)


async def _wait(poll, begin, crowd):
    """Wait a little. Raises OSError when it has been too long since `begin`."""
    age = ticks_diff(ticks_ms(), begin)
    if age > _MOST or age > crowd and poll.poll(0):
        raise OSError
    await sleep_ms(20)


async def read(s, poll):
    """Return (the words of the lines that matter by the first of them, body); None for no request.

    Raises OSError when the peer is gone, or takes too long.
    """
    begin = ticks_ms()
    seen = {}
    line = body = b""
    left = _LINES
    n = -1  # length of the body, once the lines before it are over
    while n < 0 or n > len(body):
        part = s.readline(_LINE) if n < 0 else s.read(n - len(body))
        if not part:
            if part is not None:
                return None
            await _wait(poll, begin, _ASKS)
        elif n >= 0:
            body += part
        else:
            left -= len(part)
            line = (line + part)[:_LINE]
            if part[-1] == 10:
                words = line.split()
                line = b""
                if words:
                    word = words[0].lower()
                    if b" %s " % word in b" get post host: content-length: authorization: ":
                        seen[word] = words[1:] or (b"",)
                else:
                    n = b"".join(seen.get(b"content-length:", (b"0",)))
                    n = int(n) if n.isdigit() else _BODY + 1
            if left < 0 or n > _BODY:
                return None
    return seen, body


async def send(s, poll, head, f, token, values):
    """Send `head` and what is in the stream `f`, with values in its $places$ where there are any.

    Raises OSError when the peer is gone, or takes too long.
    """
    begin = ticks_ms()
    try:
        while head:
            n = s.write(head)
            if n is None:
                await _wait(poll, begin, _TAKES)
            else:
                head = head[n:]
                if not head:
                    head = f.read(256) if values is None else _filled(f.readline(), token, values)
    finally:
        f.close()


def _filled(line, token, values):
    words = line.split(b"$")
    for i in range(1, len(words), 2):
        name = words[i].decode()
        words[i] = _escaped(token if name == "token" else values.get(name, "?")) if name else b"$"
    return b"".join(words)


def _escaped(value):
    """Return anything as HTML text, without markup."""
    text = "-" if value is None else str(value)
    for c in "&<>\"'":
        text = text.replace(c, "&#%d;" % ord(c))
    return text.encode()
