"""mipy push: only what has changed travels, and what arrives is a release like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mipy_ota.tools.board import push, target, webrepl
from mipy_ota.tools.board.repl import Raised, Repl
from mipy_ota.tools.board.webrepl import WebRepl
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import boards, enrol
from tests.support import fleet, workbench


def pushed(desk: workbench.Desk) -> str:
    return push.Push(target.find(workbench.NAME), desk.app).run()


def test_the_edit_run_loop(tmp_path: Path) -> None:
    """A change, the same again, one that fails, one that is mended; files of three slots' worth."""
    with workbench.desk(tmp_path) as desk:
        desk.edit("'two'")
        said = pushed(desk)
        assert "confirmed after" in said and said.endswith("sent: part.mpy")
        assert desk.runs("two")
        assert "exactly this already" in pushed(desk)
        desk.edit("1 / 0")
        with pytest.raises(Failure, match="went back"):
            pushed(desk)
        assert "ZeroDivisionError" in desk.board.console
        assert desk.runs("two")
        (desk.app / "module3.py").unlink()
        desk.edit("'three'")
        assert "confirmed" in pushed(desk)
        assert desk.runs("three")
        # Somebody is at work on it: the server waits until told otherwise.
        board = desk.board
        assert board.wait(lambda _: not desk.server.board("b1")["follow"])
        assert boards.state(desk.server.board("b1")).startswith("paused")
        assert "same-seq" not in board.console[board.console.rindex("three") :]
        push.follow(workbench.NAME)
        assert desk.server.board("b1")["follow"]


def test_a_production_board_takes_no_push(tmp_path: Path) -> None:
    with workbench.desk(tmp_path, dev=False) as desk:
        desk.edit("'two'")
        with pytest.raises(Failure, match="no signature by a key"):
            push.Push(target.find(desk.port), desk.app).run()
        assert desk.runs("one")


def test_a_push_cut_short_leaves_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes while the manifest or a file travels, and before either step on the board."""
    run, upload = Repl.run, WebRepl.upload
    with workbench.desk(tmp_path) as desk:
        for n, moment in enumerate(("incoming", "part.mpy", "pushed.begin", "pushed.end")):
            desk.edit(f"'v{n}'")

            def cut(moment: str, what: str) -> None:
                if moment in what:
                    desk.board.power_cut()

            def running(self: Repl, code: str, timeout: float = 10.0, m: str = moment) -> str:
                cut(m, code)
                return run(self, code, timeout)

            def uploading(
                self: WebRepl, path: bytes, content: bytes, _: object, m: str = moment
            ) -> None:
                upload(self, path, content, lambda at: cut(m, path.decode()))

            monkeypatch.setattr(Repl, "run", running)
            monkeypatch.setattr(WebRepl, "upload", uploading)
            with pytest.raises(Failure):
                pushed(desk)
            monkeypatch.undo()
            assert desk.runs("one"), moment
        assert "confirmed" in pushed(desk)
        assert desk.runs("v3")


def test_a_heap_in_pieces_is_made_whole_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the board has no room to look at a release, it is reset, and stopped sooner."""
    run, failed = Repl.run, []

    def full(self: Repl, code: str, timeout: float = 10.0) -> str:
        if code == "pushed.begin()" and not failed:
            failed.append(True)
            raise Raised("MemoryError: memory allocation failed, allocating 1030 bytes")
        return run(self, code, timeout)

    with workbench.desk(tmp_path) as desk:
        desk.edit("'two'")
        monkeypatch.setattr(Repl, "run", full)
        assert "confirmed" in pushed(desk)
        assert failed and desk.runs("two")


def test_word_of_the_trial_that_was_missed_comes_from_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board, which would have to stop its app to be asked, is left alone."""

    def nobody_asks(_: push.Trial) -> bool:
        raise AssertionError("the app is stopped")

    with workbench.desk(tmp_path) as desk:
        assert desk.board.wait(lambda _: desk.server.board("b1")["address"])
        desk.edit("'two'")
        monkeypatch.setattr(push.Trial, "_asked", nobody_asks)
        monkeypatch.setattr(push.Trial, "_told", lambda *_: False)
        monkeypatch.setattr(push, "_LOOK_SECONDS", 60.0)
        assert "confirmed" in pushed(desk)
        assert desk.runs("two")


def test_what_does_not_compile_disturbs_nobody(tmp_path: Path) -> None:
    app = workbench.write_app(tmp_path / "app", modules=0)
    (app / "part.py").write_text("VALUE = (\n")
    board = fleet.identity("b1", app=workbench.APP)
    with pytest.raises(Failure, match="part"):
        push.Push(target.Target("b1", record=enrol.Record(board)), app)


def test_who_comes_later_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is told by whom; whoever guesses has to wait, and is told so."""
    with workbench.desk(tmp_path, speed=1) as desk:
        found = target.find(workbench.NAME)
        first = found.open()
        second = found.open()
        with pytest.raises(webrepl.Taken, match=r"127\.0\.0\.1 has taken over"):
            while True:
                first.read(10)
        second.close()
        monkeypatch.setattr(target.Target, "_password", lambda *_: "guess")
        with pytest.raises(webrepl.Refused, match="does not take this password"):
            found.open()
        with pytest.raises(webrepl.Refused, match="wrong passwords, wait"):
            found.open()
        assert desk.runs("one")
