"""mipy release, reissue, rollback, boards, status against a real server."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server.condition import condition
from mipy_ota.ota_server.people.api import board_json
from mipy_ota.ota_server.policy import Board, Known
from mipy_ota.signing import bundle, manifest
from mipy_ota.signing import trust as trust_file
from mipy_ota.tools import console
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import boards, client, release
from mipy_ota.tools.fleet.pick import steps, title
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.keys import store as keys
from tests.support import vectors
from tests.support.fake_board import FakeBoard

APP_TOML = 'name = "weather"\nclasses = ["esp8266-generic"]\nruntime = false\n'

Mipy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """An empty server."""
    with running(tmp_path / "server", interval=1) as served:
        yield served


@pytest.fixture
def mipy(
    server: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Mipy:
    """Runs `mipy` as a shell would, in a fleet with keys; returns (exit code, out, err)."""
    from mipy_ota.tools import cli

    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MIPY_SERVER", server.url)
    monkeypatch.setenv("MIPY_TOKEN_FILE", str(tmp_path / "server" / "token"))
    monkeypatch.setattr(release, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(console, "_consoles", {})
    folder = keys.places.keys_dir()
    for role in ("root", "release"):
        name = f"{role}-{vectors.public(role).id}.pem"
        keys.write(folder / name, keys.pem.to_pem(vectors.key(role)), 0o600)
    first = trust_file.first("default", [(r, vectors.public(r)) for r in ("root", "release")])
    signed = trust_file.add_signature(first.encode(), vectors.key("root"))
    keys.write(folder / "trust.1", signed, 0o600)

    def run(*words: str) -> tuple[int, str, str]:
        console._consoles.clear()
        monkeypatch.setattr("sys.argv", ["mipy", *words])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small app without the runtime."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.toml").write_text(APP_TOML)
    (folder / "main.py").write_text("import helper\nhelper.run()\n")
    (folder / "helper.py").write_text("def run():\n    pass\n")
    return folder


def enrolled(server: Running, name: str = "sim-01") -> FakeBoard:
    """A board that the server knows, after its first polls."""
    fake = FakeBoard(server.url, id=name)
    client.Client(server.url, server.token).enrol(fake.file())
    fake.boot()
    return fake


def published(said: str) -> dict[str, Any]:
    return json.loads(said)["releases"][0]


def test_release_then_reissue(mipy: Mipy, server: Running, app: Path):
    code, said, _ = mipy("release", str(app), "--note", "one", "--json")
    assert code == 0
    one = published(said)
    (app / "helper.py").write_text("def run():\n    return 2\n")
    two = published(mipy("release", str(app), "--note", "two", "--json")[1])
    assert two["seq"] > one["seq"]
    assert two["digest"] != one["digest"]
    for wanted in ("one", str(one["seq"]), one["digest"][:6], one["digest"]):
        code, said, err = mipy("reissue", wanted, "--json")
        assert code == 0, err
        again = published(said)
        assert again["seq"] > two["seq"]
    api = client.Client(server.url, server.token)
    first, last = (bundle.read(api.bundle(one["digest"])) for one in (one, again))
    assert first[1] == last[1]
    code, said, err = mipy("release", str(app))
    assert re.match(r"published weather for esp8266-generic: 20\d\d-\d\d-\d\d \d\d:\d\d, ", said)
    assert f", number {again['seq'] + 1}, digest " in said


def test_a_floor_never_falls_by_itself(mipy: Mipy, server: Running, app: Path):
    """Boards refuse a release whose floor is below theirs, which an earlier one has raised."""

    def floor(said: str) -> int:
        packed = client.Client(server.url, server.token).bundle(published(said)["digest"])
        return manifest.parse(bundle.read(packed)[0]).floor

    mipy("release", str(app), "--note", "old")
    assert floor(mipy("release", str(app), "--floor", "1000", "--json")[1]) == 1000
    assert floor(mipy("release", str(app), "--json")[1]) == 1000
    assert floor(mipy("reissue", "old", "--json")[1]) == 1000
    code, said, err = mipy("release", str(app), "--floor", "999", "--json")
    assert (code, floor(said)) == (0, 999) and "whose floor is 1000 already refuse" in err
    newest = json.loads(mipy("status", "--json")[1])["releases"][0]["seq"]
    assert mipy("keys", "reset", str(newest), "500")[0] == 0
    assert floor(mipy("release", str(app), "--json")[1]) == 500


def test_keys_are_registered_once(mipy: Mipy, app: Path):
    said = [mipy("release", str(app))[2] for _ in "12"]
    assert ["registering the fleet's keys" in one for one in said] == [True, False]


def test_reissue_asks_for_one_release(mipy: Mipy, app: Path):
    mipy("release", str(app), "--note", "same")
    mipy("release", str(app), "--note", "same")
    code, _, err = mipy("reissue", "same")
    assert (code, "names 2 releases" in err) == (1, True)
    code, _, err = mipy("reissue", "nothing")
    assert (code, "there is no release" in err) == (1, True)


def test_a_broken_server_gets_nothing_signed(mipy: Mipy, server: Running, app: Path):
    one = published(mipy("release", str(app), "--json")[1])
    api = client.Client(server.url, server.token)
    raw, files = bundle.read(api.bundle(one["digest"]))
    with pytest.raises(Failure, match="hash"):
        release.renumbered(
            bundle.write(raw, files | {"main.py": b"import helper\nhelper.RUN()\n"}), 9
        )
    evil = manifest.make("weather", "esp8266-generic", one["seq"], {"main.py": b"evil()"})
    with pytest.raises(Failure, match="unsigned"):
        release.renumbered(bundle.write(evil, {"main.py": b"evil()"}), 9)


@pytest.mark.parametrize("good", [True, False])
def test_follow(mipy: Mipy, server: Running, app: Path, good: bool):
    fake, stop = enrolled(server), threading.Event()

    def live() -> None:
        """Install what is offered; then confirm it or go back."""
        for _ in range(2000):
            offered = fake.poll().get("m")
            if offered:
                break
            stop.wait(0.01)
        else:
            return
        fake.poll(state="installing", prog=[1, 2])
        fake.poll(state="trial", m=offered[:32], seq=2)
        if good:
            fake.poll(m=offered[:32], seq=3)
        else:
            bad = {"m": offered[:32], "why": "exception", "soft": 0, "trace": "line 1"}
            fake.poll(bad=bad)

    thread = threading.Thread(target=live)
    thread.start()
    code, said, err = mipy("release", str(app), "--follow", "--json")
    thread.join()
    [seen] = json.loads(said)["boards"]
    expected = (0, "confirmed", "") if good else (release.WENT_BACK, "went back", "exception")
    assert (code, seen["outcome"], seen["detail"]) == expected, err
    fake.close()


@pytest.mark.parametrize("boards", [2, 4])
def test_follow_ends_with_a_halt(mipy: Mipy, server: Running, app: Path, boards: int):
    """Those that are not offered the release any more are not waited for; many are counted."""
    fakes = [enrolled(server, f"b{n}") for n in range(boards)]
    ended = threading.Event()

    def live() -> None:
        """Whoever is offered it first goes back."""
        while not ended.is_set():
            for fake in fakes:
                if offered := fake.poll().get("m"):
                    bad = {"m": offered[:32], "why": "exception", "soft": 0, "trace": "line 1"}
                    fake.poll(bad=bad)
                    return

    thread = threading.Thread(target=live)
    thread.start()
    code, _, err = mipy("release", str(app), "--follow")
    ended.set()
    thread.join()
    assert code == release.WENT_BACK
    assert "went back: b" in err
    assert ("0 of 4 boards confirmed, 1 went back, 3 to go" in err) is (boards == 4)
    for fake in fakes:
        fake.close()


def test_follow_ends_when_the_rollout_is_cancelled(mipy: Mipy, server: Running, app: Path):
    fake = enrolled(server)
    number = json.loads(mipy("release", str(app), "--draft", "--json")[1])["releases"][0]["rollout"]
    api = client.Client(server.url, server.token)
    api.steer_rollout(number["id"], "cancel", reason="lunch")
    published = [{"app": "weather", "class": "esp8266-generic", "digest": number["digest"]}]
    watch = release.Watch(api, [published[0] | {"rollout": number}])
    assert [one.outcome for one in watch.run(3600)] == ["open"]
    assert watch.halted and watch.halted["why"] == "lunch"
    fake.close()


def test_follow_ends_in_time(mipy: Mipy, server: Running, app: Path):
    fake = enrolled(server)
    code, _, err = mipy("release", str(app), "--follow", "--timeout", "0")
    assert code == release.OUT_OF_TIME
    assert "not decided in time: sim-01" in err
    fake.close()


def test_follow_survives_a_restart_and_ends_when_the_server_is_gone():
    class Flaky:
        looks = 0

        def boards(self) -> list[dict[str, Any]]:
            Flaky.looks += 1
            if Flaky.looks == 1 or Flaky.looks > 3:
                raise Failure("cannot reach the server")
            return [
                {
                    "id": "b", "name": "", "app": "a", "class": "c", "follow": True,
                    "confirmed": "", "state": "ok", "rejected": [], "progress": "",
                }
            ]  # fmt: skip

    watch = release.Watch(Flaky(), [{"app": "a", "class": "c", "digest": "d" * 64}])  # type: ignore[arg-type]
    with pytest.raises(Failure):
        watch.run(3600, pause=lambda _: None)
    assert Flaky.looks == 3 + release.MISSED_LOOKS


def test_boards_status_rollback(mipy: Mipy, server: Running, app: Path):
    assert mipy("boards")[1] == "no board is enrolled yet\n"
    fake = enrolled(server)
    mipy("release", str(app), "--note", "one")
    code, said, _ = mipy("boards")
    assert (code, "sim-01" in said, "esp8266-generic" in said) == (0, True, True)
    assert json.loads(mipy("boards", "--json")[1])[0]["id"] == "sim-01"
    assert "enrolled" in mipy("boards", "sim-01")[1]
    assert json.loads(mipy("boards", "sim-01", "--json")[1])["events"]
    assert "one" in mipy("status")[1]
    assert json.loads(mipy("status", "--json")[1])["server"]["boards"] == 1
    code, said, _ = mipy("rollback", "sim-01")
    assert (code, "goes back" in said) == (0, True)
    assert fake.poll()["do"] == ["rollback"]
    assert mipy("rollback", "sim-01", "--cancel")[0] == 0
    assert "do" not in fake.poll()
    assert "cancelled" in mipy("boards", "sim-01")[1]
    code, _, err = mipy("rollback", "nobody")
    assert (code, "no board 'nobody'" in err) == (1, True)
    fake.close()


# --- all boards back at once


def confirms(fakes: list[FakeBoard], one: Mapping[str, Any]) -> None:
    """The boards are offered the release and run it, one after another where they must."""
    for fake in fakes:
        assert fake.poll()["m"] == one["digest"]
        fake.report |= {"m": one["digest"][:32], "seq": one["seq"]}
        fake.boot()


def files_of(server: Running, one: Mapping[str, Any]) -> dict[str, bytes]:
    return bundle.read(client.Client(server.url, server.token).bundle(one["digest"]))[1]


def test_all_boards_go_back_one_release_after_another(mipy: Mipy, server: Running, app: Path):
    """Who goes back twice comes to what was before that, not to what was left."""
    fake, releases = enrolled(server), list[dict[str, Any]]()
    for n in range(3):
        (app / "helper.py").write_text(f"def run():\n    return {n}\n")
        releases.append(published(mipy("release", str(app), "--note", f"1.{n}", "--json")[1]))
        confirms([fake], releases[-1])
    for expected in releases[1::-1]:
        code, said, err = mipy("rollback", "--all", "--yes", "--json")
        assert code == 0, err
        again = published(said)
        assert (again["note"], again["seq"] > releases[2]["seq"]) == (expected["note"], True)
        assert files_of(server, again) == files_of(server, expected)
        confirms([fake], again)
    code, _, err = mipy("rollback", "--all", "--yes")
    assert (code, "no former release in the channel stable" in err) == (1, True)
    fake.close()


def test_rollback_of_all_asks_first_and_counts(
    mipy: Mipy, server: Running, app: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of four boards: to all at once, in one wave, as they ran it before."""
    fakes = [enrolled(server, f"b{n}") for n in range(4)]
    assert mipy("rollback", "--all", "--yes")[0] == 1
    first = published(mipy("release", str(app), "--note", "1.0", "--json")[1])
    client.Client(server.url, server.token).steer_rollout(first["rollout"]["id"], "cancel")
    assert mipy("promote", "1.0", "stable", "--waves", "100")[0] == 0
    confirms(fakes, first)
    (app / "helper.py").write_text("def run():\n    return 2\n")
    second = published(mipy("release", str(app), "--waves", "100", "--note", "1.1", "--json")[1])
    confirms(fakes[:1], second)
    code, _, err = mipy("rollback", "--all")
    assert (code, "nobody is here to be asked" in err, "--yes" in err) == (1, True, True)
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(console, "confirm", lambda text: bool(asked.append(text)))
    code, _, err = mipy("rollback", "--all")
    assert (code, "nothing was published" in err) == (1, True)
    assert "weather for esp8266-generic: 4 boards" in err
    assert f"from  {title(second)}, number {second['seq']}: 1 run it" in err
    assert f"to  {title(first)}, number {first['seq']}: 3 run it" in err
    whom = "all boards of weather in the channel stable"
    assert asked == [f"Publish {title(first)} again, for {whom}?"]
    assert len(client.Client(server.url, server.token).releases()) == 2
    monkeypatch.setattr(console, "confirm", lambda text: True)
    code, said, _ = mipy("rollback", "--all", "--follow", "--timeout", "0", "--json")
    assert code == release.OUT_OF_TIME
    again = published(said)["rollout"]
    assert (again["canary"], again["waves"], again["strict"]) == ([], [100], False)
    for fake in fakes:
        fake.close()


