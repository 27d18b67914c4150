"""A desktop browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mipy_ota.ota_server.web import assets

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
STATIC = assets.FOLDER / "static"
needed = pytest.mark.skipif(
    not (BROWSER and DRIVER and (STATIC / ".ready").exists()),
    reason="needs chromium, chromium-driver and npm: see scripts/apt-install.sh",
)


@contextmanager
def started(width: int = 900, height: int = 1000) -> Iterator:
    """A browser with nothing in it; `elsewhere.test` is this machine under another name."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--no-proxy-server",
                     "--ignore-certificate-errors", f"--window-size={width},{height}",
                     "--host-resolver-rules=MAP elsewhere.test 127.0.0.1"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def opened(driver, url: str) -> None:
    """Visit a page of ours, which says when its scripts have run."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(url)
    WebDriverWait(driver, 60).until(
        lambda one: one.execute_script("return document.documentElement.dataset.ready")
    )


def complaints(driver) -> list[str]:
    """What the browser has to say against the page."""
    return [
        one["message"]
        for one in driver.get_log("browser")
        if "favicon" not in one["message"] and one["source"] != "recommendation"
    ]
