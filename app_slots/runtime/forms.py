"""Takes what a page of runtime.web posts; loaded for that moment."""

from binascii import unhexlify


def posted(web, name, body):
    """Give the fields of `body` to the app's form `name`; return status, text, further head.

    Raises ValueError for a body that is no form (application/x-www-form-urlencoded).
    """
    form = web.forms.get(name)
    fields = {}
    for field in body.split(b"&"):
        key, value = field.split(b"=")
        parts = value.replace(b"+", b" ").split(b"%")
        for i in range(1, len(parts)):
            parts[i] = unhexlify(parts[i][:2]) + parts[i][2:]
        fields[key.decode()] = b"".join(parts).decode()
    if not form:
        return 404, "Not found"
    if fields.get("t") != web.token:
        return 403, "That page was out of date"
    try:
        form(fields)
    except ValueError as e:
        return 400, e
    return 303, "", b"no-store\r\nlocation:/"
