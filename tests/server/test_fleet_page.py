"""The pages of the fleet and of a board: what they say is true, bounded, and escaped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mipy_ota.ota_server.condition import CONDITIONS
from mipy_ota.ota_server.dashboard import fleet_queries, heap_history
from mipy_ota.ota_server.dashboard.fleet_queries import Filter
from mipy_ota.ota_server.device.api import READABLE_CHARS
from mipy_ota.ota_server.policy import Bad, Board, Known, Order, Release
from mipy_ota.ota_server.rollout_gate import Line
from mipy_ota.ota_server.storage import queries, rollout_queries
from mipy_ota.ota_server.why import why
from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.serve import Running, running
from tests.support import fleet, many_boards, vectors
from tests.support.fake_board import FakeBoard

MOST_BYTES = 100_000
FLEET_PAGES = ("/", "/?sort=seen&offset=5000", "/boards/node-00002", "/boards/node-00003")
NOW = 1_800_000_000.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data") as one:
        Client(one.url, one.token).add_trust(vectors.first_trust())
        yield one


def logged_in(server: Running, token: str = "") -> requests.Session:
    session = requests.Session()
    answer = session.post(server.url + "/login", data={"token": token or server.token}, timeout=60)
    assert answer.ok
    return session


def enrolled(server: Running, name: str = "kitchen", **more: Any) -> FakeBoard:
    board = FakeBoard(server.url, **more)
    facts = {"id": board.id, "app": board.app, "class": board.cls, "key": board.key.hex()}
    headers = {"authorization": f"Bearer {server.token}"}
    said = facts | {"fleet": vectors.FLEET, "name": name}
    answer = requests.post(server.url + "/api/boards", json=said, headers=headers, timeout=30)
    assert answer.ok, answer.text
    return board


# --- conditions ---


BY_CONDITION = {
    "ok": {},
    "never seen": {"last_seen": None},
    "offline": {"last_seen": NOW - 1000, "up": 120},
    "waiting": {"last_seen": NOW - 1000, "up": 119},
    "recovery": {"state": "recovery"},
    "crashing": {"state": "crashing"},
    "updating": {"state": "installing"},
    "paused": {"paused": True},
}


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        *BY_CONDITION.items(),
        ("ok", {"last_seen": NOW - 899, "up": 5000}),
        ("updating", {"state": "trial"}),
        # Who sleeps for longer than a day, or crashed before it fell silent, is not asleep.
        ("offline", {"last_seen": NOW - 90_000, "up": 5}),
        ("offline", {"last_seen": NOW - 1000, "up": 5, "state": "recovery"}),
        ("updating", {"state": "installing", "paused": True}),
    ],
)
def test_condition(tmp_path: Path, wanted: str, changes: dict[str, Any]) -> None:
    facts = {"id": "b1", "name": "", "app": "a", "cls": "c", "key": bytes(32), "dev": False}
    facts |= {"enrolled": NOW, "last_seen": NOW - 10, "up": 5000, "state": "ok"}
    with running(tmp_path) as server:
        server.do(server.storage.enrol(Board(**facts | changes)))
        read = server.storage.read
        assert server.do(read(queries.states, NOW)) == {wanted: 1}
        found = server.do(read(fleet_queries.overview, {}, NOW))
        assert found.states == {wanted: 1}
        for name in CONDITIONS:
            total, _ = server.do(read(fleet_queries.rows, Filter(state=name), "state", 50, 0, NOW))
            assert total == (name == wanted)


# --- why not ---


def known(**changes: Any) -> Known:
    facts = {"id": "b1", "name": "", "app": "a", "cls": "c", "key": bytes(32), "dev": False}
    facts |= {"enrolled": NOW, "last_seen": NOW - 10, "up": 5000, "state": "ok"}
    facts |= {"seq": 1, "high": 1, "digest": OLD.short, "confirmed": OLD.short}
    return Known(Board(**facts | changes))


OLD = Release("a1" * 32, "a", "c", 1, 0, "Old", 1, NOW - 100)
NEW = Release("b2" * 32, "a", "c", 2, 0, "New", 1, NOW - 50)


@pytest.mark.parametrize(
    ("kind", "words", "changes"),
    [
        ("coming", "when it reports next", {}),
        ("coming", "has not begun yet", {"offered": NEW.digest}),
        ("coming", "installing", {"state": "installing", "progress": "3/9"}),
        ("blocked", "retired", {"retired": NOW}),
        ("coming", "never reported", {"last_seen": None}),
        ("current", "runs the newest", {"digest": NEW.short, "confirmed": NEW.short}),
        ("current", "on trial", {"digest": NEW.short, "state": "trial"}),
        ("blocked", "Another release is on trial", {"digest": "c3" * 16, "state": "trial"}),
        ("own", "paused", {"paused": True}),
        ("blocked", "later release", {"high": 5}),
        ("blocked", "Nothing is published", {"channel": "beta"}),
    ],
)
def test_why_not_updated(kind: str, words: str, changes: dict[str, Any]) -> None:
    found = why(known(**changes), [NEW, OLD], Line(), "ok", NOW)
    assert (found.kind, words in found.text) == (kind, True), found
    assert found.text.endswith((".", "?"))


def test_why_not_updated_by_what_happened_to_it() -> None:
    bad = Bad(NEW.short, "exception", False, "ValueError: x")
    board = known()
    board.rejected[NEW.short] = bad
    found = why(board, [NEW, OLD], Line(), "ok", NOW)
    assert (found.kind, found.text) == (
        "own", "It rejected the newest release: the app raised an exception.",
    )  # fmt: skip
    board.rejected[NEW.short] = Bad(NEW.short, "network", True, "")
    assert "tries the newest release again by itself" in why(board, [NEW], Line(), "ok", NOW).text
    board = known()
    assert "offline" in why(board, [NEW], Line(), "offline", NOW).text
    assert "sleeps" in why(board, [NEW], Line(), "waiting", NOW).text
    board.orders.append(Order(1, "rollback", OLD.short))
    assert "roll back" in why(board, [NEW], Line(), "ok", NOW).text


# --- free heap over time ---


def told(board: str, *heaps: int, at: float = NOW) -> list[Any]:
    return [(board, at + 300 * step, heap) for step, heap in enumerate(heaps)]


def test_heap_of_the_last_day_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_history, "BOARDS", 2)
    history = heap_history.HeapHistory(None)  # type: ignore[arg-type]
    history.keep(told("b1", 8000))
    assert history.curve("b1") is None  # one sample is no curve
    history.keep(told("b1", 8000, 6000, 4000))
    history.keep(told("b2", *range(1, 301)))
    history.keep(told("b3", 1, 2))
    assert history.curve("b3") is None and history.curve("nobody") is None
    day = history.curve("b2")
    assert day and (day.least, day.most) == (13, 300)
    assert (day.start, day.end) == (NOW + 12 * 300, NOW + 299 * 300)
    assert len(day.path.split("L")) == heap_history.POINTS


def test_heap_as_a_line() -> None:
    history = heap_history.HeapHistory(None)  # type: ignore[arg-type]
    history.keep(told("b1", 8000, 6000, 2**40))
    found = history.curve("b1")
    assert found and found.most == 2**32 - 1
    history = heap_history.HeapHistory(None)  # type: ignore[arg-type]
    history.keep(told("b1", 8000, 6000, 4000))
    assert history.curve("b1") == (
        "M0.0 0.0L300.0 25.0L600.0 50.0", NOW, NOW + 600, 4000, 8000,
    )  # fmt: skip


def test_page_of_a_board_shows_its_heap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_history, "SAMPLE_SECONDS", 0.1)
    with running(tmp_path) as server:
        Client(server.url, server.token).add_trust(vectors.first_trust())
        board, session = enrolled(server), logged_in(server)
        board.boot(heap=21000)
        page, heap = "", 21000
        end = time.monotonic() + 60
        while "20,000 to 21,000 bytes" not in page and time.monotonic() < end:
            heap = 21000 if heap == 20000 else 20000
            board.poll(heap=heap)
            page = session.get(f"{server.url}/boards/{board.id}", timeout=30).text
        assert "Free heap</h2>" in page and "20,000 to 21,000 bytes" in page


# --- pages ---


def test_failures_come_first_and_go_when_the_board_is_past_them(server: Running) -> None:
    people, board = Client(server.url, server.token), enrolled(server)
    packed = fleet.release({"main.py": "pass"}, 5, app=board.app, cls=board.cls)
    digest = people.publish(packed)["digest"]
    board.boot()
    board.poll(bad={"m": digest[:32], "why": "exception", "soft": 0, "trace": "ValueError: dust"})
    session = logged_in(server)
    page = session.get(server.url, timeout=30).text
    assert page.index("What fails") < page.index("ValueError: dust") < page.index("What runs")
    board.report |= {"seq": 5, "m": digest[:32]}
    board.boot()
    assert "What fails" not in session.get(server.url, timeout=30).text


@pytest.mark.timeout(300)
def test_pages_of_ten_thousand_boards_are_small(tmp_path: Path) -> None:
    """However long the names are that people and boards may choose."""
    many_boards.fill(tmp_path, 10_000, name="n" * 27, note="<" * 64, trace="<" * READABLE_CHARS)
    number = many_boards.CANCELLED + 1
    lists = [f"/rollouts/{number}?state={state}" for state in ("", "waiting", "failed")]
    api = [f"/api/v1/rollouts/{number}", "/api/v1/rollouts?limit=100"]
    with running(tmp_path) as server:
        session = logged_in(server)
        session.headers["authorization"] = f"Bearer {server.token}"
        sizes = {
            path: len(session.get(server.url + path, timeout=60).content)
            for path in (*FLEET_PAGES, *lists, "/rollouts", *api)
        }
        assert max(sizes.values()) <= MOST_BYTES, sizes
        page = session.get(server.url + "/?state=recovery", timeout=60).text
        assert "25 boards" in page and page.count('<th scope="row">') == 25
        page = session.get(server.url + "/?search=node-0400&sort=name", timeout=60).text
        assert "10 boards" in page
        page = session.get(server.url + "/?search=%25", timeout=60).text
        assert "No board fits" in page
        told = session.get(server.url + api[0], timeout=60).json()
        counts = told["counts"]
        assert (len(told["boards"]), len(told["waiting"])) == (rollout_queries.LISTED,) * 2
        boards = session.get(server.url + "/api/v1/boards?limit=1", timeout=60).json()["total"]
        assert 0 < told["waiting_in_all"] < boards // 2 - sum(counts.values())


def test_what_a_board_says_is_escaped(server: Running) -> None:
    board = enrolled(server)
    board.boot(jobs={"<b>job</b>": [1, 2]})
    trace = "<script>x</script>\nValueError: <i>&</i>"
    board.poll(bad={"m": "b2" * 16, "why": "exception", "soft": 0, "trace": trace})
    session = logged_in(server)
    for path in ("/", "/boards/kitchen", "/?search=<script>x</script>&state=<i>"):
        page = session.get(server.url + path, timeout=30).text
        assert "ValueError: &lt;i&gt;" in page
        assert "<script>x" not in page and "<i>" not in page and "<b>job" not in page


# --- actions ---

ACTIONS = ("rollback", "pause", "rename", "retire")


def test_actions_ask_first_and_then_do(server: Running) -> None:
    people, board, session = Client(server.url, server.token), enrolled(server), logged_in(server)
    board.boot()
    url = server.url + "/boards/sim-01"

    def done(action: str, **fields: str) -> str:
        asked = session.get(f"{url}/{action}", timeout=30)
        assert asked.ok and 'method="post"' in asked.text
        answer = session.post(f"{url}/{action}", data=fields, timeout=30)
        assert answer.ok and answer.url == f"{url}?done={action}", answer.text
        assert 'role="status"' in answer.text
        return answer.text

    assert "rollback" in done("rollback")
    assert people.board("sim-01")["orders"] == ["rollback"]
    done("cancel")
    assert people.board("sim-01")["orders"] == []
    done("pause")
    assert not people.board("sim-01")["follow"]
    assert "It keeps" not in done("resume")
    assert people.board("sim-01")["follow"]
    done("rename", name="cellar")
    assert people.board("sim-01")["name"] == "cellar"
    done("retire")
    assert "cellar" not in session.get(server.url + "/?state=ok", timeout=30).text
    assert "cellar" in session.get(server.url + "/?retired=1", timeout=30).text
    done("reuse")
    assert "cellar" in session.get(server.url, timeout=30).text


def test_update_now_takes_away_what_holds_the_board(server: Running) -> None:
    people, board, session = Client(server.url, server.token), enrolled(server), logged_in(server)
    packed = fleet.release({"main.py": "pass"}, 5, app=board.app, cls=board.cls)
    digest = people.publish(packed)["digest"]
    board.boot()
    board.poll(bad={"m": digest[:32], "why": "exception", "soft": 0, "trace": ""})
    assert "m" not in board.poll()
    people.order("sim-01", "hold")
    url = server.url + "/boards/sim-01"
    assert "Update now" in session.get(url, timeout=30).text
    assert session.post(url + "/update", timeout=30).ok
    assert board.poll()["do"] == [f"retry {digest[:32]}"]
    assert board.poll()["m"] == digest
    # There is nothing to take away any more.
    assert session.post(url + "/update", timeout=30).status_code == 409


def test_actions_are_for_operators_and_own_pages(server: Running) -> None:
    board = enrolled(server)
    board.boot()
    headers = {"authorization": f"Bearer {server.token}"}
    said = {"name": "eve", "role": "publish"}
    requests.post(server.url + "/api/operators", json=said, headers=headers, timeout=30)
    said = {"operator": "eve"}
    made = requests.post(server.url + "/api/tokens", json=said, headers=headers, timeout=30)
    owner, eve, nobody = logged_in(server), logged_in(server, made.json()["token"]), requests
    assert "Roll back" not in eve.get(server.url + "/boards/sim-01", timeout=30).text
    for action in ACTIONS:
        url = f"{server.url}/boards/sim-01/{action}"
        assert eve.get(url, timeout=30).status_code == 403
        assert eve.post(url, data={"name": "x"}, timeout=30).status_code == 403
        assert nobody.post(url, data={"name": "x"}, timeout=30).url.endswith("/login")
        elsewhere = {"origin": "http://evil.example"}
        answer = owner.post(url, data={"name": "x"}, headers=elsewhere, timeout=30)
        assert answer.status_code == 403
    kept = Client(server.url, server.token).board("sim-01")
    assert (kept["name"], kept["follow"], kept["orders"], kept["retired"]) == (
        "kitchen", True, [], None,
    )  # fmt: skip


def test_what_is_wrong_is_a_page_that_says_so(server: Running) -> None:
    enrolled(server)
    session = logged_in(server)
    for path, status, words in (
        ("/boards/none", 404, "There is no board"),
        ("/boards/kitchen/explode", 404, "There is no such page"),
        ("/boards/kitchen/rollback", 409, "does not listen to orders"),
        ("/boards/kitchen/update", 409, "Nothing is published"),
    ):
        answer = session.get(server.url + path, timeout=30)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
    answer = session.post(server.url + "/boards/kitchen/rename", data={"name": "a b"}, timeout=30)
    assert answer.status_code == 422 and "no name for a board" in answer.text
    wanted = {"offset": "-1", "sort": "no", "state": "no", "search": "x" * 999}
    assert session.get(server.url, params=wanted, timeout=30).ok
