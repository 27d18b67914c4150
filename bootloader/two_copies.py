"""A small file in two copies, /state/0/<name> and /state/1/<name>: old or new after a power cut."""

from hashlib import sha256


def _path(name, copy):
    return "/state/%d/%s" % (copy, name)


def _read(name, copy, key):
    try:
        with open(_path(name, copy), "rb") as f:
            # read() asks the heap for as much as it may get, in one piece.
            size = f.seek(0, 2)
            f.seek(0)
            raw = f.read(min(size, 2048))
    except OSError:
        return None
    return raw[8:] if len(raw) > 8 and sha256(key + raw[8:]).digest()[:8] == raw[:8] else None


def load(name, key=b""):
    """Return the content of the first whole copy, or None. Under another `key` none is whole."""
    content = _read(name, 0, key)
    return _read(name, 1, key) if content is None else content


def _write(name, copy, content, key):
    f = open(_path(name, copy), "wb")
    try:
        f.write(sha256(key + content).digest()[:8] + content)
    finally:
        f.close()


def store(name, content, key=b""):
    """Write both copies, one after the other; a copy that is right already is left alone."""
    first = _read(name, 0, key)
    if first is not None and _read(name, 1, key) != first:
        # What holds now must stand in both before one is overwritten.
        _write(name, 1, first, key)
    for copy in (0, 1):
        if _read(name, copy, key) != content:
            _write(name, copy, content, key)
