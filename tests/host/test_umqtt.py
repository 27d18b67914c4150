"""The firmware's umqtt.simple for virtual boards: by its hash, or not at all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.sim import umqtt


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A package index of its own, and an empty cache; maps paths to what is served."""
    pages: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    kept = umqtt.source()
    assert kept and b"class MQTTClient" in kept
    archive = (places.cache() / "umqtt" / f"{umqtt.VERSION}.tar.gz").read_bytes()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    listed = {"files": [{"url": f"{url}/file", "hashes": {"sha256": umqtt.SHA256}}]}
    pages[f"/{umqtt.NAME}/"] = json.dumps(listed).encode()
    pages["/file"] = archive
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield pages
    server.shutdown()
    server.server_close()


def test_pip_tells_the_default_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is configured, which its help says; without an index of its own it is PyPI's."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://192.0.2.1:3141/simple")
    assert umqtt._default_index() == "http://192.0.2.1:3141/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert umqtt._default_index().startswith("https://")


def test_fetched_once(index: dict[str, bytes]) -> None:
    first = umqtt.source()
    index.clear()
    assert first and umqtt.source() == first


@pytest.mark.parametrize("wrong", ("other", "unlisted", "gone", "nonsense"))
def test_nothing_else_counts(
    index: dict[str, bytes], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = f"/{umqtt.NAME}/"
    if wrong == "other":
        index["/file"] += b"x"
    elif wrong == "unlisted":
        index[page] = b'{"files": []}'
    elif wrong == "gone":
        del index["/file"]
    else:
        index[page] = b"<html>"
    assert umqtt.source() is None
    assert "no umqtt.simple" in capsys.readouterr().err
    assert not list((places.cache() / "umqtt").glob("*"))


def test_a_damaged_copy_is_fetched_again(index: dict[str, bytes]) -> None:
    good = umqtt.source()
    (places.cache() / "umqtt" / f"{umqtt.VERSION}.tar.gz").write_bytes(b"half")
    assert umqtt.source() == good
