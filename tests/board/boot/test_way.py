"""What lies between a board and its server: proxies, and people without any key.

They may delay and deny. They neither end a release on a board nor keep its app from running.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import bundle, trust
from mipy_ota.signing.rsa import PublicKey
from tests.support import apps, fleet
from tests.support.apps import GOOD, with_runtime
from tests.support.hostile import behind

KINDS: dict[str, str | Mapping[str, bytes]] = {"plain": GOOD, "runtime": {}}


def app(kind: str) -> str | Mapping[str, bytes]:
    """A good app of that kind."""
    return GOOD if kind == "plain" else with_runtime("pass\n")


# --- proxies


HEADERS = {
    "a policy of 161 bytes": b"content-security-policy: " + b"x" * 134 + b"\r\n",
    "a policy of 900 bytes": b"content-security-policy: " + b"x" * 873 + b"\r\n",
    "many": b"".join(b"x-header-%d: %040d\r\n" % (n, n) for n in range(40)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", HEADERS)
def test_a_proxy_that_adds_headers(tmp_path: Path, header: str, kind: str) -> None:
    """What a board does not need of a head it skips, in whichever client."""
    assert len(HEADERS["a policy of 161 bytes"]) == 161
    with behind(tmp_path, app(kind)) as (it, way):
        way.header = HEADERS[header]
        it.board.start()
        it.polls(1)
        it.confirmed(it.publish(app(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_closes_after_each_answer(tmp_path: Path, kind: str) -> None:
    """The board connects again, and the next request goes on."""
    with behind(tmp_path, app(kind)) as (it, way):
        way.closes = True
        it.board.start()
        it.polls(1)
        it.confirmed(it.publish(app(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_learns_why_an_install_fails(tmp_path: Path, kind: str) -> None:
    """Also where the installer gets no word through."""
    with behind(tmp_path, app(kind)) as (it, way):
        way.alters = lambda path, plain: b"" if "/manifests/" in path else None
        it.board.start()
        it.polls(1)
        # From the moment that the installer asks, its polls get no answer that is right.
        way.bend = lambda e: (
            b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
            if e.asked["state"] == "installing"
            else way.sealed(e, {})
        )
        digest = it.publish(app(kind))
        it.until(lambda record: record["reason"] == "http")
        kinds = [event["kind"] for event in it.fleet.get("/api/boards/b1/events")]
        assert "install-failed" in kinds
        way.reset()
        it.confirmed(digest)


# --- altered on the way


def _flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def _signature_at(raw: bytes) -> int:
    return raw.index(b"\nend\n") + len(b"\nend\n")


OTHER_SEQ = 900
ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the app": lambda raw: _flip(raw, raw.index(b"app ") + 4),
    "a bit of the seq": lambda raw: _flip(raw, raw.index(b"seq ") + 7),
    "a bit of the signature": lambda raw: _flip(raw, _signature_at(raw) + 40),
    "the key's id": lambda raw: raw.replace(b"sig ", b"sig 0", 1),
    "without its signature": lambda raw: raw[: _signature_at(raw)],
    "without its end": lambda raw: raw[: _signature_at(raw) - 5],
    "with a line more": lambda raw: raw + b"x\n",
    "nothing": lambda raw: b"",
    "9 KB": lambda raw: raw + b"x" * 9000,
    "another release": lambda raw: bundle.read(fleet.release({"main.py": GOOD}, OTHER_SEQ))[0],
    "of another class": lambda raw: bundle.read(
        fleet.release({"main.py": GOOD}, 1005, cls="esp32-generic")
    )[0],
    "of another app": lambda raw: bundle.read(fleet.release({"main.py": GOOD}, 1005, app="other"))[
        0
    ],
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_manifest_altered_once_ends_no_release(tmp_path: Path, name: str) -> None:
    """By somebody without any key; what has not the digest that was named is not the release."""
    with behind(tmp_path) as (it, way):
        it.board.start()
        it.polls(1)
        altered = []

        def alter(path: str, plain: bytes) -> bytes | None:
            if "/manifests/" not in path or altered:
                return None
            altered.append(path)
            return ALTERED[name](plain)

        way.alters = alter
        digest = it.publish(GOOD)
        it.confirmed(digest)
        assert altered
        told = [bad["reason"] for bad in it.record()["rejected"] if not bad["soft"]]
        assert told == []


TRUST: dict[str, Callable[[bytes], bytes]] = {
    "a bit of a key": lambda raw: _flip(raw, raw.index(b"key ") + 40),
    "a bit of the signature": lambda raw: _flip(raw, _signature_at(raw) + 40),
    "nothing": lambda raw: b"",
    "the version before": lambda raw: fleet.first_trust(),
    "another app's": lambda raw: fleet.first_trust("other"),
}


@pytest.mark.parametrize("name", TRUST)
def test_a_trust_file_altered_once_ends_no_release(tmp_path: Path, name: str) -> None:
    """It is not the release's fault."""
    with behind(tmp_path) as (it, way):
        it.board.start()
        it.polls(1)
        altered = []

        def alter(path: str, plain: bytes) -> bytes | None:
            if "/trust/" not in path or altered:
                return None
            altered.append(path)
            return TRUST[name](plain)

        way.alters = alter
        it.board.stop()
        following = trust.following(
            trust.parse(fleet.first_trust()),
            add=[("debug", PublicKey.of(fleet.key("debug")))],
        )
        raw = trust.add_signature(following.encode(), fleet.key("root"))
        it.fleet.post("/api/trust", raw)
        digest = it.publish(GOOD)
        it.board.start()
        it.confirmed(digest)
        assert altered and it.record()["trust"] == 2


