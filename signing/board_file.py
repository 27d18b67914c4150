"""Board files: what one board is, written over the cable and never by a release.

1. At most 2048 bytes, lines as in ``envelope``; it is not signed, it holds the board's secrets.
2. The keys stand in this order: ``ota-board 1``, fleet, id, name (0 or 1), app, class, key,
   server (0 to 3), webrepl, portal and dev (0 or 1 each), ``end <first 8 hex digits of the SHA-256
   of all lines before>``. The board reads on from the third line.
3. ``key`` is the device key, 32 bytes as hex. ``dev`` is base64 of a dev key's n.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256

from . import envelope, limits
from .envelope import Lines
from .reasons import Refused
from .rsa import PublicKey

HEADER = "ota-board 1"
_DEVICE_KEY = re.compile(r"[0-9a-f]{64}")
_PASSWORD = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Board:
    """A board file, understood. ``cls`` is the class; ``key`` the 32-byte device key."""

    fleet: str
    id: str
    app: str
    cls: str
    key: bytes = field(repr=False)
    name: str | None = None
    servers: tuple[str, ...] = ()
    webrepl: str | None = field(default=None, repr=False)
    portal: str | None = field(default=None, repr=False)
    dev: PublicKey | None = None

    def encode(self) -> bytes:
        """The whole file. Raises Refused when a value breaks a rule."""
        lines = [
            HEADER,
            f"fleet {self.fleet}",
            f"id {self.id}",
            *([f"name {self.name}"] if self.name else []),
            f"app {self.app}",
            f"class {self.cls}",
            f"key {self.key.hex()}",
            *(f"server {url}" for url in self.servers),
            *([f"webrepl {self.webrepl}"] if self.webrepl else []),
            *([f"portal {self.portal}"] if self.portal else []),
            *([f"dev {self.dev.text}"] if self.dev else []),
        ]
        try:
            body = "".join(f"{line}\n" for line in lines).encode("ascii")
        except UnicodeEncodeError as error:
            raise Refused("syntax", "a board file holds plain ASCII only") from error
        raw = body + b"end %s\n" % _checksum(body)
        parse(raw)
        return raw


def parse(raw: bytes) -> Board:
    """Understand a board file.

    Raises:
        Refused: ``size``, ``hash`` when the checksum is wrong, ``syntax`` or ``name``.
    """
    if len(raw) > limits.BOARD_BYTES:
        raise Refused("size", f"{len(raw)} bytes, {limits.BOARD_BYTES} are allowed")
    body, mark, checksum = raw.rpartition(b"\nend ")
    body += b"\n"
    if not mark:
        raise Refused("syntax", "there is no line 'end'")
    if checksum != _checksum(body) + b"\n":
        raise Refused("hash", "the checksum in the last line is wrong")
    return _understand(Lines(body + b"end\n"))


def _checksum(body: bytes) -> bytes:
    return sha256(body).hexdigest()[:8].encode()


def _understand(lines: Lines) -> Board:
    if lines.line() != HEADER:
        raise Refused("syntax", f"the first line is not '{HEADER}'")
    fleet = envelope.word(lines.value("fleet"))
    board_id = envelope.word(lines.value("id"))
    name = envelope.word(lines.value("name")) if lines.peek() == "name" else None
    app = envelope.word(lines.value("app"))
    cls = envelope.word(lines.value("class"))
    key = lines.value("key")
    if not _DEVICE_KEY.fullmatch(key):
        raise Refused("syntax", "the device key is not 64 lower-case hex digits")
    servers: list[str] = []
    while lines.peek() == "server":
        servers.append(envelope.address(lines.value("server")))
    if len(servers) > limits.BOARD_SERVERS:
        raise Refused("syntax", f"more than {limits.BOARD_SERVERS} servers")
    webrepl = _password(lines, "webrepl", range(1, limits.WEBREPL_PASSWORD_BYTES + 1))
    portal = _password(lines, "portal", limits.PORTAL_PASSWORD_BYTES)
    dev = None
    if lines.peek() == "dev":
        dev = PublicKey.from_text(lines.value("dev", limits.KEY_LINE_BYTES))
    lines.end()
    secret, urls = bytes.fromhex(key), tuple(servers)
    return Board(fleet, board_id, app, cls, secret, name, urls, webrepl, portal, dev)


def _password(lines: Lines, key: str, lengths: range) -> str | None:
    if lines.peek() != key:
        return None
    password = lines.value(key)
    if len(password) not in lengths or not _PASSWORD.fullmatch(password):
        raise Refused(
            "syntax",
            f"the {key} password needs {lengths.start} to {lengths.stop - 1} letters, no spaces",
        )
    return password
