"""Attacks on a board with the ESP8266's heap: each is refused, for its own reason, without a trace.

A hostile server stands between the board and its real one, and knows the device key. Whatever it
tries, the real server's record of the board names the reason, and the board goes on with its old
release, its record as it was, and nothing bootable in the other slot.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import manifest, rsa, trust
from mipy_ota.signing.envelope import Signature
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.signing.trust import Trust
from mipy_ota.tools import places
from mipy_ota.tools.flash import provision
from mipy_ota.tools.fleet.serve import running
from mipy_ota.tools.sim.board import Snapshot, VirtualBoard
from tests.support import fleet, hostile
from tests.support.apps import GOOD, story, with_runtime
from tests.support.fake_board import connect, talk
from tests.support.hostile import Exchange, Hostile

SPEED = 20
SEQ, FLOOR = 1000, 900  # of the board's release
APP = """
import time
import ota
print("app VERSION in", ota.slot)
while True:
    ota.check()
    time.sleep(1)
"""
OLD = {"main.py": APP.replace("VERSION", "old"), "lib/x.py": "a = 1"}
NEW = {"main.py": APP.replace("VERSION", "new"), "lib/x.py": "a = 2", "big.bin": bytes(3000)}


def public(name: str) -> PublicKey:
    return PublicKey.of(fleet.key(name))


def signature(body: bytes, name: str, prefix: bytes = manifest.PREFIX, key_id: str = "") -> bytes:
    """A `sig` line over any bytes, whether a signer would make it or not."""
    value = rsa.sign(fleet.key(name), hashlib.sha256(prefix + body).digest())
    return Signature(key_id or public(name).id, value).encode()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Record:
    """The fields of the A/B record that attacks are after."""

    active: int
    trial: int
    seq: int
    floor: int

    @classmethod
    def of(cls, board: VirtualBoard) -> Record:
        """The newer copy."""
        raw = max((board.read(f"/state/{copy}/r") for copy in "01"), key=lambda r: r[4:8][::-1])
        _, _, active, trial, _, _, _, _, _, seq, floor = struct.unpack_from("<4sIBBBBBBHII", raw)
        return cls(active, trial, seq, floor)


@dataclass
class Evil:
    """What the hostile server serves. `body` is the manifest up to its end, `sigs` what follows."""

    body: bytes
    sigs: bytes
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def made(*edits: tuple[str, str], signer: str = "release", **facts: Any) -> Evil:
    """A new release, right but for `edits` of its manifest, made before it is signed."""
    files = fleet.compiled(NEW)
    # Nobody shall take one attack's reason for another's: each manifest is one of its own.
    facts = {"seq": SEQ + 1, "floor": FLOOR, "note": secrets.token_hex(4), **facts}
    cls, app = facts.pop("cls", fleet.CLASS), facts.pop("app", fleet.APP)
    text = manifest.make(app, cls, facts.pop("seq"), files, **facts).decode()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    body = text.encode()
    return Evil(body, signature(body, signer) if signer else b"", files)


def serve(liar: Hostile, evil: Evil) -> None:
    """Offer a manifest and its files."""
    liar.offer["m"] = evil.digest
    liar.content[f"/d/v1/manifests/{evil.digest}"] = evil.body + evil.sigs
    for content in evil.files.values():
        liar.content[f"/d/v1/files/{sha(content)}"] = content


@dataclass(frozen=True)
class State:
    """What no attack may change: all that is on the flash, but for the empty slot and scraps."""

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, board: VirtualBoard) -> State:
        files = board.files()
        # Neither can be booted: no manifest, no slot.
        assert "/app_slots/b/manifest" not in files
        scraps = ("/app_slots/b/", "/state/incoming", "/state/crash", "/state/fail")
        return cls({name: data for name, data in files.items() if not name.startswith(scraps)})


class Field:
    """A server, the hostile one before it, and a board whose next life installs."""

    def __init__(self, fl: fleet.Fleet, liar: Hostile, folder: Path) -> None:
        self.fleet, self.liar = fl, liar
        self.who = fleet.identity("b1", (liar.url,))
        liar.key = self.who.key
        fl.enrol(self.who)
        old = fleet.release(OLD, SEQ, floor=FLOOR)
        self.board = fleet.prepared(folder, self.who, old, speed=SPEED)
        self._saved: dict[str, Snapshot] = {}
        assert self.boots_old()
        self._saved["running"] = self.board.save()
        self._save_asking("plain")
        installer = (places.sources("app_slots") / "runtime" / "installer.py").read_text()
        own = fleet.release(OLD | {"runtime/installer.py": installer}, SEQ, floor=FLOOR)
        for name, data in provision.board_files(self.who, fleet.first_trust(), own).items():
            if name.startswith(("/app_slots/", "/state/")):
                self.board.write(name, data)
        assert self.boots_old()  # in place, from where its installer runs then
        self._save_asking("own installer")

    def _save_asking(self, name: str) -> None:
        """The board right after its app has learned of an offer: the next life installs."""
        self.liar.offer = {"m": secrets.token_hex(32)}
        life = self.board.life()
        assert life.cause == "reset", life.console
        self.liar.reset()
        self._saved[name] = self.board.save()

    def back(self, name: str) -> VirtualBoard:
        """The board as it was saved under a name, the liar honest."""
        self.liar.reset()
        self.board.restore(self._saved[name])
        return self.board

    def trust(self, raw: bytes, built_in: bytes | None = None) -> None:
        """Put a trust file on the board."""
        for path in ("/trust/0/trust", "/trust/1/trust"):
            self.board.write(path, raw)
        self.board.write("/bootloader/trust", built_in or raw)

    def reasons(self, digest: str, kind: str = "refused") -> list[str]:
        """Why the board refused a release, as the real server has recorded it."""
        events: Any = self.fleet.get("/api/boards/b1/events")
        return [e["reason"] for e in events if (e["kind"], e["digest"]) == (kind, digest[:32])]

    def confirmed(self, digest: str) -> bool:
        """Whether the board has told the real server that it keeps a release."""
        board = self.fleet.get("/api/boards/b1")
        return (board["state"], board["digest"]) == ("ok", digest[:32])

    def boots_old(self) -> bool:
        """Whether the old app is what starts; a life may go before it, to poll."""
        lives = (self.board.life(until="app old in a") for _ in range(2))
        return any("app old in a" in life.console for life in lives)

    def refused(self, digest: str) -> str:
        """Let the board install; return the reason that the server learns, all else unharmed."""
        before = State.of(self.board)
        life = self.board.life()
        for _ in range(2):
            if "install: MemoryError" in life.console:  # the board tries again by itself
                life = self.board.life()
        assert life.cause == "reset", life.console
        assert State.of(self.board) == before
        self.liar.reset()
        assert self.boots_old(), life.console
        assert State.of(self.board) == before
        (reason,) = self.reasons(digest) or ("not reported: " + life.console,)
        return reason


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder = tmp_path_factory.mktemp("refusals")
    with running(folder / "server", interval=5) as server, Hostile(server.url) as liar:
        made = Field(fleet.Fleet(server), liar, folder / "board")
        yield made
        made.board.close()


# --- manifests


def flipped() -> Evil:
    """One bit of a value, behind the signer's back."""
    evil = made()
    return replace(evil, body=evil.body.replace(b"seq 1001", b"seq 1003"))


