"""Finds the answer to a request to runtime.web; loaded for that moment."""

import io
import json
from binascii import a2b_base64, unhexlify

import ota

_HEAD = (
    b"HTTP/1.1 %d \r\nconnection:close\r\nx-frame-options:DENY\r\n"
    b"cache-control:%s\r\ncontent-type:%s;charset=utf-8\r\n\r\n"
)


def answer(site, seen, body):
    """Return head, stream, token and values, as pages.send() takes them.

    `seen` and `body` are what pages.read() returns. Raises ValueError for what no browser sends.
    """
    values, forms, password, token = site
    post = seen.get(b"post")
    path = (post or seen.get(b"get", (b"\0",)))[0].split(b"?")[0]
    # A name that anybody could own may be a foreign page's, pointed at this board meanwhile.
    name = seen.get(b"host:", (b"",))[0].split(b":")[0].lower()
    if name.strip(b"0123456789.") and name.split(b".")[-1] not in (name, b"local", b"lan"):
        return _note(403, "Wrong host")
    if password and not _fits(seen.get(b"authorization:", (b"",))[-1], password):
        return _note(401, "Wrong password", b"no-store\r\nwww-authenticate:Basic realm=board")
    if post:
        return _posted(forms, path[1:], body, token)
    if path == b"/values":
        f = io.BytesIO(json.dumps(values()).encode())
        return _HEAD % (200, b"no-store", b"application/json"), f, token, None
    if path == b"/":
        path = b"/index.html"
    try:
        if path[:1] != b"/" or b"/." in path or b"\0" in path:
            raise OSError
        f = open(b"/app_slots/%s/www%s" % (ota.slot, path), "rb")
    except (OSError, UnicodeError):
        return _note(404, "Not found")
    kind = path.split(b".")[-1]
    if kind == b"html":
        return _HEAD % (200, b"no-store", b"text/html"), f, token, values()
    kind = b"image/svg+xml" if kind == b"svg" else b"text/" + kind
    return _HEAD % (200, b"max-age=600", kind), f, token, None


def _fits(key, password):
    try:
        return a2b_base64(key).split(b":", 1)[1] == password
    except (IndexError, ValueError):
        return False


def _posted(forms, name, body, token):
    try:
        fields = {}
        for field in body.split(b"&"):
            key, value = field.split(b"=")
            parts = value.replace(b"+", b" ").split(b"%")
            for i in range(1, len(parts)):
                parts[i] = unhexlify(parts[i][:2]) + parts[i][2:]
            fields[key.decode()] = b"".join(parts).decode()
        form = forms.get(name.decode())
        if not form:
            return _note(404, "Not found")
        if fields.pop("t", "") != token:
            return _note(403, "That page was out of date")
        form(fields)
    except (KeyError, ValueError) as e:
        return _note(400, e)
    return _note(303, "", b"no-store\r\nlocation:/")


def _note(status, text, cache=b"no-store"):
    f = io.BytesIO(b"$text$ <a href=/>Back</a>")
    return _HEAD % (status, cache, b"text/html"), f, "", {"text": text}
