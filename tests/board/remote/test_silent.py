"""Commands on a board that falls silent when it resets, as chips do (tools/sim/air.py)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools.board import bridge, fs, push, run, session, settings, target, terminal, wifi
from mipy_ota.tools.board.repl import Repl
from mipy_ota.tools.console import Failure
from tests.support import workbench


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[workbench.Desk]:
    """A dev board."""
    with workbench.desk(tmp_path_factory.mktemp("desk"), silent=True) as made:
        yield made


@pytest.fixture
def lives(desk: workbench.Desk) -> Callable[[], int]:
    """How often its app has started; it runs."""

    def count() -> int:
        return desk.board.console.count("turn 1 ")

    before = count()
    assert desk.board.wait(lambda board: board.console.endswith("\n"), 60)
    return lambda: count() - before


def restarted(desk: workbench.Desk, lives: Callable[[], int], times: int = 1) -> bool:
    """It has started its app so often since the test began, and counted no crash."""
    return desk.board.wait(lambda _: lives() >= times, 60) and desk.board.rtc[1] == 0


def test_reset_needs_no_answer(desk: workbench.Desk, lives: Callable[[], int]) -> None:
    for n in range(1, 4):
        run.reset(workbench.NAME)
        assert restarted(desk, lives, n)


def test_exec_and_run(
    desk: workbench.Desk,
    lives: Callable[[], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run.execute(workbench.NAME, "print(6 * 7)")
    run.execute(workbench.NAME, "print('again')")  # at once: the board is starting
    (tmp_path / "script.py").write_text("for n in range(3):\n    print('n', n)\n")
    run.run(workbench.NAME, tmp_path / "script.py")
    assert capsys.readouterr().out == "42\nagain\nn 0\nn 1\nn 2\n"
    assert restarted(desk, lives)


def test_files_settings_networks(
    desk: workbench.Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = os.urandom(5000)
    (tmp_path / "a").write_bytes(content)
    fs.cp(workbench.NAME, str(tmp_path / "a"), ":a")
    fs.cp(workbench.NAME, ":a", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == content
    fs.rm(workbench.NAME, ":a")
    wifi.ls(workbench.NAME)
    assert "home" in capsys.readouterr().out
    with pytest.raises(Failure, match="no app with the runtime"):
        settings.get(workbench.NAME)


def test_push(desk: workbench.Desk) -> None:
    """One that is confirmed, and one that the board leaves again."""
    found = target.find(workbench.NAME)
    desk.edit("'pushed'")
    assert "confirmed after" in push.Push(found, desk.app).run()
    assert desk.runs("pushed")
    desk.edit("1 / 0")
    with pytest.raises(Failure, match="went back"):
        push.Push(found, desk.app).run()
    assert desk.runs("pushed")


def test_watch(desk: workbench.Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It pushes once, and again what is saved."""
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(push.console, "say", say)
    monkeypatch.setattr(push.console, "note", lambda text: desk.edit("'saved'"))
    desk.edit("'watched'")
    with pytest.raises(KeyboardInterrupt):
        push.watch(workbench.NAME, desk.app)
    assert all("confirmed after" in text for text in said)
    assert desk.runs("saved")


def test_logs_notice_a_reset_within_seconds(
    desk: workbench.Desk, lives: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bytes] = []
    over = threading.Event()

    def put(piece: bytes) -> None:
        said.append(piece)
        if over.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "shown", lambda: put)
    thread = threading.Thread(target=logs)
    thread.start()
    try:
        assert desk.board.wait(lambda _: b"turn" in b"".join(said), 60)
        desk.board.power_cut()
        assert restarted(desk, lives)
        said.clear()
        assert desk.board.wait(lambda _: b"turn" in b"".join(said), 60)
    finally:
        over.set()
        thread.join(60)
    assert not thread.is_alive()


def logs() -> None:
    with pytest.raises(KeyboardInterrupt):
        run.logs(workbench.NAME, follow=True)


def test_a_terminal_and_a_bridge_connect_anew(
    desk: workbench.Desk, lives: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(bridge.console, "note", notes.append)
    monkeypatch.setattr(terminal.Terminal, "_note", lambda _, text: notes.append(text))
    monkeypatch.setattr(terminal, "_show", lambda said: None)
    found = target.find(workbench.NAME)
    hand, tty = os.openpty()
    at_terminal: Any = terminal.Terminal(found, found.open(), terminal.Keys(tty))
    at_terminal._stream.write(b"\x03")
    run_until(lambda: "connected again" in notes, at_terminal._turn, desk.board.power_cut)
    at_terminal._stream.close()
    os.close(hand)
    os.close(tty)
    notes.clear()
    with bridge.Bridge(found) as made:
        run_until(lambda: "connected again" in notes, lambda: made.turn(1.0), desk.board.power_cut)
    assert restarted(desk, lives)


def run_until(
    done: Callable[[], bool], turn: Callable[[], object], begin: Callable[[], None]
) -> None:
    begin()
    for _ in range(1000):
        if done():
            return
        turn()
    raise AssertionError("it noticed nothing")


@pytest.mark.parametrize("moment", ["begin", "file", "end"])
def test_a_push_that_is_cut_off_leaves_no_stopped_app(
    moment: str, desk: workbench.Desk, lives: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computer goes away in the middle: the board starts its app again by itself."""
    monkeypatch.setattr(session, "GONE_SECONDS", 20)
    monkeypatch.setattr(session, "_end", lambda *_, **__: None)
    ways = {"begin": (Repl, "run"), "file": (push.Sender, "write"), "end": (Repl, "run")}
    owner, name = ways[moment]
    real: Any = getattr(owner, name)

    def gone(self: Any, *words: Any, **more: Any) -> Any:
        if moment in str(words[0]) or moment == "file":
            raise KeyboardInterrupt
        return real(self, *words, **more)

    monkeypatch.setattr(owner, name, gone)
    desk.edit(f"'{moment}'")
    with pytest.raises(KeyboardInterrupt):
        push.Push(target.find(workbench.NAME), desk.app).run()
    assert restarted(desk, lives)


def test_a_long_command_is_not_cut_short(
    desk: workbench.Desk, lives: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a script that takes its time nor many small steps."""
    monkeypatch.setattr(session, "GONE_SECONDS", 16)
    run.execute(
        workbench.NAME, "import time\nfor n in range(24):\n    time.sleep(1)\nprint('done')"
    )
    with session.opened(target.find(workbench.NAME)) as repl:
        for _ in range(8):
            repl.run("import time; time.sleep(3)")
        assert repl.evaluate("6 * 7") == 42
    assert restarted(desk, lives, 2)