def cut(keep: Callable[[Evil], int]) -> Evil:
    """The manifest's bytes up to a point, whole as a transfer."""
    evil = made()
    return replace(evil, body=(evil.body + evil.sigs)[: keep(evil)], sigs=b"")


# One a reason. Each other way in which a manifest or a trust file is wrong by itself is judged by
# the same code in test_chip_vectors.py.
MANIFESTS: dict[str, tuple[str, Callable[[], Evil]]] = {
    "unsigned": ("unsigned", lambda: made(signer="")),
    "unknown key": ("key", lambda: made(signer="stranger")),
    "dev-signed on a production board": ("key", lambda: made(signer="dev")),
    "bit flipped": ("key", flipped),
    "cut before its end": ("syntax", lambda: cut(lambda evil: len(evil.body) - 10)),
    "cut in its signature": ("hash", lambda: cut(lambda evil: len(evil.body) + 300)),
    "name that climbs": ("name", lambda: made(("file lib/x.mpy", "file ../boot.py"))),
    "wrong app": ("app", lambda: made(app="other")),
    "wrong class": ("class", lambda: made(cls="esp32-generic")),
    "wrong mpy": ("mpy", lambda: made(mpy="5.3")),
    "wrong arch": ("arch", lambda: made(arch="xtensawin")),
    "lower seq": ("seq", lambda: made(seq=SEQ - 1)),
    "same seq, other content": ("same-seq", lambda: made(seq=SEQ)),
    "floor below the board's": ("floor-low", lambda: made(floor=FLOOR - 1)),
    "oversized": (
        "size",
        lambda: made(("\nend\n", "\nx-a " + "\nx-a ".join(["n" * 150] * 60) + "\nend\n")),
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest(field: Field, name: str) -> None:
    code, make = MANIFESTS[name]
    evil = make()
    field.back("plain")
    serve(field.liar, evil)
    assert field.refused(evil.digest) == code


def test_two_keys_needed(field: Field) -> None:
    """A threshold of two, and one key that signs twice."""
    keys = [("root", public("root")), ("release", public("release")), ("release", public("second"))]
    first = trust.first(fleet.FLEET, keys, release_threshold=2)
    evil = made()
    evil.sigs *= 2
    field.back("plain")
    field.trust(trust.add_signature(first.encode(), fleet.key("root")))
    serve(field.liar, evil)
    assert field.refused(evil.digest) == "threshold"


def test_revoked_key(field: Field) -> None:
    keys = [("root", public("root")), ("release", public("release")), ("release", public("lost"))]
    first = trust.first(fleet.FLEET, keys)
    second = trust.following(first, revoke=[public("lost").id])
    evil = made(signer="lost")
    field.back("plain")
    field.trust(*(trust.add_signature(t.encode(), fleet.key("root")) for t in (second, first)))
    serve(field.liar, evil)
    assert field.refused(evil.digest) == "revoked"


def test_another_manifest_under_the_digest(field: Field) -> None:
    """A good release, but not the one that the reply, MAC and all, has named."""
    evil, digest = made(), secrets.token_hex(32)
    field.back("plain")
    serve(field.liar, evil)
    field.liar.offer["m"] = digest
    field.liar.content[f"/d/v1/manifests/{digest}"] = evil.body + evil.sigs
    assert field.refused(digest) == "hash"


TRANSFERS: dict[str, tuple[str, Callable[[bytes], bytes | Iterable[bytes]]]] = {
    "endless": ("truncated", lambda _: hostile.endless()),
    "bomb": ("size", lambda _: hostile.answer(hostile.deflated(bytes(4 << 20)))),
    "cut in transit": ("truncated", hostile.cut_short),
    "not deflate": ("hash", lambda _: hostile.answer(b"\xff" * 100)),
    "404": ("http", lambda _: hostile.answer(b"", status="404 Not Found")),
    "redirect": (
        "http",
        lambda _: hostile.answer(b"", ("location", "/elsewhere"), status="302 Found"),
    ),
    "chunked": (
        "http",
        lambda _: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_manifest_transfer(field: Field, name: str) -> None:
    code, answer = TRANSFERS[name]
    evil = made()
    field.back("plain")
    serve(field.liar, evil)
    field.liar.whole[f"/d/v1/manifests/{evil.digest}"] = answer(evil.body + evil.sigs)
    assert field.refused(evil.digest) == code


# --- files

CONTENTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "bit flipped": ("hash", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "truncated": ("truncated", lambda data: data[:-1]),
    "grown": ("size", lambda data: data + b"\0"),
}


@pytest.mark.parametrize("installer", ("plain", "own installer"))
@pytest.mark.parametrize("attack", CONTENTS)
def test_file(field: Field, installer: str, attack: str) -> None:
    code, change = CONTENTS[attack]
    evil = made()
    content = evil.files["big.bin"]
    field.back(installer)
    serve(field.liar, evil)
    field.liar.content[f"/d/v1/files/{sha(content)}"] = change(content)
    assert field.refused(evil.digest) == code


@pytest.mark.parametrize("installer", ("plain", "own installer"))
@pytest.mark.parametrize("attack", TRANSFERS)
def test_file_transfer(field: Field, installer: str, attack: str) -> None:
    code, answer = TRANSFERS[attack]
    evil = made()
    content = evil.files["big.bin"]
    field.back(installer)
    serve(field.liar, evil)
    field.liar.whole[f"/d/v1/files/{sha(content)}"] = answer(content)
    assert field.refused(evil.digest) == code


def test_files_of_another_release(field: Field) -> None:
    """Manifest A with the files of B, each of the right size."""
    evil = made()
    field.back("plain")
    serve(field.liar, evil)
    for content in evil.files.values():
        field.liar.content[f"/d/v1/files/{sha(content)}"] = bytes(reversed(content + b"x"))[:-1]
    assert field.refused(evil.digest) == "hash"


def test_extra_files_go(field: Field) -> None:
    """What no manifest lists is deleted, from the running slot and from the one installed into."""
    board = field.back("plain")
    field.board.write("/app_slots/b/ota.mpy", b"evil")
    field.board.write("/app_slots/b/lib/more/deep.mpy", b"evil")
    board.write("/app_slots/a/ota.mpy", b"evil")
    board.write("/app_slots/a/runtime/machine.mpy", b"evil")
    board.segment = bytes(len(board.segment))  # in place nothing of the files is looked at
    good = made()
    serve(field.liar, good)
    assert board.life().cause == "reset"
    listed = {f"/app_slots/b/{name}" for name in (*good.files, "manifest")}
    listed |= {f"/app_slots/a/{name}" for name in (*fleet.compiled(OLD), "manifest")}
    assert {name for name in board.files() if name.startswith("/app_slots/")} == listed


STUCK = b"""
import os
remove = os.remove
def stuck(path):
    if path.endswith("extra"):
        raise OSError(5)
    remove(path)
os.remove = stuck
"""


def test_extra_file_that_stays_rejects_the_trial(field: Field) -> None:
    """Deleting it fails, as it does on flash that is worn out (here by a patched os.remove)."""
    board = field.back("plain")
    good = made()
    serve(field.liar, good)
    assert board.life().cause == "reset"
    board.write("/app_slots/b/extra", b"evil")
    board.write("/boot.py", STUCK + board.read("/boot.py"))
    field.liar.reset()
    life = board.life()
    assert "Rejected('extra'" in life.console
    board.start()
    assert board.wait(lambda _: "verify" in field.reasons(good.digest, "rolled-back")), (
        board.console
    )
    board.stop()
    assert Record.of(board).active == 0


# --- trust files


def first() -> Trust:
    return trust.parse(fleet.first_trust())


def signed(made: Trust, *names: str) -> bytes:
    return made.body + b"".join(signature(made.body, name, trust.PREFIX) for name in names)


def more() -> Trust:
    return trust.following(first(), add=[("release", public("stranger"))])


def new_root() -> Trust:
    return trust.following(first(), add=[("root", public("root2"))], revoke=[public("root").id])


def other_fleet() -> bytes:
    body = more().body.replace(b"fleet default", b"fleet defaulx")
    return body + signature(body, "root", trust.PREFIX)


def skipping() -> bytes:
    return signed(trust.following(more(), add=[("debug", public("root2"))]), "root")


def huge() -> bytes:
    lines = b"".join(b"revoke %016x\n" % i for i in range(400))
    body = more().body.replace(b"end\n", lines + b"end\n")
    return body + signature(body, "root", trust.PREFIX)


def manifest_as_trust() -> bytes:
    evil = made()
    return evil.body + evil.sigs


STEPS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "N + 2": ("trust-version", skipping),
    "signed by the old side only": ("trust-sig", lambda: signed(new_root(), "root")),
    "a manifest": ("trust-sig", manifest_as_trust),
    "another fleet": ("fleet", other_fleet),
    "oversized": ("size", huge),
    "cut": ("syntax", lambda: signed(more(), "root")[:-1]),
}


@pytest.mark.parametrize("name", STEPS)
def test_trust(field: Field, name: str) -> None:
    code, make = STEPS[name]
    digest = secrets.token_hex(32)
    field.back("plain")
    field.liar.offer |= {"trust": 2, "m": digest}
    field.liar.content["/d/v1/trust/2"] = make()
    assert field.refused(digest) == code


# --- dev keys


def test_dev_release_where_its_key_is_named(field: Field) -> None:
    """It runs, whatever its seq, and raises neither seq nor floor."""
    board = field.back("plain")
    for path in ("/trust/0/board", "/trust/1/board"):
        board.write(path, replace(field.who, dev=public("dev")).encode())
    evil = made(signer="dev", seq=SEQ - 5, floor=SEQ - 5)
    serve(field.liar, evil)
    assert board.life().cause == "reset"
    field.liar.reset()
    board.start()
    assert board.wait(lambda _: field.confirmed(evil.digest)), board.console
    board.stop()
    record = Record.of(board)
    assert (record.active, record.seq, record.floor) == (1, SEQ, FLOOR)


# --- polls and replies


def test_replayed_poll(field: Field) -> None:
    """The server believes a report once, and none that was changed on its way."""
    board = field.back("running")
    board.life(until=lambda _: len(field.liar.polls) >= 2)
    report = field.liar.polls[1].request
    assert b'"stale"' not in field.liar.polls[1].reply
    before = field.fleet.get("/api/boards/b1"), field.fleet.get("/api/boards/b1/events")
    with connect(field.liar.upstream) as connection:
        assert b'"stale":1' in talk(connection, report).body
    altered = report.replace(b'"state":"ok"', b'"state":"no"')
    assert altered != report
    with connect(field.liar.upstream) as connection:
        assert talk(connection, altered).status == 403
    assert (field.fleet.get("/api/boards/b1"), field.fleet.get("/api/boards/b1/events")) == before


def padded(field: Field, exchange: Exchange, size: int) -> bytes:
    """A right reply that offers a release, of exactly so many bytes."""
    offer = {"m": "ab" * 32, "x": ""}
    short = len(field.liar.sealed(exchange, offer).partition(b"\r\n\r\n")[2])
    return field.liar.sealed(exchange, offer | {"x": "x" * (size - short)})


def offered(field: Field, exchange: Exchange) -> bytes:
    return field.liar.sealed(exchange, {"m": "ab" * 32})


def with_key(field: Field, exchange: Exchange, key: bytes) -> bytes:
    mine, field.liar.key = field.liar.key, key
    try:
        return offered(field, exchange)
    finally:
        field.liar.key = mine


REPLIES: dict[str, tuple[str, Callable[[Field, Exchange], bytes | Iterable[bytes]]]] = {
    "altered": ("mac", lambda f, e: offered(f, e).replace(b'"every":', b'"every":1')),
    "made with another key": ("mac", lambda f, e: with_key(f, e, bytes(32))),
    "made without a key": ("mac", lambda f, e: hostile.answer(b'{"k":"","m":"ab"}')),
    "of 1,025 bytes": ("size", lambda f, e: padded(f, e, 1025)),
    "chunked": (
        "http",
        lambda f, e: offered(f, e).replace(b"content-length", b"transfer-encoding: chunked\r\nx"),
    ),
    "redirect": (
        "http",
        lambda f, e: hostile.answer(b"", ("location", "http://127.0.0.1:1/"), status="302 Found"),
    ),
    "without an interval": ("", lambda f, e: f.liar.sealed(e, {"every": None})),
    "orders that are none": ("", lambda f, e: f.liar.sealed(e, {"do": [7]})),
    "offer that is none": ("", lambda f, e: f.liar.sealed(e, {"m": 7})),
    "403": ("http", lambda f, e: hostile.answer(b"", status="403 Forbidden")),
    "head of more than 4 KB": (
        "http",
        lambda f, e: offered(f, e).replace(b"\r\n", b"\r\n" + b"x: %0100d\r\n" % 0 * 40, 1),
    ),
    "line that does not end": ("http", lambda f, e: b"HTTP/1.1 200 " + b"x" * 5000),
}


@pytest.mark.parametrize("name", REPLIES)
def test_reply(field: Field, name: str) -> None:
    """It counts as no network: the board says so, goes on, and takes nothing from it."""
    code, bend = REPLIES[name]
    board = field.back("running")
    before = State.of(board)
    field.liar.bend = lambda exchange: bend(field, exchange)
    life = board.life(until="no server answers")
    assert (
        f"Rejected('{code}'" if code else "TypeError("
    ) in life.console and "no server answers" in life.console
    assert field.liar.asked == [hostile.POLL]
    assert State.of(board) == before


def test_unknown_orders(field: Field) -> None:
    """They are told in the next poll, and those that make no sense do nothing."""
    board = field.back("running")
    field.liar.bend = lambda exchange: field.liar.sealed(
        exchange, {"do": ["retry nothing", "dance"], "every": 1}
    )

    def told(_: VirtualBoard) -> bool:
        return any(poll.asked.get("unk") == ["dance"] for poll in field.liar.polls)

    board.start()
    assert board.wait(told), board.console
    board.stop()
    assert "Traceback" not in board.console


def test_replayed_reply(field: Field) -> None:
    """Yesterday's reply, byte for byte: its MAC is over yesterday's nonce."""
    board = field.back("running")
    recorded: list[bytes] = []
    field.liar.bend = lambda e: recorded.append(offered(field, e)) or recorded[0]
    board.life(until="no server answers")
    board = field.back("running")
    field.liar.bend = lambda e: recorded[0]
    life = board.life(until="no server answers")
    assert "Rejected('mac'" in life.console


def test_largest_reply(field: Field) -> None:
    """1,024 bytes are taken."""
    board = field.back("running")
    field.liar.bend = lambda exchange: padded(field, exchange, 1024)
    assert board.life().cause == "reset"  # to install what it offers


def test_forged_replies_confirm_nothing(field: Field) -> None:
    """A trial waits for somebody who knows the key, however long somebody else answers."""
    board = field.back("plain")
    good = made()
    serve(field.liar, good)
    assert board.life().cause == "reset"
    field.liar.reset()
    field.liar.bend = lambda exchange: with_key(field, exchange, bytes(32))

    def third(board: VirtualBoard) -> bool:
        return len(field.liar.asked) >= 3  # the last one two minutes into the app's life

    board.start()
    assert board.wait(third), board.console
    board.stop()
    assert Record.of(board).trial == 1
    field.liar.reset()
    board.start()
    assert board.wait(lambda _: field.confirmed(good.digest)), board.console
    board.stop()


# --- damaged copies


@pytest.mark.parametrize("kind", ["plain", "runtime"])
@pytest.mark.parametrize("reads", ["version 9", "version 0", "no version"])
def test_a_damaged_trust_file_is_mended(tmp_path: Path, kind: str, reads: str) -> None:
    """Whatever version it reads like, the board takes the next one."""
    app = {"main.py": GOOD} if kind == "plain" else with_runtime("pass\n")
    following = signed(more(), "root")
    with story(tmp_path, app, speed=40) as it:
        copy = it.board.read("/trust/1/trust")
        it.board.write("/trust/1/trust", copy.replace(b"version 1", reads.encode()))
        it.board.start()
        it.polls(1)
        it.fleet.post("/api/trust", following)
        it.until(lambda record: record["trust"] == 2, 40)
        it.board.stop()
        assert {it.board.read(f"/trust/{copy}/trust") for copy in "01"} == {following}


# --- keys change


def test_rotation(tmp_path: Path) -> None:
    """A board sleeps through five trust versions, which change every key it knows."""
    old = fleet.release(OLD, SEQ, floor=FLOOR)
    two = trust.following(first(), add=[("release", public("second"))])
    three = trust.following(two, add=[("debug", public("debug"))])
    four = trust.following(three, add=[("root", public("root2"))])
    five = trust.following(four, revoke=[public("root").id])
    six = trust.following(five, revoke=[public("release").id])
    versions = [signed(made, "root") for made in (two, three, four)]
    versions += [signed(made, "root2") for made in (five, six)]
    with running(tmp_path / "server", interval=5) as server, Hostile(server.url) as way:
        fl = fleet.Fleet(server)
        who = fleet.identity("b1", (way.url,))
        way.key = who.key
        fl.enrol(who)
        with fleet.prepared(tmp_path / "board", who, old, speed=SPEED) as board:
            for raw in versions:
                fl.post("/api/trust", raw)

            def says(**facts: object) -> bool:
                return facts.items() <= fl.get("/api/boards/b1").items()

            def goes_until(**facts: object) -> None:
                board.start()
                assert board.wait(lambda _: says(**facts)), board.console
                board.stop()

            goes_until(trust=6, state="ok", seq=SEQ)
            walked = [path for path in way.asked if path.startswith("/d/v1/trust/")]
            assert walked == [f"/d/v1/trust/{version}" for version in range(2, 7)]
            assert board.read("/trust/0/trust") == board.read("/trust/1/trust") == versions[-1]
            # What runs was signed by the key that is revoked now: it stays until there is better.
            assert any("app old in a" in board.life(until="app old in a").console for _ in range(2))

            evil = made()
            serve(way, evil)
            goes_until(reason="revoked", state="ok", digest=fleet.digest(old)[:32])
            assert "app new" not in board.console
            way.reset()

            good = fleet.release(NEW, SEQ + 2, floor=FLOOR, signer="second")
            goes_until(seq=SEQ + 2, state="ok", digest=fl.publish(good)[:32])
            record = Record.of(board)
            assert (record.active, record.seq, record.floor) == (1, SEQ + 2, FLOOR)
