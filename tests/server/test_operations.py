"""Running the server in earnest: TLS, a proxy in front, its log, its end, what ships for that."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mipy_ota.ota_server.app import make_app
from mipy_ota.ota_server.people import access
from mipy_ota.tools import logs, places
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client, serve
from tests.support import ROOT, loopback
from tests.support.broker import wait
from tests.support.fake_board import FakeBoard

DEPLOY = ROOT / "ota_server" / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SECONDS = 60


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MIPY_SERVER", "MIPY_TOKEN_FILE", "MIPY_FLEET", "MIPY_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of 127.0.0.1 in one file; it vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(host, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, locked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path / "both.pem"
    path.write_bytes(key.private_bytes(pem, form, locked) + made.public_bytes(pem))
    return path


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server of its own process, and what it said at its start."""
    command = [sys.executable, "-u", "-m", "mipy_ota.tools.cli", "serve"]
    command += ["--host", "127.0.0.1", "--port", "0", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout
            said = [process.stdout.readline().strip() for _ in range(2 + ("--tls-cert" in words))]
            assert wait(lambda: healthy(said[0].removeprefix("serving ")) or process.poll())
            yield process, said
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(SECONDS)


def healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def token() -> str:
    return (places.fleet_dir() / "token").read_text().strip()


def logged_in(url: str, authority: Path) -> requests.Session:
    """A browser that has logged in, by a form of the server's own page."""
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would come first
    session.verify = str(authority)
    answer = session.post(f"{url}/login", data={"token": token()}, headers={"origin": url})
    assert answer.ok and answer.url == f"{url}/", answer.url
    return session


def test_people_come_by_tls_and_boards_as_ever(certificate: Path):
    files = ("--tls-cert", str(certificate), "--tls-key", str(certificate), "--tls-port", "0")
    with serving(*files) as (_, said):
        plain, url = said[0].removeprefix("serving "), said[2].removeprefix("people come to ")
        assert url.startswith("https://127.0.0.1:")
        session = logged_in(url, certificate)
        assert all(cookie.secure for cookie in session.cookies)
        assert {cookie.name for cookie in session.cookies} == {access.COOKIE}
        assert requests.get(f"{url}/healthz", verify=str(certificate), timeout=30).ok
        # From this computer itself nothing crosses a network.
        assert client.Client(plain, token()).status()
        board = FakeBoard(plain)
        assert board.send(board.message()).status == 403  # of a stranger: it was read
        board.close()


def request(path: str, **more: Any) -> tuple[int, dict[bytes, bytes]]:
    """What a server with TLS on port 8267 answers who comes in clear from a network."""
    scope = {
        "type": "http", "scheme": "http", "method": "GET", "path": path, "query_string": b"",
        "headers": [(b"host", b"ota.example:8266")], "client": ("192.0.2.9", 40000),
        "server": ("192.0.2.1", 8266), "root_path": "", "http_version": "1.1",
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    async def work() -> None:
        app = make_app(places.data_dir(), token="x")
        await app.storage.start()
        secure = replace(app, tls_port=more.pop("tls_port", 8267))
        await secure(scope | more, receive, send)
        await app.storage.close()

    asyncio.run(work())
    return sent[0]["status"], dict(sent[0]["headers"])


def test_nobody_comes_in_clear_where_there_is_tls():
    status, headers = request("/boards/kitchen")
    assert (status, headers[b"location"]) == (307, b"https://ota.example:8267/boards/kitchen")
    assert request("/", client=("2001:db8::1", 1), headers=[(b"host", b"[2001:db8::2]:8266")])[1][
        b"location"
    ] == (b"https://[2001:db8::2]:8267/")
    assert request("/api/boards")[0] == 403
    assert request("/login", method="POST")[0] == 403
    assert request("/", tls_port=0)[0] == 403  # where the proxy is it cannot know
    for fine in ({"path": "/healthz"}, {"path": "/login", "scheme": "https"}):
        assert request(**fine)[0] == 200
    assert request("/login", client=("127.0.0.1", 1))[0] == 200
    assert request("/d/v1/trust/1")[0] == 404  # boards are answered: there is none


@pytest.mark.parametrize(
    ("host", "more", "warned"),
    [
        ("192.0.2.7", {}, True),
        ("127.0.0.1", {}, False),
        ("192.0.2.7", {"proxy": "127.0.0.1"}, False),
        ("192.0.2.7", {"tls_port": 0}, False),
    ],
)
def test_server_says_when_tokens_cross_the_network_in_clear(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    certificate: Path,
    host: str,
    more: dict[str, Any],
    warned: bool,
):
    class Nobody:
        def run(self, _: object) -> None:
            """At once."""

    monkeypatch.setattr(serve, "_reachable", lambda _: host)
    monkeypatch.setattr(serve, "_server", lambda *_: Nobody())
    if "tls_port" in more:
        more = more | {"tls_cert": certificate, "tls_key": certificate}
    serve.serve(host="127.0.0.1", port=0, **more)
    said = capsys.readouterr()
    assert ("tokens cross the network in clear" in " ".join(said.err.split())) == warned


def test_certificate_that_cannot_be_used_is_named(tmp_path: Path, certificate: Path):
    (tmp_path / "none.pem").write_text("none")
    for files, words in (
        ((certificate, None), "belong together"),
        ((certificate, tmp_path / "away.pem"), "No such file"),
        ((certificate, tmp_path / "none.pem"), "cannot use"),
    ):
        with pytest.raises(Failure, match=words):
            serve._certified(*files)


def test_log_for_machines():
    try:
        raise ValueError("x\ny")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "%s", ("\x1b[2J",), sys.exc_info())
    line = logs.Json().format(record)
    assert "\n" not in line and "\x1b" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"]) == ("error", "a.b", "\x1b[2J")
    assert said["trace"].endswith("ValueError: x\ny") and said["time"].endswith("+00:00")


def test_what_it_logs_is_json_and_what_was_taken_in_survives_its_end():
    with serving("--log-format", "json") as (process, said):
        url = said[0].removeprefix("serving ")
        board = FakeBoard(url)
        client.Client(url, token()).enrol(board.file())
        board.boot()
        board.poll(heap=12345)
        assert board.send(board.message(state=7)).status == 400
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
        board.close()
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert any("wrong state in its poll" in one["message"] for one in lines)
    with serving() as (_, said):
        assert (
            client.Client(said[0].removeprefix("serving "), token()).board(board.id)["heap"]
            == 12345
        )


def test_unit_is_sound_and_lets_the_server_do_little(tmp_path: Path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here; what to do: sudo apt install systemd")
    unit = tmp_path / "mipy.service"
    text = (DEPLOY / "mipy.service").read_text()
    unit.write_text(text.replace("/opt/mipy/bin/mipy", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    judged = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    done = subprocess.run(judged, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert_words(text, "ExecStart=/opt/mipy/bin/mipy ")


def assert_words(text: str, before: str) -> None:
    """What follows is a command line that mipy knows."""
    words = text.split(before)[1].splitlines()[0].split()
    done = subprocess.run(
        [sys.executable, "-m", "mipy_ota.tools.cli", *words, "--help"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and "Run the OTA server" in done.stdout


def test_container_starts_what_mipy_knows():
    text = (DEPLOY / "Containerfile").read_text()
    command = json.loads(text.split("\nCMD ")[1])
    assert_words("x " + " ".join(command), "x mipy ")
    assert (ROOT / "requirements.lock").is_file()


def test_nginx_in_front(tmp_path: Path, certificate: Path):
    if NGINX is None:
        pytest.skip("no nginx here; what to do: sudo apt install nginx-light")
    with serving("--proxy", "127.0.0.1") as (_, said):
        port = loopback.port()
        text = (DEPLOY / "nginx.conf").read_text()
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("http://127.0.0.1:8266", said[0].removeprefix("serving ")),
            ("/etc/ssl/certs/ota.example.pem", str(certificate)),
            ("/etc/ssl/private/ota.example.key", str(certificate)),
        ):
            assert old in text
            text = text.replace(old, new)
        folder = Path(tmp_path / "nginx")
        folder.mkdir()
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "conf").write_text(
            f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/log;"
            f"events {{}} http {{ access_log off; {temporary} {text} }}"
        )
        with subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "log")]
        ) as process:
            try:
                url = f"https://127.0.0.1:{port}"
                assert wait(lambda: listens(port) or process.poll() is not None)
                session = logged_in(url, certificate)
                assert all(cookie.secure for cookie in session.cookies)
                # What the proxy says of a client counts, what the client says does not.
                session.headers["x-forwarded-for"] = "192.0.2.77"
                assert session.post(f"{url}/logout", headers={"origin": url}).ok
                owner = {"authorization": f"Bearer {token()}"}
                found = requests.get(
                    f"{url}/api/audit", headers=owner, verify=str(certificate), timeout=30
                ).json()
                assert {one["address"] for one in found} == {"127.0.0.1"}
            finally:
                process.terminate()
                process.wait(SECONDS)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
