"""The server over real sockets: protocol, policy, publishing, refusals, crashes."""

import contextlib
import gc
import hashlib
import hmac
import io
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from mipy_ota.ota_server import policy
from mipy_ota.ota_server.app import make_app
from mipy_ota.ota_server.device import poll_message
from mipy_ota.ota_server.storage import queries
from mipy_ota.ota_server.storage.base import REJECTIONS_KEPT
from mipy_ota.ota_server.storage.sqlite import SqliteStorage
from mipy_ota.ota_server.storage.statements import ORDERS_KEPT
from mipy_ota.ota_server.web import limits as server_limits
from mipy_ota.signing import bundle, manifest, reasons, trust
from mipy_ota.tools.app.compile import modules, tracebacks
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import ROOT, vectors
from tests.support.fake_board import FakeBoard, connect, hear, talk

SEQ = policy.minutes_since_2020(time.time()) - 1000
FILES = {"main.mpy": b"M\x06\x00\x1f" + bytes(400), "config.py": b"NAME = 'kitchen'\n"}


def release(
    seq: int, files: dict[str, bytes] = FILES, key: str = "release", **more: Any
) -> tuple[str, bytes]:
    """A signed bundle and its digest."""
    more = {"app": "weather", "cls": "esp8266-generic"} | more
    raw = manifest.make(more.pop("app"), more.pop("cls"), seq, files, **more)
    if key:
        raw = manifest.add_signature(raw, vectors.key(key))
    return manifest.parse(raw).digest, bundle.write(raw, files)


@pytest.fixture
def board(server: Running, people: client.Client) -> Iterator[FakeBoard]:
    """An enrolled board that has booted release 1 off the cable."""
    fake = FakeBoard(server.url)
    people.enrol(fake.file())
    fake.boot()
    yield fake
    fake.close()


def refusal(call: Any, *args: Any) -> str:
    """The code with which the server refuses a call."""
    with pytest.raises(Failure) as caught:
        call(*args)
    return caught.value.text.split("(", 1)[1].split(")", 1)[0]


def kinds(people: client.Client, board: str = "sim-01") -> list[str]:
    return [event["kind"] for event in people.events(board)]


# --- polls ---


def test_no_change_poll_fits_its_budget(server: Running, board: FakeBoard):
    body = board.message(heap=21480, up=86400, seq=3630241)
    before = server.counts
    answer = board.send(body)
    reply = board.accept(answer)
    assert set(reply) == {"k", "t", "every", "trust"}
    assert set(answer.headers) == {"content-length", "ota-mac"}
    counted = tuple(after - earlier for after, earlier in zip(server.counts, before, strict=True))
    assert counted == (answer.sent, answer.received)
    assert answer.received <= 300
    assert answer.sent <= 450


def test_wrong_mac_unknown_board_and_nonsense_learn_nothing(server: Running, board: FakeBoard):
    stranger = FakeBoard(server.url, id="sim-99", key=board.key)
    bodies = [
        (board, board.message(), bytes(32)),
        (stranger, stranger.message(), board.key),
        (board, b"", board.key),
        (board, b"[" * 1000, board.key),
        (board, b'{"id":7}', board.key),
        (board, b'"id"', board.key),
    ]
    for fake, body, key in bodies:
        answer = fake.send(body, key)
        assert (answer.status, answer.body) == (403, b"")
        assert set(answer.headers) == {"content-length"}
    stranger.close()


def test_replayed_poll_is_not_counted(people: client.Client, board: FakeBoard):
    genuine = board.message(heap=1000)
    board.accept(board.send(genuine))
    board.poll(heap=2000)
    replayed = board.send(genuine)
    assert json.loads(replayed.body)["stale"] == 1
    assert people.board("sim-01")["heap"] == 2000
    # The board has not lost its ticket to the replay.
    assert "stale" not in board.poll(heap=3000)
    assert people.board("sim-01")["heap"] == 3000


def test_replays_do_not_keep_a_board_from_being_heard(people: client.Client, board: FakeBoard):
    captured = [board.message(heap=1)]
    board.accept(board.send(captured[0]))

    def replayed():
        with connect(board.url) as other:
            for old in captured[-3:] * 2:
                assert json.loads(talk(other, board.request(old)).body)["stale"] == 1

    for n in range(2, 8):
        replayed()
        captured.append(board.message(heap=n))
        assert "stale" not in board.accept(board.send(captured[-1]))
        assert people.board("sim-01")["heap"] == n
    # A start without a ticket, or with one whose reply was lost: replays between its two messages.
    for ticket in ("", "0" * 16):
        board.ticket = ticket
        assert board.poll(heap=100)["stale"] == 1
        replayed()
        captured.append(board.message(heap=101))
        assert "stale" not in board.accept(board.send(captured[-1]))
        replayed()
        assert people.board("sim-01")["heap"] == 101


def test_of_two_tickets_one_counts(people: client.Client, board: FakeBoard):
    held_back = board.message(heap=1)
    board.ticket = ""
    board.poll()
    assert "stale" not in board.poll(heap=2)
    assert json.loads(board.send(held_back).body)["stale"] == 1
    assert people.board("sim-01")["heap"] == 2