def test_what_was_signed_elsewhere_is_asked_about(mipy: Mipy, server: Running, app: Path):
    """The server says which release is the former one, and its word alone gets none signed."""
    fake, one = enrolled(server), published(mipy("release", str(app), "--json")[1])
    confirms([fake], one)
    (app / "helper.py").write_text("def run():\n    return 2\n")
    mipy("release", str(app))
    (keys.places.data_dir() / "releases" / one["digest"]).unlink()
    code, _, err = mipy("rollback", "--all", "--yes")
    assert (code, "was not signed on this computer" in err) == (1, True)
    assert len(client.Client(server.url, server.token).releases()) == 2
    fake.close()


@pytest.mark.parametrize("words", [[], ["b1", "--all"], ["--all", "--cancel"]])
def test_rollback_takes_a_board_or_all(mipy: Mipy, words: list[str]):
    assert mipy("rollback", *words)[0] == 2


def rollout_of(n: int, state: str = "done", confirmed: int = 0, **more: Any) -> dict[str, Any]:
    facts = {"id": n, "digest": f"{n:032x}" * 2, "channel": "stable", "state": state}
    return facts | {"counts": {"confirmed": confirmed}} | more


OLD, NEW = frozenset({("main.py", "00")}), frozenset({("main.py", "01")})