# --- slow on the way

CLOCK = """
import time, ota
print("app at", time.time())
while True:
    ota.check()
    print("app at", time.time())
    time.sleep(10)
"""
_SAID = re.compile(r"app at (\d+)\n|(ota: )")
_BLOCKED = 15  # s: the app waits for a poll


def times(console: str) -> tuple[int, int]:
    """For how many s the app has run, and for how many not, as CLOCK tells."""
    up = down = 0
    last, left = None, False
    for at, start in _SAID.findall(console):
        left = left or bool(start)
        if not at:
            continue
        passed = int(at) - (int(at) if last is None else last)
        if left or passed > _BLOCKED:
            down += passed
        else:
            up += passed
        last, left = int(at), False
    return up, down


@pytest.mark.parametrize("what", ("/d/v1/files/", "/d/v1/manifests/", "/d/v1/poll"))
def test_a_trickle_does_not_keep_the_app_down(tmp_path: Path, what: str) -> None:
    """Whatever trickles, for four fifths of the time the app runs."""
    with behind(tmp_path, CLOCK, interval=60) as (it, way):
        it.board.start()
        it.polls(1)
        way.pause = lambda: it.board.go_on(8)
        way.trickles = lambda path: path.startswith(what)
        it.publish({"main.py": GOOD, "big.bin": apps.noise(6000)})
        began = len(it.board.console)

        def long_enough(board: Any) -> bool:
            up, down = times(board.console[began:])
            return up + down > 3 * 3600

        assert it.board.wait(long_enough, apps.HOURS, step=60), it.board.console[-6000:]
        up, down = times(it.board.console[began:])
        assert up >= 4 * down, (up, down)


# --- an address that somebody has planted

LOT = b"""
import os
os.urandom = bytes  # every lot falls on zero
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_address_is_seen_and_left(tmp_path: Path, kind: str) -> None:
    """By who had the device key once: it answers well, and withholds all that is new."""
    with behind(tmp_path, app(kind), through=lambda url: url) as (it, way):
        way.alters = lambda path, plain: b""
        way.bend = lambda e: way.sealed(e, {"m": ""})
        for copy in "01":
            content = way.url.encode()
            it.board.write(f"/state/{copy}/s", sha256(content).digest()[:8] + content)
        it.board.write("/boot.py", LOT + it.board.read("/boot.py"))
        it.board.start()
        told = it.until(lambda record: record["reason"] == "moved")
        assert told["trace"] == way.url
        it.confirmed(it.publish(app(kind)))
