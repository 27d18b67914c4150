"""The pages in a real browser: desktop and phone, light and dark, by axe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.serve import Running, running
from tests.server.test_server import SEQ, release
from tests.support import browser, many_boards, vectors
from tests.support.browser import complaints
from tests.support.fake_board import FakeBoard

pytestmark = browser.needed
SECONDS = 60
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PAGES = (
    "/", "/?state=ok&search=zzz", "/boards/node-00002", "/boards/node-00010",
    "/boards/node-00002/rollback", "/boards/node-00002/rename", "/boards/nothing", "/flash",
    "/first-run", "/login", "/releases", "/releases/WITHOUT-FILES",
    "/releases/WITH-FILES", "/rollouts", "/rollouts/1", "/rollouts/2", "/rollouts/1?state=failed",
    "/rollouts/1/resume",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("data")
    many_boards.fill(folder, 200, going_out=True)
    with running(folder) as one:
        owner = Client(one.url, one.token)
        owner.add_trust(vectors.first_trust())
        owner.publish(release(SEQ)[1])  # the others' files are not there
        yield one


@pytest.fixture(scope="module")
def driver(server: Running) -> Iterator:
    with browser.started() as one:
        one.get(server.url + "/login")
        one.find_element("id", "token").send_keys(server.token)
        one.find_element("css selector", "form button").click()
        until(one, "return document.documentElement.dataset.live")
        yield one


def until(driver: Any, script: str, *what: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, SECONDS).until(lambda one: one.execute_script(script, *what))


@browser.axe_needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_and_axe_finds_nothing(driver, server: Running, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    browser.shown_as(driver, width, height, scheme)
    known = Client(server.url, server.token).releases()
    with_files = next(one["digest"] for one in known if one["seq"] == SEQ)
    without = many_boards.digest(len(many_boards.NOTES), many_boards.CLASSES[0])
    for page in PAGES:
        path = page.replace("WITHOUT-FILES", without).replace("WITH-FILES", with_files)
        driver.get(server.url + path)
        assert browser.axe(driver) == [], path
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, (path, "must not be moved sideways")
    others = [one for one in complaints(driver) if "/boards/nothing" not in one]
    assert others == []


def test_a_failure_is_opened_and_stays_open_while_news_come(driver, server: Running) -> None:
    browser.shown_as(driver, *SIZES["desktop"], "light")
    driver.get(server.url + "/")
    until(driver, "return document.documentElement.dataset.live")
    trace = driver.find_element("css selector", ".failure details")
    trace.find_element("css selector", "summary").click()
    name = trace.get_attribute("id")
    driver.execute_script("document.getElementById('live').dataset.old = 'yes'")
    Client(server.url, server.token).enrol(FakeBoard(server.url, id="newcomer").file())
    until(driver, "return !document.getElementById('live').dataset.old")
    until(driver, "return document.querySelector('.tiles strong').textContent == '201'")
    assert driver.execute_script("return document.getElementById(arguments[0]).open", name)
    assert "ValueError" in driver.find_element("css selector", f"#{name} pre").text
    assert complaints(driver) == []


def test_board_is_found_paused_and_resumed(driver, server: Running) -> None:
    browser.shown_as(driver, *SIZES["phone"], "dark")
    driver.get(server.url + "/")
    driver.find_element("name", "search").send_keys("kitch\n")
    until(driver, "return document.querySelectorAll('table.boards tbody tr').length == 1")
    driver.find_element("link text", "kitchen").click()
    until(driver, "return document.title.startsWith('kitchen')")
    for button, state in (("Pause", "paused"), ("Resume", "ok")):
        driver.find_element("link text", button).click()
        until(driver, "return document.querySelector('form button:not(.link)')")
        driver.find_element("css selector", ".confirm button").click()
        until(driver, "return document.querySelector('.done')")
        assert driver.find_element("css selector", ".title .badge").text == state
    assert complaints(driver) == []


def test_times_are_the_viewers(driver, server: Running) -> None:
    driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    driver.get(server.url + "/boards/node-00000")
    shown, meant = until(
        driver,
        "const one = document.querySelector('time[data-as=time]');"
        "return document.documentElement.dataset.ready && [one.textContent, one.dateTime]",
    )
    driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})
    minute = (int(meant[14:16]) + 30) % 60  # India is 5 h 30 min ahead of UTC
    assert f":{minute:02}" in shown, (shown, meant)
