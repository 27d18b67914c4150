"""The first run and a rollout, watched and steered in a real browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.serve import Running, running
from tests.server.test_server import SEQ, release
from tests.support import browser, vectors
from tests.support.browser import complaints
from tests.support.fake_board import FakeBoard
from tests.support.live_fleet import Fleet

SECONDS = 60
pytestmark = browser.needed


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with browser.started(1100, 1400) as one:
        yield one


class Visitor:
    """Somebody who has logged in, looks at one page, and never reloads it."""

    def __init__(self, driver: Any, server: Running) -> None:
        self.driver = driver
        self.url = server.url
        driver.get(self.url + "/login")
        driver.find_element("id", "token").send_keys(server.token + "\n")
        self.waits(lambda: not driver.current_url.endswith("/login"))
        complaints(driver)

    def visits(self, path: str) -> None:
        """Open a page; returns when it hears of news."""
        browser.opened(self.driver, self.url + path)
        self.hears()

    def hears(self) -> None:
        live = "return document.documentElement.dataset.live"
        self.waits(lambda: self.driver.execute_script(live))

    def waits(self, until: Callable[[], Any]) -> None:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        # What was found may be renewed before it is looked at.
        ignored = [StaleElementReferenceException]
        WebDriverWait(self.driver, SECONDS, ignored_exceptions=ignored).until(lambda _: until())

    @property
    def text(self) -> str:
        return self.driver.find_element("id", "main").text

    def sees(self, text: str) -> None:
        self.waits(lambda: text in self.text)

    def presses(self, name: str) -> None:
        """Follow the link, press the button or open the details of this name."""
        found = (
            f"//main//*[(self::a or self::button or self::summary) and normalize-space()='{name}']"
        )

        def pressed() -> bool:
            self.driver.find_element("xpath", found).click()
            return True

        self.waits(pressed)

    def says_why(self, reason: str) -> None:
        self.waits(lambda: self.driver.find_elements("id", "reason"))
        self.driver.find_element("id", "reason").send_keys(reason + "\n")

    def keeps_picture(self, name: str) -> None:
        if folder := os.environ.get("MIPY_PICTURES"):
            self.driver.save_screenshot(str(Path(folder, f"{name}.png")))


def test_first_run_is_followed_to_its_end(driver, tmp_path: Path) -> None:
    with running(tmp_path / "data", interval=2) as server:
        visitor = Visitor(driver, server)
        visitor.visits("/")
        visitor.sees("1 of 5 steps are done.")
        assert driver.find_element("css selector", "[aria-current=step] h2").text.startswith(
            "The fleet has keys"
        )
        visitor.keeps_picture("first-run")
        people = Client(server.url, server.token)
        people.add_trust(vectors.first_trust())
        visitor.sees("Trust file version 1 is registered.")
        digest = people.publish(release(SEQ)[1])["digest"]
        visitor.sees("1 release is published.")
        board = FakeBoard(server.url, id="kitchen")
        people.enrol(board.file())
        visitor.sees("1 board is enrolled; none has called yet.")
        assert board.boot()["m"] == digest
        board.report |= {"seq": SEQ, "m": digest[:32]}
        board.boot()
        visitor.sees("Your first release is confirmed")
        visitor.presses("See what runs where")
        visitor.sees("kitchen")
        assert complaints(driver) == []
        board.close()


@pytest.fixture
def five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Five boards; the clock ticks only when a test has it tick."""
    monkeypatch.setattr("mipy_ota.ota_server.storage.rollout_clock.TICK_SECONDS", 3600.0)
    with running(tmp_path / "data", interval=2) as server:
        fleet = Fleet(server, 5)
        yield fleet
        for board in fleet.boards.values():
            board.close()


def test_rollout_is_watched_until_it_halts(driver, five: Fleet) -> None:
    rollout = five.publish(canary=["b1", "b3"], strict=False, tolerated=0.01)
    number, digest = rollout["id"], rollout["digest"]
    visitor = Visitor(driver, five.server)
    visitor.visits("/rollouts")
    visitor.presses(str(number))
    visitor.sees("Wave 1 of 2 is open.")
    visitor.hears()
    failed: list[str] = []
    while len(failed) < 2:
        for name in five.offered():
            visitor.sees("updating")
            five.fail(name, digest)
            failed.append(name)
        visitor.sees(f"Now: {len(failed)} of {len(failed)}")
    visitor.sees("It halted by itself: 2 of 2 boards failed")
    visitor.keeps_picture("rollout-halted")
    visitor.presses("Traceback")
    visitor.sees("ValueError: 3 exception · 2 boards")
    visitor.sees('File "main.py", line 7\nValueError: 3')
    # It stays open while the page is renewed.
    five.owner.steer_rollout(number, "cancel", reason="typo")
    visitor.sees("It was cancelled: typo.")
    assert driver.find_element("css selector", "details[open] pre").is_displayed()
    assert complaints(driver) == []


def test_rollout_is_steered_with_a_reason(driver, five: Fleet) -> None:
    number = five.publish()["id"]
    visitor = Visitor(driver, five.server)
    visitor.visits(f"/rollouts/{number}")
    visitor.presses("Pause")
    visitor.says_why("lunch <b>")
    visitor.sees("The rollout is paused.")
    visitor.sees("A person paused it: lunch <b>. Nobody new is offered the release.")
    assert five.offered() == {}
    visitor.presses("Resume")
    visitor.says_why("back")
    visitor.sees("Wave 1 of 2 is open.")
    assert len(five.offered()) == 1
    visitor.presses("Cancel")
    visitor.says_why("typo")
    visitor.sees("It was cancelled: typo.")
    assert five.offered() == {} and five.state(number) == "cancelled"
    assert complaints(driver) == []
