"""The rules of manifests, applied to every line before anything is believed.

A file is read line by line, never as a whole. docs/protocol.md has the rules under "Manifest"; the
signer and the server apply the same ones (signing/).
"""

from micropython import const

from bootloader.manifest import Rejected, is_hex

_LINE = const(160)
_FILES = const(64)
_ENTRIES = const(32)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-"


def number(text):
    """Return the decimal number in `text`, without leading zeros and below 2**31."""
    if not text.isdigit() or len(text) > 10 or (text[0] == "0" and text != "0"):
        raise Rejected("syntax")
    n = int(text)
    if n >> 31:
        raise Rejected("syntax")
    return n


def name(text):
    """Return `text` when it is a path inside a slot: allowed letters, none hidden or climbing."""
    path = "/" + text + "/"
    if len(text) > 64 or ".." in path or "/." in path or "//" in path:
        raise Rejected("name")
    for c in text:
        if c not in _LETTERS:
            raise Rejected("name")
    return text


def word(text):
    """Return `text` if it is a name, never a path: of an app, a class, an entry."""
    if "/" in text:
        raise Rejected("name")
    return name(text)


class LineReader:
    """The lines of the signed part, each of the form `<key> <value>`."""

    def __init__(self, f, longest=_LINE):
        self._f = f
        self._longest = longest
        self.key = self.value = ""
        self.next()

    def next(self):
        line = self._f.readline(self._longest + 1)
        if line[-1:] != b"\n" or len(line) > self._longest:
            raise Rejected("syntax")
        for c in line[:-1]:
            if not 32 <= c < 127:
                raise Rejected("syntax")
        line = line[:-1].decode()
        i = line.find(" ")
        if i == len(line) - 1:
            raise Rejected("syntax")
        self.key = line if i < 0 else line[:i]
        self.value = "" if i < 0 else line[i + 1 :]

    def expect(self, key):
        """Return the value of the current line, which must have `key`, and go on."""
        value = self.value
        if self.key != key or not value:
            raise Rejected("syntax")
        self.next()
        return value


def check_manifest(f):
    """Hold the manifest in the open file `f` against every rule. Raises Rejected."""
    lines = LineReader(f)
    if lines.expect("ota-manifest") != "1":
        raise Rejected("syntax")
    word(lines.expect("app"))
    word(lines.expect("class"))
    seq = number(lines.expect("seq"))
    if number(lines.expect("floor")) > seq:
        raise Rejected("floor")
    mpy = lines.expect("mpy").split(".")
    if len(mpy) != 2:
        raise Rejected("syntax")
    number(mpy[0])
    number(mpy[1])
    if lines.key == "arch":
        word(lines.expect("arch"))
    start = word(lines.expect("entry"))
    left = number(lines.expect("total"))
    count = 0
    last = ""
    claims = []
    dirs = [["", 0]]  # the folder we are in and its parents, each with its entries so far
    entry = False
    while lines.key == "file":
        parts = lines.value.split(" ")
        count += 1
        if len(parts) != 3 or len(parts[2]) != 64 or not is_hex(parts[2]):
            raise Rejected("syntax")
        if count > _FILES:
            raise Rejected("syntax")
        path = name(parts[0])
        size = number(parts[1])
        if (path + "/").startswith("manifest/"):
            raise Rejected("name")
        if path <= last:
            raise Rejected("syntax")
        _claim(claims, path)
        if path in (start + ".py", start + ".mpy"):
            entry = True
        _count_entries(dirs, path)
        left -= size
        last = path
        lines.next()
    if left or not entry:
        raise Rejected("syntax")
    lines.expect("note")
    while lines.key.startswith("x-") and len(lines.key) > 2 and lines.value:
        lines.next()
    if lines.key != "end" or lines.value:
        raise Rejected("syntax")


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
            raise Rejected("name")
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
            raise Rejected("syntax")
        i = path.find("/", len(here[0]))
        if i < 0:
            return
        dirs.append([path[: i + 1], 0])
