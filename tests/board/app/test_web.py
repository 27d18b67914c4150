"""Pages of a running app: values, forms, its own files and no others, whoever asks."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mipy_ota.signing import bundle
from mipy_ota.tools.app import build
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import ROOT, fleet, loopback
from tests.support.phone import Phone, needed
from tests.support.portal import raw

PICTURES = ROOT / "docs" / "images"
RELAY, BUTTON = 5, 0
HOME = loopback.address()
MAIN = """\
import gc

import config
import runtime
from drivers.button import Button
from drivers.relay import Relay
from runtime import log


def setup(app):
    relay = Relay(5)
    app.driver(relay)
    app.driver(Button(0, lambda: relay.set(not relay.on)))
    taken = {}

    def values():
        if taken.get("none"):
            return {}
        return {"name": config.NAME, "relay": "on" if relay.on else "off", "up": app.up,
            "rssi": None, "free": gc.mem_free(), "release": "<b>&\\"'</b> ü", "t": taken.get("x")}

    def switch(fields):
        to = fields["to"]
        if to not in ("on", "off"):
            raise ValueError("<on> or off, not " + to)
        relay.set(to == "on")

    def beat():
        gc.collect()
        log.info("beat %d used %d", app.up, gc.mem_alloc())

    forms = {"relay": switch, "take": taken.update, "fail": lambda fields: 1 // 0,
        "lost": lambda fields: open("/nowhere")}
    runtime.lend("web").serve(app, values, forms, PASSWORD)
    app.every(500, beat)


runtime.run(setup)
"""
ALL = """\
<p>$name$|$rssi$|$release$|$t$|$nobody$|5 $$ $token$
"""


def release(folder: Path, password: str = "") -> bytes:
    """The app above with the relay example's page."""
    (folder / "lib").mkdir(parents=True)
    (folder / "app.toml").write_text('name = "demo"\n')
    (folder / "config.py").write_bytes((ROOT / "app_slots" / "config.py").read_bytes())
    (folder / "main.py").write_text(MAIN.replace("PASSWORD", repr(password)))
    shutil.copytree(ROOT / "examples" / "relay" / "www", folder / "www")
    (folder / "www" / "all.html").write_text(ALL)
    (folder / "www" / "more").mkdir()
    (folder / "www" / "more" / "big.txt").write_text("0123456789abcdef" * 1024)
    files = bundle.read(build.make(folder, fleet.CLASS, 1000, compile_all=True))[1]
    return fleet.release(files, 1000)


@contextlib.contextmanager
def board(folder: Path, password: str = "", address: str = HOME) -> Iterator[VirtualBoard]:
    """A board at whose door one can knock."""
    made = release(folder / "app", password)
    with fleet.prepared(folder / "board", fleet.identity(), made, address=address) as it:
        it.start()
        assert it.wait("beat 2"), it.console
        yield it


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualBoard]:
    with board(tmp_path_factory.mktemp("served")) as it:
        yield it
        # Whatever was asked: two forms failed, as they should, and the app runs.
        assert it.console.count("Traceback") <= 2, it.console
        beats(it, 2)


def beats(it: VirtualBoard, count: int) -> int:
    """Wait until the app's job has run so many times more; bytes of heap in use then."""
    seen = len(it.console)
    assert it.wait(lambda b: b.console[seen:].count("beat ") > count), it.console[-2000:]
    return int(re.findall(r"used (\d+)", it.console)[-1])


def url(it: VirtualBoard, path: str = "/") -> str:
    return f"http://{it.address}:8080{path}"


def get(it: VirtualBoard, path: str = "/", **options) -> requests.Response:
    return requests.get(url(it, path), timeout=30, allow_redirects=False, **options)


def post(it: VirtualBoard, path: str, **fields: str) -> requests.Response:
    return requests.post(url(it, path), fields, timeout=30, allow_redirects=False)


def token(it: VirtualBoard) -> str:
    found = re.search("name=t value=([0-9a-f]{16})>", get(it).text)
    assert found
    return found[1]


def test_page(served: VirtualBoard) -> None:
    """Values in their places, as text; None, unknown ones, dollars, the token."""
    text = get(served, "/all.html").text
    name, none, nasty, taken, nobody, rest = text.removeprefix("<p>").strip().split("|")
    assert (name, none, taken, nobody) == ("demo", "-", "-", "?")
    assert nasty == "&#60;b&#62;&#38;&#34;&#39;&#60;/b&#62; ü"
    assert rest == f"5 $ {token(served)}"
    reply = get(served)
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-frame-options"] == "DENY"
    assert not re.search(r"src=.?http|url\(|@import", reply.text)


