"""A desktop browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


AXE = Path(__file__).parents[2] / ".cache" / "npm" / "axe.js"
"""axe-core, for tests alone, by scripts/static.sh."""
axe_needed = pytest.mark.skipif(not AXE.exists(), reason="needs npm: make setup")


def axe(driver) -> list[str]:
    """What axe-core finds wrong with the page for people with disabilities: serious things alone.

    It runs as the browser's debugger does, so the page's content security policy stays in force.
    """
    driver.execute_script(AXE.read_text("utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {resultTypes: ['violations']}).then(it => done(it.violations))"
    )
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def shown_as(driver, width: int, height: int, scheme: str) -> None:
    """Have pages shown at this size; `scheme` is light or dark."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
