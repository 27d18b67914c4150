"""The runtime of a release, on a real MicroPython with the ESP8266's heap where that matters."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import random
import socketserver
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mipy_ota.signing.manifest import stem
from mipy_ota.tools.app import build, collect
from mipy_ota.tools.app.compile import boot_stage, bytecode
from mipy_ota.tools.app.compile.modules import our_modules
from tests.support import ROOT

DEVICE = ROOT / "tests" / "device"
ESP8266 = 38_912


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app and the boot stage as bytecode, the stand-ins as source."""
    target = tmp_path_factory.mktemp("modules")
    beside = [source.read_bytes() for source in DEVICE.glob("*.py")]
    stage = boot_stage.compiled(boot_stage.sources(), beside)
    files = {name: content for name, content in stage.items() if name.endswith(".mpy")}
    for name, text in our_modules(beside).items():
        files[f"/{stem(name)}.mpy"] = bytecode.compiled(text.encode(), name)
    for path in (ROOT / "app_slots").glob("*.py"):
        files[f"/{path.stem}.mpy"] = bytecode.compiled(path.read_bytes(), path.name)
    for source in DEVICE.glob("*.py"):
        files[f"/{source.name}"] = source.read_bytes()
    for name, content in files.items():
        out = target / name[1:]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    return target