def test_values(served: VirtualBoard) -> None:
    values = get(served, "/values.json").json()
    assert values["name"] == "demo" and values["rssi"] is None
    assert "token" not in values


def test_files(served: VirtualBoard) -> None:
    script = get(served, "/live.js")
    assert script.content == (ROOT / "examples/relay/www/live.js").read_bytes()
    assert script.headers["content-type"] == "text/javascript;charset=utf-8"
    assert get(served, "/more/big.txt?x=1").text == "0123456789abcdef" * 1024


HOSTILE = (
    "/../main.py /../main.mpy /www/../main.mpy /more/../../config.mpy /..%2fmain.mpy "
    "/%2e%2e/main.mpy /./index.html //etc/passwd /more //more/big.txt/ /index.html/ /.hidden "
    "/more/. ../main.mpy http://x/index.html * /values /relay /../../../trust/0/board "
    "/..\\main.mpy /\0 /\xff /live.js\0"
).split()


def test_only_its_own_files(served: VirtualBoard) -> None:
    for path in HOSTILE:
        reply = raw(served.address, f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode("latin-1"))
        assert reply == b"" or reply.startswith(b"HTTP/1.1 404 "), (path, reply)
    for method in ("PUT", "DELETE", "OPTIONS", "get /index.html", ""):
        data = f"{method} /index.html HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        reply = raw(served.address, data)
        assert not reply.startswith(b"HTTP/1.1 200") or method.startswith("get"), method


def test_forms(served: VirtualBoard) -> None:
    known = token(served)
    assert post(served, "/relay", t=known, to="on").status_code == 303
    assert served.level(RELAY) == 1 and get(served, "/values.json").json()["relay"] == "on"
    refused = post(served, "/relay", t=known, to="<script>")
    assert refused.status_code == 400 and "not &#60;script&#62;" in refused.text
    assert post(served, "/relay", t=known, to="off").headers["location"] == "/"
    assert served.level(RELAY) == 0
    assert post(served, "/nothing", t=known).status_code == 404
    assert get(served, "/relay").status_code == 404
    nasty = "ä ☕ &=+%?<b>"
    assert post(served, "/take", t=known, x=nasty, y="").status_code == 303
    assert get(served, "/values.json").json()["t"] == nasty
    assert token(served) == known
    assert post(served, "/take", t=known, none="1").status_code == 303  # no values at all
    assert token(served) == known
    assert post(served, "/take", t=known, none="").status_code == 303


def test_an_app_that_fails(served: VirtualBoard) -> None:
    """A form or values that raise are the app's fault: logged, and nobody else is disturbed."""
    with pytest.raises(requests.ConnectionError):
        post(served, "/fail", t=token(served))
    assert served.wait("ZeroDivisionError")
    with pytest.raises(requests.ConnectionError):
        post(served, "/lost", t=token(served))
    assert served.wait("ENOENT")  # no visitor's OSError
    assert get(served).status_code == 200


def test_from_elsewhere(served: VirtualBoard) -> None:
    """Another site's page posts blindly, or lets its name point at the board."""
    for wrong in ({}, {"t": ""}, {"t": "0" * 16}):
        assert post(served, "/relay", to="on", **wrong).status_code == 403
    assert served.level(RELAY) == 0
    foreign = ["evil.example", f"{HOME}.evil.example:80", "local.evil.example", "x.locals"]
    # Longer than what is kept of a line.
    foreign += ["a" * 59 + ".evil.example", "a" * 53 + ".local.evil.example", "1" * 70]
    for host in foreign:
        assert get(served, headers={"host": host}).status_code == 403, host
    for host in (HOME, "10.0.0.7:80", "kitchen", "Kitchen.local", "kitchen.lan:8080"):
        assert get(served, headers={"host": host}).status_code == 200, host


def test_password(tmp_path: Path) -> None:
    with board(tmp_path, "grüße: 7", loopback.address()) as it:
        for path in ("/", "/values.json", "/live.js", "/nothing"):
            reply = get(it, path)
            assert reply.status_code == 401 and "Basic" in reply.headers["www-authenticate"]
        for wrong in ("", "grüße: 8", "grüße: 77", "x" * 500):
            reply = get(it, auth=(b"any", wrong.encode()))
            assert reply.status_code == 401, wrong
        for key in ("Basic", "Basic =", "Basic !", "Basic Og==", "Bearer Og==", "Basic YWJj"):
            request = f"GET / HTTP/1.1\r\nhost: a\r\nauthorization: {key}\r\n\r\n"
            reply = raw(it.address, request.encode())
            assert reply == b"" or reply.startswith(b"HTTP/1.1 401 "), (key, reply)
        assert post(it, "/relay", t="", to="on").status_code == 401
        assert get(it, auth=(b"any", "grüße: 7".encode())).status_code == 200


