"""Answers the requests to runtime.web; loaded while there are some.

A generator for each client, which waits at its socket alone. One that is slow, huge or mad costs
itself: what is kept of a request is bounded, and so is its time.
"""

import gc
import io
import json
from asyncio import sleep_ms
from binascii import a2b_base64, unhexlify
from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

import ota
from runtime import log

_CLIENTS = const(2)  # of the five connections that an ESP8266 has in all
_STAY = const(25)  # turns of 20 ms without a client after which this is over
_MOST = const(8000)  # ms for a request ...
_CROWD = const(200)  # ... while others wait, ...
_ANSWER = const(3000)  # and so much more for the answer
_LINES = const(4096)  # bytes before the body
_LINE = const(65)  # bytes kept of a line: after `authorization: Basic ` whole words of base64
_BODY = const(1024)

_HEAD = (
    b"HTTP/1.1 %d \r\nconnection:close\r\nx-frame-options:DENY\r\n"
    b"cache-control:%s\r\ncontent-type:%s;charset=utf-8\r\n\r\n"
)


async def serve(web):
    """Serve until nobody is left."""
    clients = []  # [when it came, the generator that serves it]
    left = _STAY
    while left:
        left = _STAY if clients else left - 1
        waiting = web.poll.poll(0)
        most = _CROWD if waiting and len(clients) == _CLIENTS else _MOST
        for client in list(clients):
            if not next(client[1], False) or ticks_diff(ticks_ms(), client[0]) > most:
                client[1].close()
                clients.remove(client)
                gc.collect()
        if waiting and len(clients) < _CLIENTS:
            client = [ticks_ms()]
            client.append(_client(web, web.door.accept()[0], client))
            clients.append(client)
        await sleep_ms(20)
    # The collector takes what an old stack frame left behind for a reference.
    globals().clear()


def _client(web, s, client):
    """Serve the client at socket `s`; yields True whenever that has to wait."""
    f = None
    try:
        s.setblocking(False)
        left = _LINES
        seen = {}
        while True:
            line = part = yield from _read(s.readline)
            while part[-1] != 10 and left > 0:
                part = yield from _read(s.readline)
                line = (line + part)[:_LINE]
                left -= len(part)
            left -= len(line)
            words = line.split()
            if not words:
                break
            word = words[0].lower()
            if b" %s " % word in b" get post host: content-length: authorization: ":
                seen[word] = words
            if left < 0:
                return
        body = b""
        left = int(seen.get(b"content-length:", (0, 0))[1])
        while len(body) < left <= _BODY:
            body += yield from _read(s.read, left - len(body))
        client[0] = ticks_add(ticks_ms(), _ANSWER)
        status, f, cache, kind = _answer(web, seen, body)
        values = status == 200 and kind == b"text/html" and web.values()
        part = _HEAD % (status, cache, kind)
        while part:
            while part:
                n = s.write(part)
                if n is None:
                    yield True
                else:
                    part = part[n:]
            part = _filled(web, f.readline(), values) if values else f.read(256)  # pyright: ignore
    except (LookupError, MemoryError, OSError, ValueError):
        pass  # gone, or no browser
    except Exception as e:
        log.error("web failed\n%s", log.trace(e))
    finally:
        s.close()
        if f:
            f.close()  # pyright: ignore


def _read(read, most=_LINE):
    """Return what `read` has, at most so many bytes."""
    while True:
        part = read(most)
        if part:
            return part
        if part is not None:
            raise OSError
        yield True


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
        return _posted(web, path[1:].decode(), body)
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


def _posted(web, name, body):
    form = web.forms.get(name)
    fields = {}
    for field in body.split(b"&"):
        key, value = field.split(b"=")
        parts = value.replace(b"+", b" ").split(b"%")
        for i in range(1, len(parts)):
            parts[i] = unhexlify(parts[i][:2]) + parts[i][2:]
        fields[key.decode()] = b"".join(parts).decode()
    if not form:
        return _note(404, "Not found")
    if fields.get("t") != web.token:
        return _note(403, "That page was out of date")
    try:
        form(fields)
    except ValueError as e:
        return _note(400, e)
    return _note(303, "", b"no-store\r\nlocation:/")


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
