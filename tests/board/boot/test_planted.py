"""Planted mistakes in what brings a board back to its server: a short story finds each of them.

As tests/support/mutants.py for the power cuts: compiled into the image of a board, the sources stay
as they are. Each story is also told without its mistake. Those in what finds a damaged boot stage
are in test_damage.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.ota_server import policy
from mipy_ota.tools.app.compile import boot_stage
from tests.board.boot.test_lost_boards import FULL, LATE, OFF, SLEEPERS, WAITS
from tests.board.boot.test_way import ALTERED, HEADERS
from tests.support.apps import BEGIN, GOOD, LOOP, beside_the_runtime, story
from tests.support.hostile import behind
from tests.support.powercut import Edits, patched

SOON = 300.0
"""Seconds of board time in which each step of a story ends well."""


def confirmed(it: Any, digest: str) -> None:
    it.until(lambda r: r["state"] == "ok" and r["digest"] == digest, SOON)


def connects_by_itself(folder: Path) -> None:
    with story(folder, beside_the_runtime(BEGIN + OFF + LATE + WAITS)) as it:
        it.board.start()
        it.says("begin 1000", SOON)
        confirmed(it, it.publish(GOOD))


def altered(name: str) -> Callable[[Path], None]:
    def told(folder: Path) -> None:
        with behind(folder) as (it, way):
            it.board.start()
            it.polls(1)
            done: list[str] = []

            def alter(path: str, plain: bytes) -> bytes | None:
                if "/manifests/" not in path or done:
                    return None
                done.append(path)
                return ALTERED[name](plain)

            way.alters = alter
            confirmed(it, it.publish(GOOD))
            assert done

    return told


def sleeps(folder: Path) -> None:
    with story(folder) as it:
        it.boot(1000)
        digest = it.publish(SLEEPERS["plain, asks"])
        it.install()
        it.board.start()
        confirmed(it, digest)


def is_reset_by_a_person(folder: Path) -> None:
    often = (
        "n = len([name for name in os.listdir('/data') if name[0] == 'n'])\n"
        "if n < 4:\n    open('/data/n%d' % n, 'w').close()\n    ota.reset(True)\n"
    )
    with story(folder) as it:
        it.boot(1000)
        digest = it.publish(BEGIN + often + LOOP)
        it.install()
        it.board.start()
        confirmed(it, digest)


def has_a_proxy(header: bytes = b"", closes: bool = False) -> Callable[[Path], None]:
    def told(folder: Path) -> None:
        with behind(folder) as (it, way):
            way.header = header
            way.closes = closes
            it.board.start()
            confirmed(it, it.publish(GOOD))

    return told


def has_no_heap(folder: Path) -> None:
    app = FULL["plain"]
    assert isinstance(app, str)
    hasty = app.replace("    ota.check", "    ota.ticks += 20\n    ota.check")
    with story(folder, hasty) as it:
        it.board.start()
        it.says("MemoryError", SOON)
        confirmed(it, it.publish(GOOD))


@dataclass(frozen=True)
class Planted:
    """A mistake, and the story that finds it; `blames` are codes that end an offer by mistake."""

    story: Callable[[Path], None]
    edits: Edits = ()
    blames: frozenset[str] = frozenset()


MISTAKES = {
    "the rescue poll does not connect by itself": Planted(
        connects_by_itself,
        (("resident.py", "        rescue_at = min(rescue_at, ticks + wait)\n", "        pass\n"),),
    ),
    "the digest is not compared before judging": Planted(
        altered("another release"),
        (("install_check.py", "if hexa(signed(f, PREFIX)[0]) != wanted:", "if not wanted:"),),
    ),
    "what is refused for the way ends the release": Planted(
        altered("a bit of the app"), blames=frozenset(("hash",))
    ),
    "deep sleep confirms nothing": Planted(
        sleeps,
        (
            (
                "start.py",
                "return rtc.SLEEP if end == rtc.RUNNING else rtc.HEALTHY",
                "return rtc.SLEEP",
            ),
        ),
    ),
    "a reset that a person orders costs a try": Planted(
        is_reset_by_a_person,
        (("app_api.py", "rtc.STOPPED if by_person else rtc.ASKED", "rtc.ASKED"),),
    ),
    "what a proxy adds to a head ends the answer": Planted(
        has_a_proxy(HEADERS["a policy of 900 bytes"]),
        (("http_client.py", "_HEAD = const(4096)", "_HEAD = const(640)"),),
    ),
    "a connection that a proxy closes is not made anew": Planted(
        has_a_proxy(closes=True),
        (("http_client.py", "if not kept or e.args[0] == ETIMEDOUT:", "if True:"),),
    ),
    "a heap too full for a poll waits for the day": Planted(
        has_no_heap, (("app_api.py", "            ota.rescue_in(_RESCUE)\n", ""),)
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake = MISTAKES[name]
    mistake.story(tmp_path / "right")
    stage = {**boot_stage.files(), **patched(mistake.edits)}
    monkeypatch.setattr(boot_stage, "files", lambda: stage)
    monkeypatch.setattr(policy, "RELEASE_REASONS", policy.RELEASE_REASONS | mistake.blames)
    with pytest.raises(AssertionError):
        mistake.story(tmp_path / "wrong")
