"""The rules of manifests and trust files, applied to every line before anything is believed.

Nothing here holds a file: it is read line by line. The rules stand in docs/architecture.md; the
signer and the server apply the same ones (signing/).
"""

from micropython import const

from bootloader.lines import Refused, is_hex

_LINE = const(160)
_FILES = const(64)
_ENTRIES = const(32)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-"


def number(text):
    """Return the decimal number in `text`, without leading zeros and below 2**31."""
    if not text.isdigit() or len(text) > 10 or (text[0] == "0" and text != "0"):
        raise Refused("syntax")
    n = int(text)
    if n >> 31:
        raise Refused("syntax")
    return n


def name(text):
    """Return `text` when it is a path inside a slot: allowed letters, none hidden or climbing."""
    path = "/" + text + "/"
    if len(text) > 64 or ".." in path or "/." in path or "//" in path:
        raise Refused("name")
    for c in text:
        if c not in _LETTERS:
            raise Refused("name")
    return text


def word(text):
    """Return `text` when it is a name that is no path: of an app, a class, an entry."""
    if "/" in text:
        raise Refused("name")
    return name(text)


class Lines:
    """The lines of the signed part, each of the form `<key> <value>`."""

    def __init__(self, f, longest=_LINE):
        self._f = f
        self._longest = longest
        self.key = self.value = ""
        self.next()

    def next(self):
        line = self._f.readline(self._longest + 1)
        if line[-1:] != b"\n" or len(line) > self._longest:
            raise Refused("syntax")
        for c in line[:-1]:
            if not 32 <= c < 127:
                raise Refused("syntax")
        line = line[:-1].decode()
        i = line.find(" ")
        if i == len(line) - 1:
            raise Refused("syntax")
        self.key = line if i < 0 else line[:i]
        self.value = "" if i < 0 else line[i + 1 :]

    def take(self, key):
        """Return the value of the current line, which must have `key`, and go on."""
        value = self.value
        if self.key != key or not value:
            raise Refused("syntax")
        self.next()
        return value


def manifest(f):
    """Hold the manifest in the open file `f` against every rule. Raises Refused."""
    lines = Lines(f)
    if lines.take("ota-manifest") != "1":
        raise Refused("syntax")
    word(lines.take("app"))
    word(lines.take("class"))
    seq = number(lines.take("seq"))
    if number(lines.take("floor")) > seq:
        raise Refused("floor")
    mpy = lines.take("mpy").split(".")
    if len(mpy) != 2:
        raise Refused("syntax")
    number(mpy[0])
    number(mpy[1])
    if lines.key == "arch":
        word(lines.take("arch"))
    start = word(lines.take("entry"))
    left = number(lines.take("total"))
    count = 0
    last = ""
    claims = []
    dirs = [["", 0]]  # the folder we are in and its parents, each with its entries so far
    entry = False
    while lines.key == "file":
        parts = lines.value.split(" ")
        count += 1
        if len(parts) != 3 or len(parts[2]) != 64 or not is_hex(parts[2]):
            raise Refused("syntax")
        if count > _FILES:
            raise Refused("syntax")
        path = name(parts[0])
        size = number(parts[1])
        if (path + "/").startswith("manifest/"):
            raise Refused("name")
        if path <= last:
            raise Refused("syntax")
        _claim(claims, path)
        if path in (start + ".py", start + ".mpy"):
            entry = True
        _count_entries(dirs, path)
        left -= size
        last = path
        lines.next()
    if left or not entry:
        raise Refused("syntax")
    lines.take("note")
    while lines.key.startswith("x-") and len(lines.key) > 2 and lines.value:
        lines.next()
    if lines.key != "end" or lines.value:
        raise Refused("syntax")


def _claim(claims, path):
    """Refuse x.py beside x.mpy, and x or a module x beside the folder x.

    `claims` are those paths and stems of earlier files that `path` begins with. Files are sorted,
    so what it does not begin with will not come again.
    """
    while claims and not path.startswith(claims[-1][0]):
        claims.pop()
    for begin, module in claims:
        rest = path[len(begin) :]
        if rest[0] == "/" or (module and rest == ".py"):
            raise Refused("name")
    if path.endswith(".mpy") or path.endswith(".py"):
        claims.append((path[: path.rfind(".")], True))
    claims.append((path, False))


def _count_entries(dirs, path):
    while not path.startswith(dirs[-1][0]):
        dirs.pop()
    while True:
        here = dirs[-1]
        here[1] += 1
        if here[1] > _ENTRIES:
            raise Refused("syntax")
        i = path.find("/", len(here[0]))
        if i < 0:
            return
        dirs.append([path[: i + 1], 0])
