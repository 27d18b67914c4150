"""A board's password goes to who has proved to be the board, and else only if a person says so."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from mipy_ota.tools.board import target, webrepl
from mipy_ota.tools.fleet import enrol
from tests.support import fleet, loopback

RECORD = enrol.Record(replace(fleet.identity(), name="kitchen", webrepl="a-secret"))
KEY, PASSWORD = RECORD.board.key, str(RECORD.board.webrepl)
HERE, THERE = loopback.address(), loopback.address()
Proof = Callable[[bytes], str]


def proof(nonce: bytes, address: str = HERE, key: bytes = KEY, label: bytes = b"webrepl1\0") -> str:
    """What a board at `address` answers."""
    mac = hmac.digest(key, label + nonce + b" " + address.encode(), "sha256").hex()
    return f"ota-proof: {address} {mac}\r\n"


class Peer:
    """What listens at HERE and speaks WebREPL; `told` is all that it hears after the handshake."""

    def __init__(self, answer: Proof) -> None:
        self.told = b""
        self._answer = answer
        self._door = socket.create_server((HERE, 0))
        self.port = self._door.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._talk(self._door.accept()[0])

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1024)
            found = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
            assert found
            accept = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            connection.sendall(
                b"HTTP/1.1 101 WebREPL\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + f"Sec-WebSocket-Accept: {base64.b64encode(accept).decode()}\r\n".encode()
                + f"{self._answer(found[1])}\r\n".encode()
                + frame(b"Password: ")
            )
            with contextlib.suppress(OSError):
                if PASSWORD in (text := unmasked(connection.recv(1024))):
                    self.told += text.encode()
                    connection.sendall(frame(b"\r\nWebREPL connected\r\n>>> "))
                while connection.recv(1024):
                    pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self._thread.join(10)


def frame(text: bytes) -> bytes:
    return bytes([0x81, len(text)]) + text


def unmasked(data: bytes) -> str:
    """The content of one short frame from a client (RFC 6455, 5.3)."""
    if len(data) < 6:
        return ""
    mask, content = data[2:6], data[6 : 6 + (data[1] & 127)]
    return bytes(byte ^ mask[n & 3] for n, byte in enumerate(content)).decode()


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = Peer(request.param)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nobody_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_allowed", set())
    monkeypatch.setattr(target, "_typed", {})


def found(peer: Peer, typed: bool = False) -> target.Target:
    return target.Target("kitchen", host=HERE, number=peer.port, record=RECORD, typed=typed)


good = pytest.mark.parametrize("peer", [proof], indirect=True)
old_nonce = proof(base64.b64encode(bytes(16)))
LIARS: dict[str, Proof] = {
    "stock firmware": lambda nonce: "",
    "another board": lambda nonce: proof(nonce, key=bytes(32)),
    "a replay": lambda nonce: old_nonce,
    "a relay": lambda nonce: proof(nonce, THERE),
    "a relay that lies": lambda nonce: proof(nonce, THERE).replace(THERE, HERE),
    "a poll's seal": lambda nonce: proof(nonce, label=b"poll1\0"),
    "nonsense": lambda nonce: "ota-proof: é\r\n",
    "two proofs": lambda nonce: proof(nonce, THERE) + proof(nonce),
    "no address": lambda nonce: proof(nonce, ""),
    "no proof of an address": lambda nonce: f"ota-proof: {HERE}\r\n",
}
liars = pytest.mark.parametrize("peer", LIARS.values(), ids=LIARS.keys(), indirect=True)


@good
def test_who_proves_to_be_the_board_gets_its_password_unasked(peer: Peer) -> None:
    found(peer).open().close()
    assert peer.told.decode() == PASSWORD + "\r"


@liars
def test_nobody_else_does(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(webrepl.Unproved, match="is not sent"):
        found(peer).open()
    with pytest.raises(webrepl.Unproved):
        found(peer).reopen()  # and it does not try for two minutes
    assert not peer.told
    said = capsys.readouterr().err
    assert f"what answers at {HERE} " in said and "\x1b" not in said


@liars
@pytest.mark.parametrize("answer", [True, False])
def test_unless_a_person_says_so(peer: Peer, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "mipy_ota.tools.console.confirm", lambda text: bool(asked.append(text)) or answer
    )
    if answer:
        found(peer).open().close()
        found(peer).open().close()  # once is enough, for the board may start again
        assert peer.told.decode() == f"{PASSWORD}\r" * 2
    else:
        with pytest.raises(webrepl.Unproved, match="was not sent"):
            found(peer).open()
        assert not peer.told
    assert len(asked) == 1 and "kitchen" in asked[0]


@pytest.mark.parametrize("peer", [LIARS["a relay"]], indirect=True)
def test_a_tunnel_of_this_computer_that_was_typed(peer: Peer) -> None:
    """`ssh -L 8266:board:8266 host`, then `mipy exec localhost:8266`."""
    found(peer, typed=True).open().close()
    assert peer.told.decode() == PASSWORD + "\r"


@good
def test_the_password_of_a_board_that_is_not_known_is_asked_for(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda text: asked.append(text) or PASSWORD)
    stranger = target.Target(HERE, host=HERE, number=peer.port, typed=True)
    stranger.open().close()
    stranger.reopen().close()  # as a push does, once the board has started again
    assert asked == [f"WebREPL password of {HERE}: "]


def test_a_password_that_was_refused_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda text: asked.append(text) or "wrong")

    def refusing(host: str, password: Callable[[str], str], *_: object) -> None:
        assert password("") == "wrong"
        raise webrepl.Refused("the password is wrong")

    monkeypatch.setattr(webrepl, "WebRepl", refusing)
    for _ in range(2):
        with pytest.raises(webrepl.Refused):
            target.Target(HERE, host=HERE, number=1, typed=True).open()
    assert len(asked) == 2