@pytest.mark.parametrize(
    ("second", "rollout", "former"),
    [
        ({}, {}, 2),
        ({"withdrawn": 1.0}, {}, 1),
        ({"channels": ["beta"]}, {}, 1),
        ({"class": "d"}, {}, 1),
        ({}, {"state": "draft"}, 1),
        ({}, {"state": "halted", "confirmed": 9}, 1),
        ({}, {"state": "cancelled", "confirmed": 9}, 1),
        ({}, {"state": "superseded", "confirmed": 0}, 1),
        ({}, {"state": "superseded", "confirmed": 1}, 2),
        ({}, {"state": "halted", "channel": "beta"}, 2),
    ],
)
def test_the_former_release_is_one_that_went_out(
    second: dict[str, Any], rollout: dict[str, Any], former: int
):
    releases = [listed_release(3), listed_release(2, **second), listed_release(1)]
    [step] = steps(releases, [rollout_of(1), rollout_of(2, **rollout)], {}, "stable", ["c"])
    assert (step.leaving["seq"], step.former["seq"]) == (3, former)


def test_a_release_that_was_published_again_is_one_with_its_first_issue():
    releases = [listed_release(n) for n in (4, 3, 2, 1)]
    content = {
        one["digest"]: files for one, files in zip(releases, (OLD, NEW, OLD, NEW), strict=True)
    }
    [step] = steps(releases, [], content, "stable")
    assert (step.leaving["seq"], step.former["seq"]) == (4, 1)
    del content[releases[0]["digest"]]
    assert steps(releases, [], content, "stable")[0].former["seq"] == 3
    assert steps(releases, [], content, "stable", ["d"]) == []
    assert steps(releases[:1], [], content, "stable") == []


