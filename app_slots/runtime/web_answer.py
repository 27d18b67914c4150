"""Finds the answer to a request to runtime.web; loaded for that moment."""

import io
import json
from binascii import a2b_base64, unhexlify

import ota

_HEAD = (
    b"HTTP/1.1 %d \r\nconnection:close\r\nx-frame-options:DENY\r\ncache-control:no-store\r\n"
    b"content-type:%s;charset=utf-8\r\n%s\r\n"
)


def answer(site, seen, body):
    """Return head, stream, token and values, as web_io.send() takes them.

    `seen` and `body` are what web_io.read() returns.
    """
    values, forms, password, token = site
    none = (b"",)
    post = seen.get(b"post")
    path = (post or seen.get(b"get", none))[0].split(b"?")[0]
    # A name that anybody could own may be a foreign page's, pointed at this board meanwhile.
    name = seen.get(b"host:", none)[0].split(b":")[0].lower()
    # One that fills the line may go on behind what web_io.py has kept.
    if len(name) > 58 or (
        name.strip(b"0123456789.") and name.split(b".")[-1] not in (name, b"local", b"lan")
    ):
        return _note(403)
    if password and not _fits(seen.get(b"authorization:", none)[-1], password):
        return _note(401, more=b"www-authenticate:Basic realm=board\r\n")
    if post:
        return _posted(forms, path[1:], body, token)
    if path == b"/":
        path = b"/index.html"
    end = path.split(b".")[-1]
    kind = b"image/" if end in (b"png", b"svg", b"ico", b"jpg", b"gif", b"webp") else b"text/"
    kind += {b"js": b"javascript", b"svg": b"svg+xml", b"jpg": b"jpeg"}.get(end, end)
    head = _HEAD % (200, kind, b"")
    if path == b"/values.json":
        shown = values()
        for key, value in shown.items():
            if isinstance(value, float) and value - value != 0:
                shown[key] = None  # nan and infinity are no JSON: a page would get nothing at all
        return head, io.BytesIO(json.dumps(shown).encode()), token, None
    try:
        if path[:1] != b"/" or b"/." in path or b"\0" in path:
            raise OSError
        f = open(b"/app_slots/%s/www%s" % (ota.slot, path), "rb")
    except (OSError, UnicodeError):
        return _note(404)
    return head, f, token, values() if kind == b"text/html" else None


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
        if fields.pop("t", "") != token:
            return _note(403, "That page was out of date")
        form = forms.get(name.decode())
        if not form:
            return _note(404)
        form(fields)
    except (KeyError, ValueError) as e:
        return _note(400, e)
    return _note(303, more=b"location:/\r\n")


def _note(status, text=None, more=b""):
    head = _HEAD % (status, b"text/html", more)
    return head, io.BytesIO(b"$text$ <a href=/>Back</a>"), "", {"text": text or status}
