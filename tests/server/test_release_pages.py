"""The pages of releases, rollouts and the first run, as the server makes them."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import insert, update

from mipy_ota.ota_server.dashboard import release_view
from mipy_ota.ota_server.policy import Release
from mipy_ota.ota_server.storage import model, rollouts
from mipy_ota.ota_server.storage.rollouts import Start
from mipy_ota.tools.fleet.serve import Running, running
from tests.server.test_people import added
from tests.server.test_server import SEQ, release
from tests.support import vectors
from tests.support.live_fleet import TRACE, Fleet

PAGE_BYTES = 100_000
EVIL = "<script>alert('x')</script>\"&"


class Reader:
    """Somebody at the pages of a server."""

    def __init__(self, server: Running, token: str = "") -> None:
        self.url = server.url
        self.session = requests.Session()
        self.session.post(self.url + "/login", data={"token": token or server.token}, timeout=30)

    def page(self, path: str, status: int = 200) -> str:
        answer = self.session.get(self.url + path, timeout=30, allow_redirects=False)
        assert answer.status_code == status, answer.text
        return answer.text

    def words(self, path: str, status: int = 200) -> str:
        """What is to be read on a page, on one line."""
        text = re.sub(r"(?s)<head>.*?</head>|<[^>]*>", " ", self.page(path, status))
        return " ".join(html.unescape(text).split())

    def presses(self, path: str, origin: str = "", **said: str) -> requests.Response:
        headers = {"origin": origin or self.url}
        return self.session.post(
            self.url + path, data=said, headers=headers, timeout=30, allow_redirects=False
        )


@pytest.fixture
def reader(five: Fleet) -> Reader:
    return Reader(five.server)


def audited(five: Fleet) -> list[tuple[str, str, str]]:
    api = five.server.url + "/api/audit"
    rows = requests.get(api, headers={"authorization": f"Bearer {five.server.token}"}, timeout=30)
    return [(row["action"], row["target"], row["after"]) for row in rows.json()]


# --- releases ---


def test_release_says_what_changed_who_made_it_and_where_it_runs(five: Fleet, reader: Reader):
    first = five.owner.publish(release(SEQ, note="1.0")[1])
    files = {"main.mpy": b"M\x06\x00\x1f" + bytes(900), "new.py": b"x = 1\n"}
    second = five.owner.publish(release(SEQ + 1, files, note="1.1")[1])
    for name in ("b0", "b1"):
        five.confirm(name, second["digest"], SEQ + 1)
    words = reader.words(f"/releases/{second['digest']}")
    assert "1.1 weather for esp8266-generic, published" in words and "by owner" in words
    assert f"Signed by {vectors.public('release').id} a key of this fleet" in words
    assert "1 new, 1 changed, 1 removed" in words
    assert "main.mpy 904 bytes changed, was 404 bytes" in words
    assert "new.py 6 bytes new" in words and "config.py 17 bytes removed" in words
    assert "Where it runs ok 2 boards" in words
    assert "Rollout 2 running to stable" in words
    words = reader.words("/releases")
    assert words.index("1.1") < words.index("1.0")
    assert "2 boards 2 running 910 bytes" in words
    words = reader.words(f"/releases/{first['digest']}")
    assert "The first release for this class." in words and "On no board." in words


def test_release_says_what_failed_on_it(five: Fleet, reader: Reader):
    rollout = five.publish()
    (first,) = rollout["canary"]
    five.offered()
    five.fail(first, rollout["digest"])
    words = reader.words(f"/releases/{rollout['digest']}")
    assert "What failed on it 1 board ValueError: 3 exception · 1 board" in words
    assert " ".join(TRACE.split()) in words


def test_release_whose_content_is_lost_has_a_page(five: Fleet, reader: Reader, data: Path):
    digest = five.publish()["digest"]
    (data / "manifests" / digest).write_bytes(b"junk")
    assert "has lost the list of its files" in reader.words(f"/releases/{digest}")


@pytest.mark.parametrize("path", ["/releases/" + "0" * 64, "/releases/x", "/rollouts/99",
                                  "/rollouts/99/pause"])  # fmt: skip
def test_what_there_is_not_is_a_page_that_says_so(reader: Reader, path: str):
    assert "there is no" in reader.words(path, 404).lower()


# --- rollouts ---


def test_rollout_says_where_it_is_and_what_would_halt_it(five: Fleet, reader: Reader):
    rollout = five.publish()
    number, (first,) = rollout["id"], rollout["canary"]
    five.offered()
    words = reader.words(f"/rollouts/{number}")
    assert "Wave 1 of 2 is open. The next one opens when 80% of the boards" in words
    assert "1. Canary open 0 0 0 1 0" in words and "2. All boards not open yet 0 0 0 0 4" in words
    assert "The first failure in the canary halts it." in words
    assert "Now: 0 of 0 boards failed. 1 more failure would halt it." in words
    assert "Its turn is wave 2 of 2" in words
    five.fail(first, rollout["digest"])
    words = reader.words(f"/rollouts/{number}")
    why = "1 of 1 board in the canary failed"
    assert f"It halted by itself: {why}. Nobody new is offered the release." in words
    assert "Now: 1 of 1 board failed; chance would show so many in 5% of all rollouts." in words
    assert words.index(f"{first} failed") < words.index(" waiting 2 ")
    assert f"halted {why}" in reader.words("/rollouts")
    assert "Silent Time" not in words  # the table beside the curve has a row for each change
    assert "The same in numbers" in words


def test_old_rollout_has_its_numbers(five: Fleet, reader: Reader, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rollouts, "ROLLOUTS_WITH_TARGETS", 1)
    rollout = five.publish()
    assert "No board has an outcome yet." in reader.words(f"/rollouts/{rollout['id']}")
    five.offered()
    five.fail(rollout["canary"][0], rollout["digest"])
    five.publish(SEQ + 1)
    words = reader.words(f"/rollouts/{rollout['id']}")
    numbers = "Of a rollout this old only the numbers are kept: 0 confirmed, 1 failed, 0 silent."
    assert numbers in words


def test_person_steers_a_rollout_from_its_page(five: Fleet, reader: Reader):
    number = five.publish()["id"]
    path = f"/rollouts/{number}"
    assert f'href="{path}/pause"' in reader.page(path)
    assert "The rollout's page and the audit show it." in reader.words(path + "/pause")
    answer = reader.presses(path + "/pause", reason=EVIL)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{path}?done=pause")
    assert "The rollout is paused." in reader.words(answer.headers["location"])
    shown = reader.page(path)
    assert EVIL not in shown and html.escape(EVIL, quote=False).split("'")[0] in shown
    assert f"A person paused it: {EVIL}." in reader.words(path)
    assert five.state(number) == "paused"
    assert reader.presses(path + "/resume", reason="back").status_code == 303
    assert five.state(number) == "running"
    assert reader.presses(path + "/cancel", reason="typo").status_code == 303
    assert five.state(number) == "cancelled"
    assert audited(five)[:3] == [
        ("cancel rollout", str(number), "typo"),
        ("resume rollout", str(number), "back"),
        ("pause rollout", str(number), EVIL),
    ]
    assert 'role="button"' not in reader.page(path)  # nothing is left to do
    assert "is cancelled" in reader.presses(path + "/resume", reason="x").text


def test_boards_are_retried_all_or_one(five: Fleet, reader: Reader):
    rollout = five.publish(canary=["b1", "b3"], strict=False, tolerated=0.9)
    number, digest = rollout["id"], rollout["digest"]
    for name in ("b1", "b3"):
        while name not in five.offered():
            pass
        five.fail(name, digest)
    path = f"/rollouts/{number}"
    assert f'href="{path}/retry?board=b1"' in reader.page(path)
    assert "Retry of board b1: rollout" in reader.words(path + "/retry?board=b1")
    assert reader.presses(path + "/retry?board=b1").status_code == 303
    assert five.owner.rollout(number)["counts"]["failed"] == 1
    assert reader.presses(path + "/retry").status_code == 303
    assert five.owner.rollout(number)["counts"]["failed"] == 0
    assert reader.presses(path + "/retry?board=nobody").status_code == 404
    assert reader.presses(path + "/retry").status_code == 409


def test_draft_is_started_and_a_wave_approved(five: Fleet, reader: Reader):
    rollout = five.publish(draft=True, approval=True, soak_s=0)
    path, (first,) = f"/rollouts/{rollout['id']}", rollout["canary"]
    assert "It has not been started" in reader.words(path)
    assert reader.presses(path + "/start").status_code == 303
    five.offered()
    five.confirm(first, rollout["digest"])
    five.tick()
    assert "the next wave waits for approval" in reader.words(path)
    assert reader.presses(path + "/approve").status_code == 303
    five.tick()
    assert "Wave 2 of 2 is open" in reader.words(path)


@pytest.mark.parametrize(
    ("reason", "code"), [("", "a reason is needed"), ("x" * 201, "at most 200 characters")]
)
def test_reason_is_needed_and_short(five: Fleet, reader: Reader, reason: str, code: str):
    number = five.publish()["id"]
    answer = reader.presses(f"/rollouts/{number}/cancel", reason=reason)
    assert answer.status_code == 422 and code in answer.text.lower()
    assert five.state(number) == "running"


def test_only_those_who_may_and_only_from_these_pages(five: Fleet, reader: Reader):
    number = five.publish()["id"]
    path = f"/rollouts/{number}"
    guest = Reader(five.server, added(five.server, "guest", "read")["token"])
    assert "Wave 1 of 2" in guest.words(path) and "/pause" not in guest.page(path)
    assert guest.presses(path + "/pause", reason="x").status_code == 403
    assert reader.presses(path + "/pause", "http://elsewhere.test", reason="x").status_code == 403
    nobody = requests.post(
        five.server.url + path + "/pause", data={"reason": "x"}, allow_redirects=False, timeout=30
    )
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/login")
    assert five.state(number) == "running"


# --- the first run ---


def test_first_run_follows_what_the_server_has(tmp_path: Path):
    with running(tmp_path / "data") as server:
        reader = Reader(server)
        assert "From nothing to the first release" in reader.words("/")
        assert "1 of 5 steps are done." in reader.words("/first-run")
        assert "mipy keys publish" in reader.words("/first-run")
        assert 'href="/flash"' in reader.page("/first-run")
        fleet = Fleet(server, 1)
        assert "3 of 5 steps are done." in reader.words("/first-run")
        assert "From nothing" not in reader.words("/")
        digest = fleet.publish()["digest"]
        assert "4 of 5 steps are done." in reader.words("/first-run")
        fleet.confirm("b0", digest)
        words = reader.words("/first-run")
        assert "Your first release is confirmed" in words
        assert "mipy release --note 1.1 --follow" in words
        for board in fleet.boards.values():
            board.close()


def test_empty_pages_say_the_next_command(tmp_path: Path):
    with running(tmp_path / "data") as server:
        reader = Reader(server)
        for path in ("/releases", "/rollouts"):
            assert "mipy release --note 1.0" in reader.words(path)


# --- large, and hostile ---


def test_pages_of_a_large_fleet_are_small_and_escaped(data: Path):
    """10,000 boards, 200 releases, and boards that send all that they can."""
    with running(data) as server:
        reader, now = Reader(server), time.time()
        trace = 'File "%s"\n' % (EVIL * 20) + '"' * 500

        def rows(db: Any) -> int:
            names = [f"board-{n:05}-{'x' * 20}" for n in range(10_000)]
            every = [{"id": name, "name": name, "app": "weather", "cls": "esp8266-generic",
                      "key": bytes(32), "enrolled": now, "last_seen": now, "digest": "a" * 32,
                      "state": "ok", "seq": 1} for name in names]  # fmt: skip
            number = None
            for seq in range(1, 201):
                one = Release(f"{seq:064x}", "weather", "esp8266-generic", seq, 0, EVIL * 3, 9999,
                              now, None, "owner")  # fmt: skip
                start = Start(waves=(1, 2, 3, 4, 5, 6, 7, 8, 9, 100), operator="x" * 32)
                if seq == 200:  # each of the others would go through all boards, too
                    db.execute(insert(model.boards), every)
                number = rollouts.publish(db, one, start, now)
            failed = [{"rollout": number, "board": name, "state": "failed", "wave": n % 10,
                       "offered_at": now + n, "ended_at": now + n, "reason": f"reason-{n % 50}",
                       "trace": (f"{n % 50}" + trace)[:1000]} for n, name in enumerate(names[:2000])
                      ]  # fmt: skip
            db.execute(insert(model.targets), failed)
            counts = {"failed": 2000, "state": "halted", "why": EVIL * 8}
            db.execute(update(model.rollouts).where(model.rollouts.c.id == number).values(counts))
            return int(number or 0)

        number = server.do(server.storage.write(rows, catalog=True))
        paths = [
            "/releases", "/releases?offset=150", f"/releases/{200:064x}", "/rollouts",
            f"/rollouts/{number}", f"/rollouts/{number}?state=waiting&offset=5000",
            f"/rollouts/{number}?state={EVIL}&offset=-1", f"/rollouts/{number}?offset=99999999999",
            f"/rollouts/{number}/cancel?board={EVIL}", "/first-run",
        ]  # fmt: skip
        for path in paths:
            page = reader.page(path)
            assert len(page.encode()) <= PAGE_BYTES, (path, len(page.encode()))
            assert "<script>" not in page, path
        assert "2001–2050 of 10000" in reader.words(f"/rollouts/{number}?offset=2000")
        assert len(re.findall("<details id=.cause", reader.page(paths[2]))) == (
            release_view.CAUSES_SHOWN
        )
        assert reader.words("/releases?offset=150").count("9.8 KB") == 50