def test_board_file_is_enrolled_by_hand(mipy: Mipy, server: Running, tmp_path: Path):
    fake = FakeBoard(server.url, id="cellar")
    (tmp_path / "board").write_bytes(fake.file())
    assert mipy("boards", "--add", str(tmp_path / "board"))[0] == 0
    assert fake.poll()["stale"]
    assert mipy("boards", "--add", str(tmp_path / "none"))[0] == 1
    fake.close()


def test_clear_words_when_there_is_no_server(
    mipy: Mipy, app: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9")
    for words in (["boards"], ["status"], ["release", str(app)], ["rollback", "x"]):
        code, _, err = mipy(*words)
        assert code == 1
        assert "cannot reach the server of the fleet 'default' at http://127.0.0.1:9" in err
        assert "Traceback" not in err
    monkeypatch.setenv("MIPY_TOKEN_FILE", str(tmp_path / "none"))
    assert "cannot read the server's token" in mipy("boards")[2]


def test_wrong_token(mipy: Mipy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "wrong").write_text("wrong")
    monkeypatch.setenv("MIPY_TOKEN_FILE", str(tmp_path / "wrong"))
    code, _, err = mipy("boards")
    assert (code, "token is missing or wrong" in err) == (1, True)


def test_a_class_that_no_board_has_is_asked_about(
    app: Path, mipy: Mipy, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mipy("release", str(app), "--class", "esp32-generic")[0] == 0  # no boards yet
    enrolled(server)
    code, _, err = mipy("release", str(app), "--class", "esp32-generik")
    assert code == 1 and "no board of weather is of class esp32-generik" in err
    assert "esp8266-generic" in err
    assert mipy("release", str(app), "--class", "esp8266-generic")[0] == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, wanted in ((False, 1), (True, 0)):
        monkeypatch.setattr(console, "confirm", lambda text, said=answer: said)
        assert mipy("release", str(app), "--class", "esp32-generik")[0] == wanted


def test_a_note_in_any_language(app: Path, mipy: Mipy, server: Running) -> None:
    code, _, err = mipy("release", str(app), "--note", "größer 温度")
    assert code == 0, err
    listed = json.loads(mipy("status", "--json")[1])["releases"]
    assert [one["note"] for one in listed] == ["größer 温度"]
    assert mipy("reissue", "größer 温度")[0] == 0
    listed = json.loads(mipy("status", "--json")[1])["releases"]
    assert [one["note"] for one in listed] == ["größer 温度"] * 2


# --- what people read


def listed_release(n: int, **more: Any) -> dict[str, Any]:
    facts = {"app": "weather", "class": "c", "digest": f"{n:032x}" * 2, "seq": n, "note": f"v{n}"}
    return facts | {"published": n * 86400, "withdrawn": None, "channels": ["stable"]} | more


BOARD = {
    "id": "b1", "app": "weather", "class": "c", "channel": "stable", "digest": f"{1:032x}",
    "rejected": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("newer", "behind"),
    [
        (listed_release(2), True),
        (listed_release(2, withdrawn=5), False),
        (listed_release(2, channels=["beta"]), False),
        (listed_release(2, **{"class": "d"}), False),
    ],
)
def test_a_release_is_shown_by_note_and_date_and_a_board_behind_is_told(
    newer: dict[str, Any], behind: bool
):
    first = listed_release(1)
    shown = boards.called(BOARD, [newer, first])
    assert shown.split("; ")[0] == title(first)
    assert re.fullmatch(r"v1, 1970-01-0\d \d\d:\d\d", title(first))
    assert ("newer: v2, 1970-01-0" in shown) == behind
    assert boards.called(BOARD | {"digest": ""}, [newer, first]) == "none"
    assert title(first | {"note": "-"}) == title(first).removeprefix("v1, ")


def rejected(n: int, soft: bool = False) -> dict[str, Any]:
    return {"rejected": [{"digest": f"{n:032x}", "reason": "exception", "soft": soft}]}


CANARY = {"canary": ["b9"], "waves": [100], "wave": 0, "waves_in_all": 2, "members": None}


@pytest.mark.parametrize(
    ("board", "rollout", "shown"),
    [
        ({}, {}, "; newer: v2"),
        (rejected(2), {}, "; rejected: v2 (exception)"),
        (rejected(2, soft=True), {}, "; newer: v2"),
        ({}, {"state": "halted"}, "; newer: v2, its rollout is halted"),
        ({}, {"state": "cancelled"}, ""),
        ({}, {"state": "draft"}, ""),
        ({}, {"state": "running"}, "; newer: v2, in wave 2 of 2"),
        ({}, {"state": "running", "wave": 1}, "; newer: v2"),
        ({"id": "b9"}, {"state": "running"}, "; newer: v2"),
        ({}, {"state": "running", "members": []}, "; newer: v2, its rollout is not for this board"),
        ({}, {"state": "halted", "channel": "beta"}, "; newer: v2"),
    ],
)
def test_what_is_newer_goes_by_rejections_and_waves(
    board: dict[str, Any], rollout: dict[str, Any], shown: str
):
    first, second = listed_release(1), listed_release(2)
    rollouts = [rollout_of(1), rollout_of(2, **(CANARY | rollout))]
    words = boards.called(BOARD | board, [second, first], rollouts)
    assert words == title(first) + shown.replace("v2", title(second))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "ok"),
        ({"paused": True}, "paused"),
        ({"up": 4}, "ok"),
        ({"ago": 4000}, "offline"),
        ({"ago": 4000, "up": 4}, "waiting"),
        ({"ago": 4000, "up": 4, "paused": True}, "waiting, paused"),
        ({"ago": 4000, "state": "installing"}, "offline, was installing"),
        ({"ago": None, "state": ""}, "never seen"),
        ({"state": "installing", "progress": "3/9"}, "updating: installing 3/9"),
        ({"state": "trial"}, "updating: trial"),
        ({"state": "crashing", "crashes": 3}, "crashing (3 crashes)"),
        ({"state": "recovery", "crashes": 1, "paused": True}, "recovery (1 crash), paused"),
    ],
)
def test_a_boards_state_is_what_the_pages_call_it(changes: dict[str, Any], shown: str):
    now, facts = time.time(), {"ago": 60, "up": 3600, "state": "ok"} | changes
    ago = facts.pop("ago")
    seen = None if ago is None else now - ago
    board = Board("b1", "", "a", "c", bytes(32), False, now, last_seen=seen, **facts)
    told = board_json(Known(board))
    assert shown.startswith(told["condition"]) and told["condition"] == condition(board, now)
    assert boards.state(told) == shown


