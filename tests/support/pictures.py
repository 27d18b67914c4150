"""Take the pictures of the server's pages that the docs show: `make pictures`.

A fleet of 96 boards in all states, made by `many_boards`, in a real server and a real Chromium.
"""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipy_ota.tools.fleet.serve import running
from tests.support import ROOT, browser, many_boards

FOLDER = ROOT / "docs" / "images"
BOARDS = 96
DESKTOP, PHONE = 1100, 390


@dataclass(frozen=True)
class Picture:
    """One page, as docs/images/<name>.png.

    Attributes:
        most: pixels of the page's height that are shown.
    """

    name: str
    path: str
    width: int
    scheme: str
    most: int


PICTURES = (
    Picture("fleet", "/", DESKTOP, "light", 1250),
    Picture("fleet-phone", "/", PHONE, "dark", 1000),
    Picture("board", "/boards/node-00002", DESKTOP, "light", 1250),
    Picture("board-phone", "/boards/node-00002", PHONE, "light", 1000),
    Picture("rollout", "/rollouts/1", DESKTOP, "light", 1450),
    Picture("rollout-phone", "/rollouts/2", PHONE, "dark", 1000),
)


def take(driver: Any, url: str, picture: Picture) -> bytes:
    """The page's top as a PNG file."""
    browser.shown_as(driver, picture.width, 900, picture.scheme)
    browser.opened(driver, url + picture.path)
    tall = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": picture.width, "height": min(tall, picture.most), "scale": 1}
    asked = {"clip": clip, "captureBeyondViewport": True}
    return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder, browser.started() as driver:
        many_boards.fill(Path(folder), BOARDS, going_out=True)
        with running(Path(folder)) as server:
            driver.get(server.url + "/login")
            driver.find_element("id", "token").send_keys(server.token + "\n")
            for picture in PICTURES:
                path = FOLDER / f"{picture.name}.png"
                path.write_bytes(take(driver, server.url, picture))
                print(path.relative_to(ROOT))
            driver.get("about:blank")  # a page that listens would hold up the server's end


if __name__ == "__main__":
    main()