def test_stale_poll_gets_no_offer_and_no_orders(people: client.Client, board: FakeBoard):
    people.publish(release(SEQ)[1])
    people.order("sim-01", "rollback")
    board.ticket = ""
    assert set(board.poll()) == {"k", "t", "every", "trust", "stale"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": -1}, {"seq": 2**31}, {"seq": True}, {"m": "A1" * 16}, {"m": "a1" * 15},
        {"state": "fine state"}, {"heap": "x"}, {"up": None}, {"n": "1"}, {"bad": []},
        {"bad": {"m": "a1" * 16, "why": "?"}}, {"prog": [1]}, {"unk": [1]}, {"app": "other"},
        {"class": "esp32"}, {"fw": "1\n2"},
    ],
    ids=str,
)  # fmt: skip
def test_authentic_but_broken_poll_is_a_400(board: FakeBoard, wrong: dict[str, Any]):
    answer = board.send(board.message(**wrong))
    assert (answer.status, answer.body) == (400, b"")


def test_damaged_text_does_not_cost_a_board_its_server(
    people: client.Client, board: FakeBoard, server: Running
):
    trace = b'"trace":"\xff\t\\ud800 \\ud83d\\ude00"'
    bad = b'{"m":"%s","why":"veto","soft":0,%s}' % (b"b2" * 16, trace)
    body = board.message(bad=0, jobs={"\ud800": [1, 2]}).replace(b'"bad":0', b'"bad":' + bad)
    assert "stale" not in board.accept(board.send(body))
    now = people.board("sim-01")
    assert now["trace"] == "\ufffd\t? \U0001f600"
    assert now["jobs"] == {"?": [1, 2]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = "n k seq m state heap up chip boot fw mpy trust addr bad prog unk held jobs".split()
GOOD = {"n": "0" * 16, "k": "", "seq": 1, "m": "a1" * 16, "state": "ok", "heap": 1, "up": 1}


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
@settings(deadline=None, max_examples=500)
def test_any_message_is_understood_or_refused(said: dict[str, Any]):
    message = poll_message.parse(json.dumps(GOOD | said).encode())
    with contextlib.suppress(poll_message.BadPoll):
        poll_message.envelope(message)
        poll_message.report(message)


def test_unknown_keys_are_ignored(board: FakeBoard):
    assert "stale" not in board.poll(future={"a": 1}, other=[])


def test_limits_of_head_body_and_time(
    server: Running, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
):
    head = b"POST /d/v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
    for request, status in [
        (head % 1025 + b"\r\n", 413),
        (head % 10 + b"x-long: " + b"a" * 1024 + b"\r\n\r\n0123456789", 431),
        (b"POST /d/v1/poll HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 411),
    ]:
        with connect(server.url) as raw:
            assert talk(raw, request).status == status
            assert raw.recv(1) == b""  # and the connection is over
    with connect(server.url) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"a" * 100_000)
            assert raw.recv(1) == b""
    monkeypatch.setattr("mipy_ota.ota_server.device.api.POLL_SECONDS", 0.1)
    with connect(server.url) as raw:
        assert talk(raw, head % 10 + b"\r\n{").status == 408
    monkeypatch.setattr(server_limits, "HEAD_SECONDS", 0.1)
    with connect(server.url) as raw:
        raw.sendall(b"POST /d/v1/p")
        assert raw.recv(1) == b""


def test_interval(server: Running):
    assert {policy.interval(False, None, n / 99) for n in range(100)} <= set(range(270, 331))
    assert policy.interval(False, None, 0) == 270
    assert policy.interval(True, None, 0.5) == 15
    assert policy.interval(True, 2, 0.5) == 2
    assert policy.interval(True, 1, 0) == 1


def test_control_characters_reach_nobodys_terminal(people: client.Client, board: FakeBoard):
    nasty = "\x1b[2Jgone\x07\u202e\x9b\n\tline"
    bad = {"m": "b2" * 16, "why": "veto", "soft": 0, "trace": nasty}
    board.poll(bad=bad, unk=[nasty], jobs={nasty: [1, 2]})
    shown = r"\x1b[2Jgone\x07\u202e\x9b" + "\n\tline"
    now = people.board("sim-01")
    assert now["trace"] == shown
    assert now["jobs"] == {shown: [1, 2]}
    assert [e["text"] for e in people.events("sim-01")][-2:] == [shown, shown]


def test_lying_seq_does_not_end_the_offers(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    top = 2**31 - 1
    board.poll(seq=top, m=digest[:32])
    assert people.board("sim-01")["high"] == SEQ
    assert kinds(people)[-2:] == ["wrong-seq", "confirmed"]
    newer, packed = release(SEQ + 1, note="newer")
    people.publish(packed)
    assert board.poll(seq=top, m=digest[:32])["m"] == newer
    # Nor does one of something that no release of this server is.
    assert board.poll(seq=top, m="de" * 16)["m"] == newer


def test_what_one_board_makes_is_bounded(server: Running, people: client.Client, board: FakeBoard):
    kept = REJECTIONS_KEPT
    for number in range(kept + 5):
        board.poll(bad={"m": f"{number:032x}", "why": "veto", "soft": 0, "trace": ""})
    digests = {bad["digest"] for bad in people.board("sim-01")["rejected"]}
    assert digests == {f"{number:032x}" for number in range(5, kept + 5)}
    for _ in range(ORDERS_KEPT + 5):
        people.order("sim-01", "rollback")
        people.order("sim-01", "cancel")
    board.poll(unk=["y" * 100] * 6)
    assert kinds(people).count("unknown-order") == poll_message.UNKNOWN_ORDERS
    assert people.events("sim-01")[-1]["text"] == "y" * poll_message.TEXT_CHARS
    with contextlib.closing(sqlite3.connect(server.storage.folder / "server.db")) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone()[0] <= ORDERS_KEPT
        assert db.execute("SELECT count(*) FROM rejections").fetchone()[0] == kept


def test_traceback_of_a_replayed_poll_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    monkeypatch.setattr(
        "mipy_ota.tools.app.compile.tracebacks.readable", lambda t: read.append(t) or t
    )
    with running(tmp_path, interval=2) as server:
        fake = FakeBoard(server.url)
        api = client.Client(server.url, server.token)
        api.add_trust(vectors.first_trust())
        api.enrol(fake.file())
        fake.boot()
        said = fake.message(bad={"m": "b2" * 16, "why": "veto", "soft": 0, "trace": "t"})
        fake.accept(fake.send(said))
        for _ in range(3):
            assert json.loads(fake.send(said).body)["stale"] == 1
        fake.close()
    assert read == ["t"]


def test_sources_for_tracebacks_are_read_once(monkeypatch: pytest.MonkeyPatch):
    trace = ' File "runtime.scheduler", line 90, in EIO'
    first = tracebacks.readable(trace)

    def read_again(*_: Any, **__: Any) -> str:
        raise AssertionError("a source was read again")

    monkeypatch.setattr(Path, "read_text", read_again)
    monkeypatch.setattr("ast.parse", read_again)
    assert tracebacks.readable(trace) == first


# --- releases ---


def test_release_reaches_a_board(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ, note="1.8.0")
    published = people.publish(packed)
    assert (published["digest"], published["already"]) == (digest, False)
    assert people.publish(packed)["already"]
    assert board.poll()["m"] == digest
    raw = board.get(f"/d/v1/manifests/{digest}").plain
    assert hashlib.sha256(raw[: raw.index(b"\nend\n") + 5]).hexdigest() == digest
    for file in manifest.verify(raw, trust.parse(vectors.first_trust())).manifest.files:
        answer = board.get(f"/d/v1/files/{file.sha256}")
        assert answer.plain == FILES[file.name]
        assert set(answer.headers) == {"content-length"}
    assert board.poll(state="installing", prog=[1, 2])["m"] == digest
    assert people.board("sim-01")["progress"] == "1/2"
    board.report |= {"seq": SEQ, "m": digest[:32]}
    board.boot(state="trial")
    assert "m" not in board.poll(state="trial")
    assert "m" not in board.poll(state="ok")
    now = people.board("sim-01")
    assert (now["confirmed"], now["high"], now["state"]) == (digest[:32], SEQ, "ok")
    assert kinds(people) == ["enrolled", "confirmed", "installing", "trial", "confirmed"]
    assert people.bundle(digest) == packed


def test_ranges_and_what_is_not_there(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    path = f"/d/v1/manifests/{digest}"
    whole = board.get(path).body
    rest = board.get(path, range="bytes=100-")
    assert (rest.status, rest.body) == (206, whole[100:])
    assert rest.headers["content-range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    assert board.get(path, range=f"bytes={len(whole)}-").status == 416
    assert board.get(path, range="bytes=0-1,5-6").body == whole
    for absent in (
        "/d/v1/manifests/" + "0" * 64,
        "/d/v1/files/" + digest,
        "/d/v1/files/..%2f..%2ftoken",
        "/d/v1/files/%2e%2e",
        "/d/v1/trust/0",
        "/d/v1/trust/2",
        "/d/v1/trust/x",
        "/d/v1/trust/" + "9" * 20,
        "/d/v1/else",
        "/nowhere",
    ):
        answer = board.get(absent)
        assert (answer.status, answer.body) == (404, b""), absent
    assert board.get("/d/v1/trust/1").plain == vectors.first_trust()


def test_bad_release_is_reported_and_not_offered_again(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    lines = modules.our_sources()["runtime/scheduler.py"].split("\n")
    line = next(i for i, text in enumerate(lines, 1) if "result = fn(*args)" in text)
    # On a board the function has a name of the firmware's (tools/app/compile/names.py).
    trace = (
        f'File "main.py", line 7\n File "runtime.scheduler", line {line}, in EIO\nValueError: <b>'
    )
    bad = {"m": digest[:32], "why": "exception", "soft": 0, "trace": trace}
    assert "m" not in board.boot(bad=bad)
    board.boot(bad=bad)  # said again at the next boot: no second event
    assert kinds(people).count("rolled-back") == 1
    now = people.board("sim-01")
    assert (now["reason"], now["trace"]) == ("exception", trace.replace("EIO", "attempt"))
    newer, packed = release(SEQ + 1, note="fixed")
    people.publish(packed)
    assert board.poll()["m"] == newer


@pytest.mark.parametrize(
    "why, soft",
    [("power", 1), *((why, 0) for why in (*"truncated space key unsigned syntax".split(),
                                         *"trust-sig trust-version revoked a-later-one".split()))],
)  # fmt: skip
def test_passing_trouble_is_no_reason_to_stop_offering(
    people: client.Client, board: FakeBoard, why: str, soft: int
):
    digest, packed = release(SEQ)
    people.publish(packed)
    bad = {"m": digest[:32], "why": why, "soft": soft, "trace": ""}
    for _ in range(3):
        assert board.poll(state="installing", bad=bad)["m"] == digest
    ended = [kind for kind in kinds(people) if kind in ("refused", "rolled-back")]
    assert ended == ["rolled-back" if why == "power" else "refused"]


def test_orders_wait_until_the_board_listens(people: client.Client, board: FakeBoard):
    people.order("sim-01", "rollback")
    assert "do" not in board.poll(state="installing")
    assert board.poll()["do"] == ["rollback"]


def test_failing_jobs_are_shown(people: client.Client, board: FakeBoard):
    board.poll(jobs={"mqtt": [3, 12]}, held=1)
    board.poll()
    now = people.board("sim-01")
    assert (now["jobs"], now["held"]) == ({"mqtt": [3, 12]}, False)


def test_retry_is_repeated_until_the_board_has_forgotten(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    bad = {"m": digest[:32], "why": "veto", "soft": 0, "trace": ""}
    board.poll(bad=bad)
    assert refusal(people.order, "sim-01", "retry " + "0" * 64) == "digest"
    people.order("sim-01", "retry " + digest)
    reply = board.poll()
    assert reply["do"] == ["retry " + digest[:32]]
    assert "m" not in reply
    board.ticket = ""  # the reply was lost
    assert board.poll()["stale"]
    assert board.poll()["do"] == ["retry " + digest[:32]]
    reply = board.poll()
    assert "do" not in reply
    assert reply["m"] == digest


def test_ordered_rollback(people: client.Client, board: FakeBoard):
    first, packed = release(SEQ)
    people.publish(packed)
    second, packed = release(SEQ + 1, note="two")
    people.publish(packed)
    board.report |= {"seq": SEQ, "m": first[:32]}
    board.poll()
    board.report |= {"seq": SEQ + 1, "m": second[:32]}
    board.poll()
    people.order("sim-01", "rollback")
    assert board.poll()["do"] == ["rollback"]
    assert board.poll()["do"] == ["rollback"]  # no effect yet
    board.report |= {"seq": SEQ, "m": first[:32]}
    bad = {"m": second[:32], "why": "order", "soft": 0, "trace": ""}
    reply = board.boot(bad=bad)
    assert "m" not in reply
    assert people.board("sim-01")["orders"] == []
    assert "m" not in board.poll()
    third, packed = release(SEQ + 2, note="three")
    people.publish(packed)
    assert board.poll()["m"] == third


def test_order_that_has_no_effect_fails_in_the_end(people: client.Client, board: FakeBoard):
    people.order("sim-01", "rollback")
    replies = [board.poll() for _ in range(policy.ORDER_TRIES + 1)]
    assert ["do" in reply for reply in replies] == [True] * policy.ORDER_TRIES + [False]
    people.order("sim-01", "rollback")
    board.poll()
    assert "do" not in board.poll(unk=["rollback"])
    # One that resets at the order has no ticket of the reply that carried it.
    people.order("sim-01", "rollback")
    replies = [board.boot() for _ in range(policy.ORDER_TRIES + 1)]
    assert ["do" in reply for reply in replies] == [True] * policy.ORDER_TRIES + [False]
    people.order("sim-01", "rollback")
    assert board.poll()["do"] == ["rollback"]
    people.order("sim-01", "cancel")
    assert people.board("sim-01")["orders"] == []
    assert "do" not in board.poll()
    ends = [e["reason"] for e in people.events("sim-01") if e["kind"] == "order-ended"]
    failed = "the board did not follow"
    assert ends == [failed, "the board does not know this order", failed, "cancelled"]


def test_hold_follow_and_withdraw(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    people.order("sim-01", "hold")
    assert "m" not in board.poll()
    people.order("sim-01", "follow")
    assert board.poll()["m"] == digest
    people.withdraw(digest)
    assert "m" not in board.poll()
    assert refusal(people.publish, packed) == "withdrawn"


def test_nothing_is_offered_that_the_board_would_refuse(people: client.Client, board: FakeBoard):
    old, packed = release(SEQ)
    people.publish(packed)
    new, packed = release(SEQ + 1, note="new")
    people.publish(packed)
    board.report |= {"seq": SEQ + 1, "m": new[:32]}
    board.poll()
    people.withdraw(new)
    assert "m" not in board.poll()
    assert board.poll(state="recovery", seq=0, m="")  # in recovery, with nothing left
    # A release of another class is none of this board's business.
    people.publish(release(SEQ + 5, cls="esp32")[1])
    assert "m" not in board.poll()
    assert old != new


def test_repair_is_offered_to_a_board_in_recovery(people: client.Client, board: FakeBoard):
    digest, packed = release(SEQ)
    people.publish(packed)
    board.poll(seq=SEQ, m=digest[:32])
    assert board.poll(state="recovery", seq=0, m="")["m"] == digest
    # Neither a hold nor an order that it cannot follow keeps a board from being repaired.
    people.order("sim-01", "rollback")
    people.order("sim-01", "hold")
    people.publish(release(SEQ + 1, note="new")[1])
    assert board.poll(state="recovery", seq=0, m="")["m"] == digest


def test_dev_push_newer_than_the_release_is_left_alone(people: client.Client, board: FakeBoard):
    people.publish(release(SEQ)[1])
    assert "m" not in board.poll(seq=SEQ + 10, m="de" * 16)
    digest, packed = release(SEQ + 11, note="later")
    people.publish(packed)
    assert board.poll(seq=SEQ + 10, m="de" * 16)["m"] == digest


def test_reset_in_a_trust_file_lowers_what_counts_as_old(people: client.Client, board: FakeBoard):
    high = SEQ + 900
    digest, packed = release(high)
    people.publish(packed)
    board.poll(seq=high, m=digest[:32])
    people.withdraw(digest)
    old = trust.parse(vectors.first_trust())
    raw = trust.add_signature(trust.following(old, reset=(SEQ, 0)).encode(), vectors.key("root"))
    assert people.add_trust(raw)["version"] == 2
    assert board.poll(seq=SEQ, m="a1" * 16)["trust"] == 2
    assert people.board("sim-01")["high"] == high
    board.poll(seq=SEQ, m="a1" * 16, trust=2)
    assert people.board("sim-01")["high"] == SEQ


def test_after_a_reset_a_board_is_led_down_from_what_it_runs(
    people: client.Client, board: FakeBoard
):
    high = SEQ + 900
    digest, packed = release(high)
    people.publish(packed)
    board.poll(seq=high, m=digest[:32])
    people.withdraw(digest)
    lower, packed = release(SEQ + 5, note="lower")
    assert refusal(people.publish, packed) == "seq"
    old = trust.parse(vectors.first_trust())
    raw = trust.add_signature(trust.following(old, reset=(SEQ, 0)).encode(), vectors.key("root"))
    people.add_trust(raw)
    people.publish(packed)
    assert "m" not in board.poll(seq=high, m=digest[:32])
    assert board.poll(seq=high, m=digest[:32], trust=2)["m"] == lower
    assert board.poll(seq=high, m=digest[:32])["m"] == lower
    assert people.board("sim-01")["high"] == SEQ


# --- publishing ---


def tampered(packed: bytes, name: str, content: bytes | None, method: int = 0) -> bytes:
    """A bundle with one entry more, or other."""
    with zipfile.ZipFile(io.BytesIO(packed)) as source:
        contents = {entry: source.read(entry) for entry in source.namelist()}
    contents.pop(name, None)
    if content is not None:
        contents[name] = content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as bundle_file:
        for entry, data in contents.items():
            bundle_file.writestr(entry, data)
    return out.getvalue()


def test_refused_bundles(people: client.Client):
    _, good = release(SEQ)
    body = manifest.make("weather", "esp8266-generic", SEQ, FILES)
    ahead = policy.minutes_since_2020(time.time()) + 2 * 1440
    cases = {
        "unsigned": [release(SEQ, key="")[1]],
        "key": [release(SEQ, key="other")[1], release(SEQ, key="root")[1]],
        "seq": [release(ahead)[1]],
        "hash": [tampered(good, "files/config.py", b"NAME = 'Kitchen'\n")],
        "size": [tampered(good, "files/config.py", b"NAME = 'kitchen'\n ")],
        "truncated": [
            tampered(good, "files/config.py", b"NAME"),
            tampered(good, "files/config.py", None),
            good.replace(FILES["config.py"], FILES["config.py"].upper()),
        ],
        "extra": [
            tampered(good, "files/more.py", b""),
            tampered(good, "files/../../token", b""),
            tampered(good, "../token", b""),
            tampered(good, "/etc/passwd", b""),
        ],
        "syntax": [
            b"",
            b"PK",
            good[:-1],
            good + b" ",
            bytes(100),
            tampered(good, "manifest", None),
            tampered(good, "manifest", b"ota-manifest 2\nend\n" + b""),
            tampered(good, "files/config.py", bytes(8 << 20), zipfile.ZIP_DEFLATED),
            bundle.write(body, {f"f{n}.py": b"" for n in range(65)}),
        ],
    }
    for code, bundles in cases.items():
        for number, packed in enumerate(bundles):
            found = refusal(people.publish, packed)
            # A manifest without `end` or signature is refused for the one or the other.
            assert found == code or (code, found) == ("syntax", "unsigned"), (code, number, found)
    assert people.releases() == []
    assert people.publish(good)["seq"] == SEQ
    assert refusal(people.publish, release(SEQ, note="x")[1]) == "same-seq"
    assert refusal(people.publish, release(SEQ - 1)[1]) == "seq"


def test_revoked_key_and_trust_steps(people: client.Client, board: FakeBoard):
    people.publish(release(SEQ, key="release2")[1])
    assert refusal(people.add_trust, vectors.first_trust()[:-1]) == "syntax"
    assert people.add_trust(vectors.first_trust())["already"]
    assert people.add_trust(vectors.revoking_trust())["version"] == 2
    assert refusal(people.publish, release(SEQ + 1, key="release2")[1]) == "revoked"
    assert people.trust() == vectors.revoking_trust()
    assert board.poll()["trust"] == 2
    assert board.get("/d/v1/trust/1").plain == vectors.first_trust()
    assert board.get("/d/v1/trust/2").plain == vectors.revoking_trust()
    for step in vectors.trust_steps():
        if step.old == vectors.revoking_trust() and step.code:
            assert refusal(people.add_trust, step.new) == step.code


def test_a_board_with_a_later_trust_file_is_named(people: client.Client, board: FakeBoard):
    """As after a backup from before a change of keys was restored."""
    board.poll()
    board.poll(trust=1)
    assert people.status()["ahead"] is None
    board.poll(trust=3)
    assert people.status()["ahead"] == {"board": "sim-01", "trust": 3}
    people.change("sim-01", retired=True)  # one that is not to be believed
    assert people.status()["ahead"] is None


def test_registration_takes_version_1_only(server: Running):
    api = client.Client(server.url, server.token)
    assert api.trust() is None
    assert refusal(api.publish, release(SEQ)[1]) == "trust"
    assert refusal(api.add_trust, vectors.revoking_trust()) == "trust-version"


def test_a_gigabyte_is_refused_early(server: Running):
    with connect(server.url) as raw:
        answer = talk(
            raw,
            b"POST /api/releases HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            + server.token.encode()
            + b"\r\ncontent-length: 1073741824\r\n\r\nPK",
        )
        assert (answer.status, json.loads(answer.body)["error"]) == (413, "size")
    assert not [f for f in server.storage.folder.iterdir() if f.stat().st_size > 1 << 20]


def test_enrolment(people: client.Client, server: Running):
    fake = FakeBoard(server.url, id="b-1")
    assert people.enrol(fake.file()) == {"id": "b-1", "again": False}
    assert people.enrol(fake.file())["again"]
    with pytest.raises(Failure, match="no board file"):
        people.enrol(fake.file()[:-3] + b"00\n")
    headers = {"authorization": f"Bearer {server.token}"}
    facts = {"fleet": vectors.FLEET, "id": "x", "app": "weather", "class": "c", "key": "00" * 32}
    for said, code in [
        ({}, "board"),
        ({name: facts[name] for name in facts if name != "fleet"}, "board"),
        (facts | {"key": "00"}, "syntax"),
        (facts | {"id": "../x"}, "name"),
        (facts | {"fleet": "other"}, "fleet"),
        (facts | {"key": 7}, "board"),
    ]:
        answer = requests.post(server.url + "/api/boards", json=said, headers=headers, timeout=10)
        assert answer.json()["error"] == code
    other = FakeBoard(server.url, id="b-2", app="other")
    assert people.enrol(other.file()) == {"id": "b-2", "again": False}
    other.close()
    assert refusal(people.board, "nobody") == "board"
    assert "key" not in people.board("b-1")
    fake.close()


# --- crashes and restarts ---


def test_restart_keeps_everything_but_tickets(tmp_path: Path):
    with running(tmp_path, interval=2) as server:
        people = client.Client(server.url, server.token)
        people.add_trust(vectors.first_trust())
        fake = FakeBoard(server.url)
        people.enrol(fake.file())
        digest, packed = release(SEQ)
        people.publish(packed)
        assert fake.boot()["m"] == digest
        people.order("sim-01", "hold")
        fake.close()
    with running(tmp_path, interval=2) as server:
        people = client.Client(server.url, server.token)
        again = FakeBoard(server.url, key=fake.key, ticket=fake.ticket)
        now = people.board("sim-01")
        assert (now["heap"], now["follow"], now["mpy"]) == (21000, False, "6.3")
        assert again.poll()["stale"]
        assert "m" not in again.poll()
        assert [known["digest"] for known in people.releases()] == [digest]
        again.close()


def test_second_server_on_the_same_folder_is_told(server: Running):
    with pytest.raises(Failure, match="another server"), running(server.storage.folder):
        pass


def test_board_that_loses_power_mid_request_is_no_event(
    server: Running, board: FakeBoard, capfd: pytest.CaptureFixture[str]
):
    with connect(server.url) as raw:
        raw.sendall(board.request(board.message())[:-10])
    assert board.poll()["k"]
    assert "Traceback" not in capfd.readouterr().err


# --- people ---


def test_api_needs_the_token_and_pages_a_login(server: Running, people: client.Client):
    paths = ["status", "boards", "boards/x", "boards/x/events", "releases", "trust"]
    for path in paths:
        assert requests.get(f"{server.url}/api/{path}", timeout=10).status_code == 401
        answer = requests.get(f"{server.url}/api/{path}?token={server.token}", timeout=10)
        assert answer.status_code == 401
    session = requests.Session()
    assert session.get(server.url).url.endswith("/login")
    assert session.post(server.url + "/login", data={"token": "x"}).status_code == 401
    page = session.post(server.url + "/login", data={"token": server.token})
    assert page.url == server.url + "/"
    cookie = page.history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert server.token not in cookie
    policy_header = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy_header
    assert "unsafe" not in policy_header
    # The session opens pages, not the API: no other site's form can give orders.
    assert session.get(server.url + "/api/status").status_code == 401
    session.post(server.url + "/logout")
    assert session.get(server.url).url.endswith("/login")


def test_people_never_use_the_database_on_the_loop(
    server: Running, people: client.Client, monkeypatch: pytest.MonkeyPatch
):
    """Nor many boards in one piece: threads have turns, and a turn is what a poll waits for."""
    monkeypatch.setattr("mipy_ota.ota_server.people.api.BOARDS_AT_ONCE", 2)
    monkeypatch.setattr("mipy_ota.ota_server.dashboard.fleet_page.ROWS_A_PAGE", 2)
    for number in range(5):
        people.enrol(FakeBoard(server.url, id=f"b{number}").file())
    seen: set[str] = set()
    sizes: list[int] = []
    read, known = SqliteStorage._read, queries.known

    def watched(self: SqliteStorage, question: Any, args: Any) -> Any:
        seen.add(threading.current_thread().name.split("_")[0])
        return read(self, question, args)

    def counted(db: Any, ids: Any = None) -> Any:
        found = known(db, ids)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(SqliteStorage, "_read", watched)
    monkeypatch.setattr(queries, "known", counted)
    assert [board["id"] for board in people.boards()] == [f"b{number}" for number in range(5)]
    assert people.board("b3")["id"] == "b3"
    assert people.status()["boards"] == 5
    session = requests.Session()
    page = session.post(server.url + "/login", data={"token": server.token}).text
    assert "b0" in page and "b2" not in page
    assert "b2" in session.get(server.url + "/?offset=2").text
    assert seen == {"reader"}
    assert max(sizes) == 2


def test_guessing_is_slowed_down(server: Running):
    codes = [
        requests.get(server.url + "/api/status", headers={"authorization": "Bearer x"}, timeout=10)
        for _ in range(22)  # of which ten must fall into one minute
    ]
    assert {answer.status_code for answer in codes} == {401, 429}
    # Only who guesses is slowed down: from the same address, the owner gets in, by API and page.
    assert client.Client(server.url, server.token).status()["boards"] == 0
    page = requests.post(server.url + "/login", data={"token": server.token}, timeout=10)
    assert page.url == server.url + "/"


def test_pages_of_other_sites_can_send_no_form(server: Running):
    session = requests.Session()
    for origin in ("http://evil.example", "null", "https://127.0.0.1:1"):
        elsewhere = {"origin": origin}
        for _ in range(12):
            answer = session.post(
                server.url + "/login", data={"token": "x"}, headers=elsewhere, timeout=10
            )
            assert answer.status_code == 403
    own = {"origin": server.url}
    page = session.post(
        server.url + "/login", data={"token": server.token}, headers=own, timeout=10
    )
    assert page.url == server.url + "/"
    answer = session.post(
        server.url + "/logout", headers={"origin": "http://evil.example"}, timeout=10
    )
    assert answer.status_code == 403
    assert session.get(server.url, timeout=10).url == server.url + "/"


@pytest.mark.timeout(60)
def test_connections_that_end_by_reset_let_go_of_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("mipy_ota.ota_server.app.IDLE_SECONDS", 3600)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, server_limits.GuardedProtocol) for each in gc.get_objects())

    with running(tmp_path) as server:
        before = alive()
        for _ in range(50):
            with connect(server.url) as raw:
                talk(raw, b"GET /d/v1/trust/9 HTTP/1.1\r\nhost: x\r\n\r\n")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while alive() > before:
            time.sleep(0.05)


def test_full_disk_is_said_and_loses_nothing(
    server: Running, people: client.Client, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    bad = {"m": "b2" * 16, "why": "veto", "soft": 0, "trace": ""}
    digest, packed = release(SEQ)
    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        assert refusal(people.publish, packed) == "storage"
        broken.setattr(SqliteStorage, "_write_rows", full)
        assert board.send(board.message(bad=bad)).status == 503
    assert people.releases() == []
    assert people.board("sim-01")["reason"] == ""
    assert people.publish(packed)["digest"] == digest
    # The report was not acknowledged, so the board says it again.
    board.boot(bad=bad)
    assert people.board("sim-01")["reason"] == "veto"


def test_page_shows_the_last_setback_escaped(
    server: Running, people: client.Client, board: FakeBoard
):
    trace = "ValueError: <script>alert('&')</script>"
    board.poll(bad={"m": "b2" * 16, "why": "exception", "soft": 0, "trace": trace})
    people.publish(release(SEQ, note="<i>note</i>")[1])
    session = requests.Session()
    page = session.post(server.url + "/login", data={"token": server.token}).text
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page
    assert "<script>" not in page
    assert "<i>" not in page
    assert "The app raised an exception" in page
    assert server.token not in page
    assert session.get(server.url + "/style.css").headers["content-type"].startswith("text/css")


def test_token_is_private_and_lasting(tmp_path: Path):
    with running(tmp_path) as server:
        token = server.token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    with running(tmp_path) as server:
        assert server.token == token


def test_taken_port_is_said_clearly(server: Running, tmp_path: Path):
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(Failure) as caught, running(tmp_path / "other", port):
        pass
    assert f":{port}" in caught.value.text
    assert caught.value.hint


def test_many_idle_connections_do_not_keep_polls_out(board: FakeBoard, server: Running):
    idle: list[socket.socket] = [connect(server.url) for _ in range(200)]
    assert board.poll()["k"]
    for raw in idle:
        raw.close()
    with connect(server.url) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert hear(raw).status == 400


# --- docs/protocol.md ---

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")


def test_examples_in_the_protocol_are_right():
    key = bytes(range(32))
    examples = re.findall(r"```poll\n(.*)\nota-mac (.*)\n(.*)\nota-mac (.*)\n```", PROTOCOL)
    assert len(examples) == 3
    for message, mac, reply, reply_mac in examples:
        nonce = json.loads(message)["n"].encode()
        assert hmac.digest(key, b"poll1\0" + message.encode(), "sha256").hex() == mac
        sealed = b"reply1\0" + nonce + reply.encode()
        assert hmac.digest(key, sealed, "sha256").hex() == reply_mac
    length, mac = re.findall(r"content-length: (\d+)\nota-mac: (.*)\n", PROTOCOL)[0]
    assert (int(length), mac) == (len(examples[1][0]), examples[1][1])


def test_server_takes_the_examples(server: Running, people: client.Client):
    fake = FakeBoard(server.url, key=bytes(range(32)))
    people.enrol(fake.file())
    for message in re.findall(r"```poll\n(.*)\n", PROTOCOL):
        said = json.loads(message)
        fake.nonce = said["n"]
        # The server draws its own tickets, so only the first example fits as it stands.
        body = message if not said["k"] else json.dumps(said | {"k": fake.ticket})
        reply = fake.accept(fake.send(body.encode()))
        assert ("stale" in reply) == (not said["k"])
    assert people.board("sim-01")["reason"] == "exception"
    fake.close()


@pytest.mark.parametrize("ticket", [7, None, "x" * 17, "\u2028", "g" * 16, ["0" * 16], "x" * 600])
def test_odd_ticket_is_no_ticket(board: FakeBoard, ticket: Any):
    """Somebody with the board's key has sealed it into a reply: the board is not lost by that."""
    body = json.loads(board.message()) | {"k": ticket}
    reply = board.accept(board.send(json.dumps(body).encode()))
    assert reply["stale"] == 1
    assert "stale" not in board.poll()


def test_failed_install_is_told(people: client.Client, board: FakeBoard):
    """Once, though the board repeats it at each start."""
    for _ in range(3):
        board.boot(fail="http")
    assert people.board("sim-01")["reason"] == "http"
    failed = [e["reason"] for e in people.events("sim-01") if e["kind"] == "install-failed"]
    assert failed == ["http"]
    assert board.send(board.message(fail="a\nb")).status == 400


def test_two_boards_with_one_identity_are_told(
    people: client.Client, server: Running, board: FakeBoard
):
    """A flash image on two chips: each is whole, and together they look like one that jumps."""
    twin = FakeBoard(server.url, key=board.key)
    board.boot(up=1000)
    twin.boot(up=50)

    def said():
        return [e["kind"] for e in people.events("sim-01") if e["kind"] == "twin"]

    assert not said()  # so far it may be one board that has started anew
    for up in (60, 120, 180):
        for one, seconds in ((board, 1000 + up), (twin, 50 + up)):
            reply = one.poll(up=seconds)
            if reply.get("stale"):
                one.poll(up=seconds)
    assert said() == ["twin"] and people.board("sim-01")["reason"] == "twin"
    twin.close()


def test_a_board_that_starts_anew_is_no_twin(people: client.Client, board: FakeBoard):
    for up in (1000, 5, 3000, 1):
        board.boot(up=up)
        board.poll(up=up + 60)
    assert "twin" not in [e["kind"] for e in people.events("sim-01")]


def test_every_path_and_reason_is_in_the_protocol(tmp_path: Path):
    for route in make_app(tmp_path, token="x").people.routes:
        path = re.sub(r"\{.*", "", getattr(route, "path", ""))
        if path.startswith("/api/"):
            assert path in PROTOCOL
    section = PROTOCOL.split("## Reason codes")[1]
    assert set(reasons.SENTENCES) <= set(re.findall(r"[a-z-]+", section))
    assert set(reasons.SENTENCES) >= policy.RELEASE_REASONS | policy.ROLLBACK_REASONS


# --- mipy serve ---


def test_serve_stops_cleanly_on_ctrl_c(tmp_path: Path):
    command = [sys.executable, "-m", "mipy_ota.tools.cli", "serve", "--host", "127.0.0.1"]
    environment = os.environ | {"MIPY_HOME": str(tmp_path)}
    with subprocess.Popen(
        [*command, "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("serving ").strip()
        token_file = Path(process.stdout.readline().rsplit(" ", 1)[1].strip())
        token = token_file.read_text().strip()
        assert token_file.stat().st_mode & 0o777 == 0o600
        assert client.Client(url, token).status()["boards"] == 0
        port = url.rsplit(":", 1)[1]
        second = subprocess.run(
            [*command, "--port", port], env=environment, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        assert "what to do:" in second.stderr
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode in (0, 130)
        assert "Traceback" not in err
        assert token not in out + err


# --- who else may read it


def test_in_a_folder_that_others_may_read_the_server_s_secrets_are_its_own(tmp_path: Path):
    """A folder named by --data may be one that exists, and from an earlier version."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    for name in ("server.db", "server.db-wal", "token"):
        (folder / name).touch(mode=0o644)
        (folder / name).chmod(0o644)
    (folder / "token").write_text("secret\n")
    with running(folder) as served:
        client.Client(served.url, served.token).add_trust(vectors.first_trust())
        found = {path.name: path.stat().st_mode & 0o077 for path in folder.iterdir()}
        assert {"server.db", "server.db-wal", "token", "files", "manifests"} <= set(found)
        assert not any(found.values()), found
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_proxy_named_in_the_environment_is_not_for_this_computer(
    server: Running, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert client.Client(server.url, server.token).status()["boards"] == 0
        with pytest.raises(TimeoutError):
            proxy.accept()


def test_board_that_asks_elsewhere_is_shown(people: client.Client, board: FakeBoard):
    """Once: it may say so in each poll."""
    for _ in range(3):
        board.poll(first="http://192.0.2.1:8266\x1b")
    told = [e["text"] for e in people.events("sim-01") if e["kind"] == "asks-elsewhere"]
    assert told == ["http://192.0.2.1:8266\\x1b"]
    assert people.board("sim-01")["reason"] == "moved"