def test_who_follows_a_release_sees_for_how_long_and_for_what(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(release.time, "monotonic", lambda: now[0])
    trial, live = release.Seen("kitchen", "open", "trial"), release._Live()
    live._since = {}
    assert live._clock(trial) == "  0:00"
    now[0] += 85
    assert live._clock(trial) == "  1:25"
    assert "has to run for a minute, and to hear from its server" in release._words(trial)
    assert live._clock(release.Seen("kitchen", "open", "installing")) == "  0:00"
    assert live._clock(release.Seen("kitchen", "confirmed", "")) == ""


# --- several apps in one fleet


@pytest.fixture
def relay(tmp_path: Path) -> Path:
    """A second app of the fleet."""
    folder = tmp_path / "relay"
    folder.mkdir()
    (folder / "app.toml").write_text(APP_TOML.replace("weather", "relay"))
    (folder / "main.py").write_text("print('relay')\n")
    return folder


@pytest.fixture
def boards_of_both(server: Running) -> Iterator[dict[str, FakeBoard]]:
    """A board of each app, called as the app is."""
    found = {name: FakeBoard(server.url, id=name, app=name) for name in ("weather", "relay")}
    for fake in found.values():
        client.Client(server.url, server.token).enrol(fake.file())
        fake.boot()
    yield found
    for fake in found.values():
        fake.close()


def test_each_board_is_offered_its_own_app(
    mipy: Mipy, app: Path, relay: Path, boards_of_both: dict[str, FakeBoard]
):
    made = {
        name: published(mipy("release", str(folder), "--note", "1.0", "--json")[1])
        for name, folder in (("weather", app), ("relay", relay))
    }
    for name, fake in boards_of_both.items():
        assert fake.poll()["m"] == made[name]["digest"]
    listed = mipy("boards", "--app", "relay")[1]
    assert "relay" in listed and "weather" not in listed


def test_all_boards_of_one_app_go_back(
    mipy: Mipy,
    app: Path,
    relay: Path,
    boards_of_both: dict[str, FakeBoard],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(app.parent)
    for note in ("1.0", "1.1"):
        for name, folder in (("weather", app), ("relay", relay)):
            (folder / "main.py").write_text(f"print({note!r}, {name!r})\n")
            one = published(mipy("release", str(folder), "--note", note, "--json")[1])
            confirms([boards_of_both[name]], one)
    code, _, err = mipy("rollback", "--all", "--yes")
    assert code == 1 and "of 2 apps: relay, weather" in err and "--app" in err
    monkeypatch.chdir(relay)
    again = published(mipy("rollback", "--all", "--yes", "--json")[1])
    assert (again["app"], again["note"]) == ("relay", "1.0")
    assert boards_of_both["relay"].poll()["m"] == again["digest"]
    assert "m" not in boards_of_both["weather"].poll()
    code, said, _ = mipy("rollback", "--all", "--yes", "--app", str(app), "--json")
    assert (code, published(said)["app"]) == (0, "weather")


@pytest.mark.parametrize(
    "words",
    [
        ("reissue", "1.0"), ("withdraw", "1.0"), ("promote", "1.0", "beta"),
        ("rollout", "start", "1.0"),
    ],
)  # fmt: skip
def test_a_release_is_chosen_among_those_of_one_app(
    mipy: Mipy,
    server: Running,
    app: Path,
    relay: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
):
    """Both apps have a 1.0: nothing is done until it is clear whose is meant."""
    monkeypatch.chdir(app.parent)
    api = client.Client(server.url, server.token)
    for note in ("1.0", "1.1"):
        for folder in (app, relay):
            (folder / "main.py").write_text(f"print({note!r}, {folder.name!r})\n")
            assert mipy("release", str(folder), "--note", note)[0] == 0
    before = api.releases(), [one["id"] for one in api.rollouts()]
    code, _, err = mipy(*words)
    assert code == 1 and "of 2 apps: relay, weather" in err and "--app" in err
    assert (api.releases(), [one["id"] for one in api.rollouts()]) == before
    code, _, err = mipy(*words, "--app", "garden")
    assert code == 1 and "garden" in err
    assert (api.releases(), [one["id"] for one in api.rollouts()]) == before

    # By name, by folder, or by where one is.
    code, _, err = mipy(*words, "--app", "relay")
    assert code == 0, err
    changed = [one for one in api.releases() if one not in before[0]]
    assert {one["app"] for one in changed} <= {"relay"}
    new = [one for one in api.rollouts() if one["id"] not in before[1]]
    assert {one["app"] for one in new} <= {"relay"} and (changed or new)
    monkeypatch.chdir(app)
    assert mipy(*words)[0] == 0
    changed = [one for one in api.releases() if one not in before[0] and one["app"] == "weather"]
    new = [one for one in api.rollouts() if one["id"] not in before[1] and one["app"] == "weather"]
    assert changed or new


def test_a_canary_is_a_board_of_the_releases_app(
    mipy: Mipy, server: Running, app: Path, relay: Path
):
    fake = enrolled(server, "kitchen")
    code, _, err = mipy("release", str(relay), "--canary", "kitchen")
    assert code == 1 and "'kitchen' is a board of the app 'weather', not of 'relay'" in err
    assert client.Client(server.url, server.token).releases() == []
    assert mipy("release", str(app), "--canary", "kitchen")[0] == 0
    fake.close()


def test_a_server_cannot_swap_the_app_of_what_is_signed_again(
    mipy: Mipy, server: Running, app: Path, relay: Path
):
    """Both are the fleet's, with one note, one number and one class."""
    for folder in (app, relay):
        assert mipy("release", str(folder), "--note", "1.0")[0] == 0
    api = client.Client(server.url, server.token)
    found = {one["app"]: one for one in api.releases()}
    content = api.bundle(found["relay"]["digest"])
    release.check_meant(content, found["relay"], "1.0", "relay")
    with pytest.raises(console.Failure, match="sends relay"):
        release.check_meant(content, found["relay"], "1.0", "weather")
    with pytest.raises(console.Failure, match="names 2 releases that were signed here"):
        release.check_meant(content, found["relay"], "1.0")