def test_several_clients(served: VirtualBoard) -> None:
    """Four at once, several times each: every one is served, and served what it asked for."""
    wrong: list[str] = []

    def visit(number: int) -> None:
        asked = (("/values.json", '"name"'), ("/", "</dl>"), ("/more/big.txt", "cdef"))
        path, text = asked[number % 3]
        for _ in range(4):
            try:
                reply = get(served, path)
                if reply.status_code != 200 or text not in reply.text:
                    wrong.append(f"{path} {reply.status_code} {reply.text}")
            except requests.RequestException as problem:
                wrong.append(f"{path} {problem!r}")

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert not wrong


def test_hostile_clients(served: VirtualBoard) -> None:
    """Slow, huge, many: the honest one is served meanwhile, and the app goes on."""
    before = beats(served, 2)
    address = (served.address, 8080)
    slow = [socket.create_connection(address, 10) for _ in range(3)]
    slow[0].sendall(b"GET / HT")
    slow[1].sendall(b"POST /relay HTTP/1.1\r\ncontent-length: 900\r\n\r\nt=")
    slow[2].sendall(b"GET /more/big.txt HTTP/1.1\r\nhost: a\r\n\r\n")  # and never reads
    assert get(served).status_code == 200
    heads = (b"GET /" + b"x" * 1_000_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 170_000)
    bodies = tuple(
        b"POST /relay HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % n
        for n in (1025, 99999999, -5)
    )
    for data in (*heads, *bodies, b"POST /relay HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
        assert b" 200 " not in raw(served.address, data)
        assert get(served, "/values.json").status_code == 200
    many = []
    for _ in range(25):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(address)
        many.append(s)
    assert get(served, "/values.json").status_code == 200
    for s in (*slow, *many):
        s.close()
    time.sleep(1)
    after = beats(served, 4)
    print("heap in use before and after", before, after)
    assert after <= before + 1024


def test_mutated_requests(served: VirtualBoard) -> None:
    """Damaged requests: none switches the relay, none costs the app anything for long."""
    rng = random.Random(4)
    known = token(served)
    body = f"t={known[:-1]}&to=on"
    seeds = (
        f"GET / HTTP/1.1\r\nhost: {HOME}\r\nauthorization: Basic YTpi\r\n\r\n".encode(),
        b"POST /relay HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s"
        % (len(body), body.encode()),
    )
    before = beats(served, 2)
    for seed in itertools.islice(itertools.cycle(seeds), 80):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(data) + 1)
            if rng.random() < 0.5:
                data[at : at + 1] = rng.randbytes(rng.randint(1, 3))
            else:
                data[at:at] = data[at : at + rng.randint(1, 40)] * rng.randint(1, 30)
        raw(served.address, bytes(data), end=True)
    time.sleep(1)
    after = beats(served, 4)
    assert served.level(RELAY) == 0 and after <= before + 1024, (before, after)


@needed
def test_from_a_phone(served: VirtualBoard) -> None:
    """Tapped, switched; the button at the board shows on the page by itself. With a picture."""
    with Phone(served.address) as phone:
        phone.open("http://192.168.1.23/")
        assert phone.text("h1") == "demo" and phone.text("#relay") == "off"
        phone.tap("button[value=on]")
        phone.wait_for("on On Off")
        assert served.level(RELAY) == 1
        if os.environ.get("MIPY_PICTURES"):
            phone.photograph(PICTURES / "app-page.png")
        served.drive(BUTTON, 0)
        time.sleep(0.5)
        served.drive(BUTTON, None)
        phone.wait_for("off On Off")
        assert served.level(RELAY) == 0
        assert phone.url == "http://192.168.1.23/"


@needed
def test_without_scripts(served: VirtualBoard) -> None:
    with Phone(served.address, scripts=False) as phone:
        phone.open("http://192.168.1.23/")
        phone.tap("button[value=on]")
        phone.wait_for("on On Off")
        phone.tap("button[value=off]")
        phone.wait_for("off On Off")
