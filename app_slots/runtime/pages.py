"""Answers the requests to runtime.web; loaded while there are some.

One client after the other: all that is kept is one request, and of that so much. Who is slow, huge
or mad is dropped, at once where others wait.
"""

import gc
import io
import json
from asyncio import sleep_ms
from binascii import a2b_base64
from micropython import const
from time import ticks_diff, ticks_ms

import ota
import runtime
from runtime import log

_STAY = const(25)  # turns of 20 ms without a client after which this is over
_MOST = const(8000)  # ms for a request, and for the answer
_ASKS = const(200)  # ms for a request while others wait
_TAKES = const(2000)  # ms for an answer while others wait
_LINES = const(4096)  # bytes before the body
_LINE = const(65)  # bytes kept of a line: after `authorization: Basic ` whole words of base64
_BODY = const(1024)
_HEAD = (
    b"HTTP/1.1 %d \r\nconnection:close\r\nx-frame-options:DENY\r\n"
    b"cache-control:%s\r\ncontent-type:%s;charset=utf-8\r\n\r\n"
)


async def serve(web):
    """Serve until nobody is left."""
    left = _STAY
    while left:
        left -= 1
        if web.poll.poll(0):
            left = _STAY
            s = web.door.accept()[0]
            try:
                s.setblocking(False)
                await _client(web, s)
            except (LookupError, MemoryError, OSError, ValueError):
                pass  # gone, or no browser
            except Exception as e:
                log.error("web failed\n%s", log.trace(e))
            finally:
                s.close()
            gc.collect()
        await sleep_ms(20)
    # The collector takes what an old stack frame left behind for a reference.
    globals().clear()


async def _wait(web, begin, crowd):
    """Wait a little. Raises OSError when it has been too long since `begin`."""
    age = ticks_diff(ticks_ms(), begin)
    if age > _MOST or age > crowd and web.poll.poll(0):
        raise OSError
    await sleep_ms(20)


async def _client(web, s):
    begin = ticks_ms()
    seen = {}  # the words of the lines that matter, by the first of them
    line = body = b""
    left = _LINES
    n = -1  # length of the body, once the lines before it are over
    while n < 0 or n > len(body):
        part = s.readline(_LINE) if n < 0 else s.read(n - len(body))
        if not part:
            if part is not None:
                raise OSError
            await _wait(web, begin, _ASKS)
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
                        seen[word] = words
                else:
                    n = int(seen.get(b"content-length:", (0, 0))[1])
            if left < 0 or n > _BODY:
                raise OSError
    begin = ticks_ms()
    status, f, cache, kind = _answer(web, seen, body)
    try:
        values = status == 200 and kind == b"text/html" and web.values()
        part = _HEAD % (status, cache, kind)
        while part:
            n = s.write(part)
            if n is None:
                await _wait(web, begin, _TAKES)
            else:
                part = part[n:] or (_filled(web, f.readline(), values) if values else f.read(256))
    finally:
        f.close()


def _answer(web, seen, body):
    """Return status, stream, how to cache it, type."""
    post = seen.get(b"post")
    path = (post or seen[b"get"])[1].split(b"?")[0]
    # A name that anybody could own may be a foreign page's, pointed at this board meanwhile.
    name = seen.get(b"host:", (0, b""))[1].split(b":")[0].lower()
    if name.strip(b"0123456789.") and name.split(b".")[-1] not in (name, b"local", b"lan"):
        return _note(403, "Wrong host")
    if web.password:
        key = a2b_base64(seen.get(b"authorization:", (b"Og==",))[-1])
        if key.split(b":", 1)[1] != web.password:
            return _note(401, "Wrong password", b"no-store\r\nwww-authenticate:Basic realm=board")
    if post:
        return _note(*runtime.lend("forms").posted(web, path[1:].decode(), body))
    if path == b"/values":
        f = io.BytesIO(json.dumps(web.values()).encode())
        return 200, f, b"no-store", b"application/json"
    if path == b"/":
        path = b"/index.html"
    try:
        if path[:1] != b"/" or b"/." in path or b"\0" in path:
            raise OSError
        f = open("/app_slots/%s/www%s" % (ota.slot, path.decode()), "rb")
    except OSError:
        return _note(404, "Not found")
    kind = path.split(b".")[-1]
    if kind == b"html":
        return 200, f, b"no-store", b"text/html"
    return 200, f, b"max-age=600", b"image/svg+xml" if kind == b"svg" else b"text/" + kind


def _note(status, text, more=b"no-store"):
    f = io.BytesIO(_escaped(text) + b" <a href=/>Back</a>")
    return status, f, more, b"text/html"


def _filled(web, line, values):
    """Return a page's line with values in its $places$."""
    words = line.split(b"$")
    for i in range(1, len(words), 2):
        name = words[i].decode()
        value = web.token if name == "token" else values.get(name, "?")
        words[i] = _escaped(value) if name else b"$"
    return b"".join(words)


def _escaped(value):
    """Return anything as HTML text, without markup."""
    text = "-" if value is None else str(value)
    for c in "&<>\"'":
        text = text.replace(c, "&#%d;" % ord(c))
    return text.encode()
