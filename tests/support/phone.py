"""A phone: headless Chromium at a phone's size, driven over WebDriver (W3C), and its probes."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import requests

from tests.support import loopback

WIDTH, HEIGHT = 390, 844
_SECONDS = 30

needed = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromium-driver: see scripts/apt-install.sh",
)


class Phone:
    """A browser for which every host on port 80 is the board's.

    Args:
        address: the board's; its port 80 is 8080 there.
        scripts: whether JavaScript is on.
    """

    def __init__(self, address: str, scripts: bool = True) -> None:
        chromium = shutil.which("chromium")
        driver = shutil.which("chromedriver")
        assert chromium and driver, "install chromium and chromium-driver"
        port = loopback.port()
        self._process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}"
        options: dict[str, Any] = {
            "binary": chromium,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                f"--host-resolver-rules=MAP *:80 {address}:8080",
            ],
            "mobileEmulation": {
                "deviceMetrics": {"width": WIDTH, "height": HEIGHT, "pixelRatio": 2, "mobile": True}
            },
        }
        if not scripts:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        try:
            self._wait_for_driver()
            capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
            opened = self._call("POST", "/session", {"capabilities": capabilities})
            self._url += f"/session/{opened['sessionId']}"
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Phone:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + _SECONDS
        while True:
            try:
                requests.get(self._url + "/status", timeout=_SECONDS)
                return
            except requests.ConnectionError:
                assert time.monotonic() < end, "chromedriver does not start"
                time.sleep(0.05)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {})
        reply = requests.request(method, self._url + path, data=data, timeout=_SECONDS)
        value = reply.json()["value"]
        if not reply.ok:
            raise LookupError(f"{value['error']}: {value['message'].splitlines()[0]}")
        return value

    def open(self, url: str) -> None:
        """Visit an address."""
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is."""
        return self._call("GET", "/url")

    # The page is looked at and touched over the DevTools protocol, which needs no script in it.

    def _tell(self, method: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": method, "params": parameters})

    def _nodes(self, css: str) -> list[int]:
        root = self._tell("DOM.getDocument")["root"]["nodeId"]
        return self._tell("DOM.querySelectorAll", nodeId=root, selector=css)["nodeIds"]

    def _node(self, css: str) -> int:
        nodes = self._nodes(css)
        if not nodes:
            raise LookupError(f"no {css} in {self.source}")
        return nodes[0]

    def _text(self, node: int) -> str:
        markup = self._tell("DOM.getOuterHTML", nodeId=node)["outerHTML"]
        markup = re.sub(r"<style.*?</style>", "", markup, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())

    @property
    def source(self) -> str:
        """The page's markup as it stands."""
        root = self._tell("DOM.getDocument")["root"]["nodeId"]
        return self._tell("DOM.getOuterHTML", nodeId=root)["outerHTML"]

    def text(self, css: str = "body") -> str:
        """What is to be read in an element.

        Raises:
            LookupError: there is none.
        """
        return self._text(self._node(css))

    def texts(self, css: str) -> list[str]:
        """What is to be read in all such elements."""
        return [self._text(node) for node in self._nodes(css)]

    def tap(self, css: str) -> None:
        """Tap in the middle of an element."""
        node = self._node(css)
        self._tell("DOM.scrollIntoViewIfNeeded", nodeId=node)
        box = self._tell("DOM.getBoxModel", nodeId=node)["model"]["border"]
        at = {"x": (box[0] + box[4]) / 2, "y": (box[1] + box[5]) / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self._tell("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def fill(self, css: str, text: str) -> None:
        """Type into a field, over what is there."""
        self._tell("DOM.focus", nodeId=self._node(css))
        self._tell("Input.dispatchKeyEvent", type="keyDown", commands=["selectAll"])
        self._tell("Input.insertText", text=text)

    def wait_for(self, text: str, seconds: float = _SECONDS) -> None:
        """Wait until the page says `text`, reloading by itself only."""
        end = time.monotonic() + seconds
        while text not in (said := self._said()):
            assert time.monotonic() < end, said
            time.sleep(0.1)

    def _said(self) -> str:
        try:
            return self.text()
        except LookupError as between_two_pages:
            return str(between_two_pages)

    def photograph(self, path: Path) -> None:
        """Save a screenshot."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