class Device:
    """Runs the scripts of tests/device on a disk of its own."""

    def __init__(self, mpy: list[str], modules: Path, disk: Path) -> None:
        self._mpy, self._modules, self._disk = mpy, modules, disk
        disk.touch()

    def run(self, script: str, *args: str, heap: int = 0, seconds: float = 60) -> str:
        """Run `script`; return what it printed. It must end by itself, with exit code 0."""
        option = ["-X", f"heapsize={heap}"] if heap else []
        done = subprocess.run(
            [*self._mpy, *option, str(DEVICE / script), str(self._disk), str(self._modules), *args],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def device(mpy: list[str], modules: Path, tmp_path: Path) -> Device:
    return Device(mpy, modules, tmp_path / "disk")


def test_scheduler(device: Device) -> None:
    out = device.run("jobs.py")
    assert out.count("passed") == 8, out
    sys.stdout.write(out)


KEY = bytes([0x11]) * 32
FIRST = "f" * 16  # the first ticket
Reply = dict[str, Any]


class Server(socketserver.ThreadingTCPServer):
    """Answers polls by the protocol; `script` says what each one gets that carries a ticket.

    The first of a boot has none and gets one, unless `raw`: then the script has that too.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, script: Callable[[int, Reply], Reply | bytes | None], raw: bool = False
    ) -> None:
        self.script = script
        self.raw = raw
        self.polls: list[Reply] = []
        self.sizes: list[tuple[int, int]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast(Server, self.server)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        body = self.rfile.read(int(fields["content-length"]))
        assert head.startswith(b"POST /d/v1/poll HTTP/1.1\r\n")
        assert fields["ota-mac"] == hmac.new(KEY, b"poll1\0" + body, "sha256").hexdigest()
        assert len(body) <= 1024
        poll = json.loads(body)
        reply: Reply | bytes | None = {"k": FIRST, "stale": 1}
        if poll["k"] or server.raw:
            server.polls.append(poll)
            reply = server.script(len(server.polls), poll)
        else:
            assert "proto" not in poll and "bad" not in poll
        if reply is None:
            return
        if isinstance(reply, dict):
            reply = answer(poll, reply)
        server.sizes.append((len(head) + len(body), len(reply)))
        for start in range(0, len(reply), 100):
            with contextlib.suppress(OSError):
                self.wfile.write(reply[start : start + 100])
                self.wfile.flush()


def answer(poll: Reply, reply: Reply, key: bytes = KEY) -> bytes:
    body = json.dumps(reply, separators=(",", ":")).encode()
    mac = hmac.new(key, b"reply1\0" + poll["n"].encode() + body, "sha256").hexdigest()
    return (
        f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nota-mac: {mac}\r\n\r\n".encode() + body
    )


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(script: Callable[[int, Reply], Reply | bytes | None], raw: bool = False) -> Server:
        servers.append(Server(script, raw))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_nothing_new(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": f"{n:016x}", "t": 1, "every": 5, "trust": 1})
    out = device.run("poll.py", server.url, "3", "hasten", heap=ESP8266)
    assert "heard True" in out and "interrupted" in out
    first, second = server.polls[:2]
    assert (first["proto"], first["app"], first["class"], first["trust"]) == (1, "demo", "unix", 1)
    assert first["addr"] == "127.0.0.1" and first["k"] == FIRST
    assert "proto" not in second and second["k"] == f"{1:016x}" and second["n"] != first["n"]
    assert second["state"] == "ok" and second["seq"] == 7
    assert server.sizes[2][0] <= 450 and server.sizes[2][1] <= 300
    sys.stdout.write(f"{out}{server.sizes[:3]}\n")


def test_stale_tells_everything_again(device: Device, serve: Callable[..., Server]) -> None:
    def script(n: int, poll: Reply) -> Reply:
        reply: Reply = {"k": f"{n:016x}", "every": 60, "trust": 1}
        return reply | {"stale": 1, "m": "cd" * 32} if n == 1 else reply

    server = serve(script)
    out = device.run("poll.py", server.url, "5", "bad", heap=ESP8266)
    assert "events []" in out, out
    assert len(server.polls) == 2, out
    first, second = server.polls
    for poll in (first, second):
        assert poll["proto"] == 1
        assert poll["bad"]["m"] == "ab" * 16 and poll["bad"]["why"] == "exception"
        assert poll["bad"]["soft"] == 0 and 'Traceback "x"\n' in poll["bad"]["trace"]


def test_the_last_lines_go_with_the_report(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": f"{n:016x}", "every": 60, "trust": 1})
    device.run("poll.py", server.url, "4", "bad", "lines", heap=ESP8266)
    trace = server.polls[0]["bad"]["trace"]
    lines, _, rest = trace.partition('Traceback "x"\n')
    assert len(trace) <= 500 and rest, trace
    assert lines.endswith("line\n9 W the newest line\n") or not lines


def test_an_offer_is_installed(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": "00", "every": 5, "m": "cd" * 32})
    assert "left for install" in device.run("poll.py", server.url, "4", heap=ESP8266)
    server = serve(lambda n, poll: {"k": "00", "every": 5, "trust": 2})
    assert "left for install" in device.run("poll.py", server.url, "4", heap=ESP8266)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("bad", "ab"), ("soft", "ab"), ("trial unripe", "cd"), ("busy", "cd"), ("fails", "cd")],
)
def test_an_offer_waits(
    device: Device, serve: Callable[..., Server], mode: str, wanted: str
) -> None:
    server = serve(lambda n, poll: {"k": "00", "every": 5, "m": wanted * 32})
    out = device.run("poll.py", server.url, "3", "hasten", *mode.split(), heap=ESP8266)
    assert "install" not in out.split("events")[1] and len(server.polls) >= 2, out


def test_orders(device: Device, serve: Callable[..., Server]) -> None:
    def script(n: int, poll: Reply) -> Reply:
        orders = [["retry " + "ab" * 16, "dance", "sing"], [], ["rollback"]][n - 1]
        return {"k": "00", "every": 5, "do": orders}

    server = serve(script)
    out = device.run("poll.py", server.url, "5", "hasten", "bad", heap=ESP8266)
    assert "events ['retry', 'rollback']" in out
    assert server.polls[1]["unk"] == ["dance", "sing"] and "unk" not in server.polls[2]


def test_what_is_no_answer(device: Device, serve: Callable[..., Server]) -> None:
    """Each costs one poll, none the loop, and none counts as the server's word."""

    def script(n: int, poll: Reply) -> bytes | None:
        good = {"k": "00", "every": 5, "m": "cd" * 32}
        return [
            None,
            b"",
            b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
            answer(poll, good, b"\x22" * 32),
            answer(poll | {"n": "0" * 16}, good),
            answer(poll, good)[:-1],
            answer(poll, good)[:-1] + b"]",
            b"x" * 5000,
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"y" * 5000,
            b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            b"\xff\xfe:\x00\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        ][(n - 1) % 12]

    server = serve(script, raw=True)
    out = device.run("poll.py", ",".join([server.url] * 3), "60", "trial", "hasten", heap=ESP8266)
    assert "events [] heard False" in out and "interrupted" in out, out
    assert len(server.polls) >= 12, out


def test_the_next_address(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": "00", "every": 5})
    urls = f"http://127.0.0.1:1,https://127.0.0.1:2,{server.url}"
    out = device.run("poll.py", urls, "4", "hasten", heap=ESP8266)
    assert "heard True" in out, out


def test_no_wifi(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": "00", "every": 5})
    out = device.run("poll.py", server.url, "3", "offline", "hasten", heap=ESP8266)
    assert "heard False" in out and not server.polls and "no answer" not in out
    assert "'wifi'" in out


def test_a_trial_is_confirmed_and_told(device: Device, serve: Callable[..., Server]) -> None:
    server = serve(lambda n, poll: {"k": "00", "every": 60})
    out = device.run("poll.py", server.url, "5", "trial", "flaky", heap=ESP8266)
    assert "events ['confirmed']" in out
    assert [poll["state"] for poll in server.polls] == ["trial", "ok"]
    assert server.polls[1]["jobs"]["flaky"][0] >= 1


def test_settings(device: Device) -> None:
    out = device.run("settings_cuts.py")
    assert out.count("passed") == 9, out
    sys.stdout.write(out)


def blob(folder: Path, content: bytes, body: bytes | None = None) -> str:
    """Store `content` as the server would, or `body` in its name; return size and name."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -10)
    sha = hashlib.sha256(content).hexdigest()
    stored = packer.compress(content if body is None else body) + packer.flush()
    (folder / sha).write_bytes(stored)
    return f"{len(content)}:{sha}"


def test_installer(device: Device, modules: Path) -> None:
    """Keeps, copies, loads, and refuses, all on the ESP8266's heap, with a 60 KB file."""
    blobs = modules / "blobs"
    blobs.mkdir(exist_ok=True)
    small, big = b"x = 1\n" * 40, random.Random(1).randbytes(60_000)
    new = blob(blobs, small)
    old = blob(blobs, b"y = 2\n" * 50)
    large = blob(blobs, big)
    empty = blob(blobs, b"")
    long = blob(blobs, b"a" * 300, b"a" * 301)
    short = blob(blobs, b"b" * 300, b"b" * 299)
    other = blob(blobs, b"c" * 300, b"C" * 300)
    bomb = blob(blobs, b"d" * 300, bytes(5_000_000))
    cut = blob(blobs, b"e" * 300)
    broken = blob(blobs, b"f" * 300)
    packed = blobs / cut.split(":")[1]
    packed.write_bytes(packed.read_bytes()[:-2])
    (blobs / broken.split(":")[1]).write_bytes(b"\xff" * 50)
    steps = [
        (f"active:main.mpy:{new}", "loaded"),
        (f"fetch:main.mpy:{old}", "loaded"),
        (f"fetch:main.mpy:{old}", "kept"),
        (f"fetch:main.mpy:{new}", "copied"),
        (f"fetch:big.bin:{large}", "loaded"),
        (f"fetch:big.bin:{large}", "kept"),
        (f"fetch:drivers/none.py:{empty}", "loaded"),
        (f"refuse:a.mpy:{long}", "size"),
        (f"refuse:a.mpy:{short}", "truncated"),
        (f"refuse:a.mpy:{other}", "hash"),
        (f"refuse:a.mpy:{bomb}", "size"),
        (f"refuse:a.mpy:{cut}", "truncated"),
        (f"refuse:a.mpy:{broken}", "hash"),
        (f"endless:a.mpy:{new}", "size"),
        (f"fetch:a.mpy:{old}", "loaded"),
    ]
    out = device.run("install.py", *(step for step, _ in steps), heap=ESP8266)
    lines = out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == [ends for _, ends in steps]
    assert lines[-1] == "asked 11"


def test_loop(device: Device) -> None:
    out = device.run("life.py")
    assert out.count("passed") == 5, out


def test_sizes(device: Device, modules: Path) -> None:
    """The budget of the core: what stays in memory while an app runs."""
    sizes = {path.stem: path.stat().st_size for path in (modules / "runtime").glob("*.mpy")}
    files = {Path(name).stem for name in collect.collect(ROOT / "app_slots", True)}
    core = files & set(sizes) - build.LENT
    print(sizes, "resident", sum(sizes[name] for name in core))
    assert sum(sizes[name] for name in core) <= 9 * 1024
    sys.stdout.write(device.run("heap.py", heap=ESP8266))


def test_demo_app(device: Device, modules: Path) -> None:
    """The demo, with a board's own settings, on the ESP8266's heap; its LED ends dark."""
    text = "settings 1 3 0\nHEARTBEAT 1\nNAME kitchen\n"
    check = hashlib.sha256(text.encode()).hexdigest()[:8]
    (modules / "settings").write_text(f"{text}end {check}\n")
    out = device.run("demo.py", heap=ESP8266)
    assert "I kitchen is alive, " in out and "pin {2: 1}" in out, out
    assert "failed" not in out, out
    sys.stdout.write(out)
