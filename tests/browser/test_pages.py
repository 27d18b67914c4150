"""The dashboard's ground: what every page has, and news while somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.ota_server.dashboard import site
from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import browser, vectors
from tests.support.browser import complaints
from tests.support.fake_board import FakeBoard

SECONDS = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data") as one:
        Client(one.url, one.token).add_trust(vectors.first_trust())
        yield one


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with browser.started() as one:
        yield one


def logged_in(server: Running) -> requests.Session:
    session = requests.Session()
    assert session.post(server.url + "/login", data={"token": server.token}, timeout=30).ok
    return session


async def reported(server: Running, *boards: str) -> None:
    """What the storage says when these boards report something new."""
    for board in boards:
        server.storage.changed(board)


def next_sign(lines: Iterator[Any]) -> str:
    """The next line that is an event, or says that there is none."""
    return next(line for line in lines if line.startswith((":", "event")))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is told at each look that nothing has changed."""
    monkeypatch.setattr(site, "LIVE_SECONDS", 0.2)
    monkeypatch.setattr(site, "QUIET_SECONDS", 0.2)


@pytest.mark.usefixtures("often")
def test_many_reports_are_one_piece_of_news(server: Running) -> None:
    with logged_in(server).get(server.url + "/live", stream=True, timeout=SECONDS) as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        lines = live.iter_lines(decode_unicode=True)
        assert next_sign(lines) == ": nothing new"
        server.do(reported(server, *(f"b{number}" for number in range(1000))))
        while (sign := next_sign(lines)) == ": nothing new":
            pass
        assert sign == "event: changed"
        assert next_sign(lines) == ": nothing new"


@pytest.mark.usefixtures("often")
def test_news_of_one_board_are_not_those_of_others(server: Running) -> None:
    address = server.url + "/live?board=mine"
    with logged_in(server).get(address, stream=True, timeout=SECONDS) as live:
        lines = live.iter_lines(decode_unicode=True)
        assert next_sign(lines) == ": nothing new"
        server.do(reported(server, "other"))
        assert [next_sign(lines) for _ in range(3)] == [": nothing new"] * 3
        server.do(reported(server, "mine"))
        while (sign := next_sign(lines)) == ": nothing new":
            pass
        assert sign == "event: changed"


def test_pages_that_listen_are_not_too_many(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "LIVE_PAGES", 1)
    session = logged_in(server)
    with session.get(server.url + "/live", stream=True, timeout=SECONDS) as live:
        lines = live.iter_lines()  # which closes the connection when nobody has it
        assert next(lines)
        assert session.get(server.url + "/live", timeout=30).status_code == 503


def test_pages_lead_strangers_to_the_login(server: Running) -> None:
    part = {"hx-request": "true"}
    answer = requests.get(server.url + "/live", headers=part, timeout=30)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")
    stream = {"accept": "text/event-stream"}
    assert requests.get(server.url + "/live", headers=stream, timeout=30).status_code == 401
    assert requests.get(server.url + "/live", timeout=30).url.endswith("/login")


@browser.needed
def test_page_is_reached_by_keyboard_and_hears_of_news(driver, server: Running) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    people = Client(server.url, server.token)
    people.enrol(FakeBoard(server.url, id="oldest").file())  # else it is the page of the first run
    driver.get(server.url + "/login")
    driver.switch_to.active_element.send_keys(server.token, Keys.ENTER)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda one: one.execute_script("return document.documentElement.dataset.live"))
    assert driver.find_element("css selector", "nav [aria-current]").text == "Fleet"
    driver.find_element("css selector", "body").send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the content"
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "main"
    people.enrol(FakeBoard(server.url, id="newcomer").file())
    wait.until(lambda one: "newcomer" in one.find_element("id", "main").text)
    assert complaints(driver) == []
