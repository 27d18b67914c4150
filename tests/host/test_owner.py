"""Nothing that an owner's key signs comes from the server unchecked."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import bundle, manifest, trust, unlock
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.board import push, target
from mipy_ota.tools.board.open import open_board
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import enrol, release
from mipy_ota.tools.keys import sign, signed
from mipy_ota.tools.keys import store as keys
from tests.support import vectors

APP, CLASS = "weather", "esp8266-generic"
ROOT = places.sources("tools").parent


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet with keys, and two boards on record."""
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    monkeypatch.setenv("MIPY_FLEET", "default")
    monkeypatch.setattr("mipy_ota.tools.board.unlock._LOOK_SECONDS", 0.0)
    roles = ("root", "release", "debug")
    for role in roles:
        name = f"{role}-{vectors.public(role).id}.pem"
        keys.write(places.keys_dir() / name, keys.pem.to_pem(vectors.key(role)), 0o600)
    first = trust.first("default", [(role, PublicKey.of(vectors.key(role))) for role in roles])
    raw = trust.add_signature(first.encode(), vectors.key("root"))
    keys.write(places.keys_dir() / "trust.1", raw, 0o600)
    for board_id, name in (("b1", "kitchen"), ("b2", "hall")):
        enrol.keep(enrol.Record(enrol.make(board_id, APP, CLASS, name=name)))


# --- orders that open a board


class Deceiver:
    """A server that answers for whatever board and life it likes, time and again."""

    def __init__(self, *answers: tuple[str, str], opens_after: int = 10**9) -> None:
        self.answers = list(answers)
        self.opens_after = opens_after
        self.orders: list[unlock.Unlock] = []
        self.asked: list[str] = []

    def board(self, board: str) -> dict[str, Any]:
        self.asked.append(board)
        board_id, life = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        opened = 1800 if len(self.asked) > self.opens_after else None
        return {"id": board_id, "life": life, "open": opened, "last_seen": 0.0}

    def order(self, board: str, order: str) -> None:
        self.orders.append(unlock.verify(order.encode(), keys.trust()))


LIVES = [("b1", f"{n:016x}") for n in range(1, 6)]


def opened(server: Deceiver, board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mipy_ota.tools.fleet.client.connect", lambda: server)
    open_board(board, minutes=30, key=None, timeout=0.001)


@pytest.mark.parametrize("board", ["kitchen", "b1"])
def test_an_order_is_for_the_board_that_was_meant(
    board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Deceiver(("b1", "0" * 16), opens_after=2)
    opened(server, board, monkeypatch)
    assert server.orders == [unlock.Unlock("b1", "0" * 16, 30)]
    assert set(server.asked) == {"b1"}  # by the id of the fleet's own record


@pytest.mark.parametrize("board", ["kitchen", "b1", "cellar"])
def test_the_server_names_another_board(board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Deceiver(("b2", "0" * 16))
    with pytest.raises(Failure, match="answers for b2"):
        opened(server, board, monkeypatch)
    assert not server.orders


def test_one_life_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Deceiver(*LIVES)
    with pytest.raises(Failure, match="did not open") as failed:
        opened(server, "kitchen", monkeypatch)
    assert [order.life for order in server.orders] == [LIVES[0][1]]
    assert "run this again" in failed.value.hint


@pytest.mark.parametrize("life", ["x", "0" * 15, "0" * 16 + "\nminutes 70", "é" * 16])
def test_a_life_that_is_none_is_not_signed(life: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Deceiver(("b1", life))
    with pytest.raises(Failure, match="no order comes of this"):
        opened(server, "kitchen", monkeypatch)
    assert not server.orders


def test_a_board_that_was_flashed_elsewhere_goes_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Deceiver(("cellar", "0" * 16), opens_after=1)
    opened(server, "cellar", monkeypatch)
    assert server.orders == [unlock.Unlock("cellar", "0" * 16, 30)]


# --- releases that are signed again


def bundled(seq: int, content: bytes, note: str, cls: str = CLASS) -> bytes:
    files = {"main.py": content}
    return bundle.write(manifest.make(APP, cls, seq, files, note=note), files)


def listed(content: bytes, **lies: Any) -> dict[str, Any]:
    """A release as the server lists it."""
    found = manifest.parse(bundle.read(content)[0])
    facts = {"digest": found.digest, "app": found.app, "class": found.cls, "seq": found.seq}
    return facts | {"note": found.note} | lies


GOOD, OTHER = b"good()\n", b"old and weak()\n"


@pytest.fixture
def ours() -> bytes:
    """A release that was signed here."""
    return sign.sign_for_fleet(bundled(100, GOOD, "1.1"))


@pytest.mark.parametrize("wanted", ["1.1", "100", "digest"])
def test_what_was_signed_here_is_signed_again(ours: bytes, wanted: str) -> None:
    facts = listed(ours)
    release.check_meant(ours, facts, facts["digest"][:8] if wanted == "digest" else wanted)


def test_the_server_hands_over_other_content(ours: bytes) -> None:
    """Signed by this fleet as well, at some time: that alone is not enough."""
    other = sign.sign_for_fleet(bundled(50, OTHER, "0.9"))
    with pytest.raises(Failure, match=r"asked for '1.1' and sends .* note '0.9'"):
        release.check_meant(other, listed(ours), "1.1")
    for lie in ({"note": "1.1"}, {"seq": 100}, {"digest": listed(ours)["digest"]}):
        with pytest.raises(Failure, match="sends"):
            release.check_meant(other, listed(other, **lie), "1.1")
    with pytest.raises(Failure, match="sends"):
        release.check_meant(ours, listed(ours, **{"class": "esp32-generic"}), "1.1")
    with pytest.raises(Failure, match="sends"):
        release.check_meant(ours, listed(ours, app="garden"), "1.1")


def test_two_of_one_name_of_which_the_server_lists_one(ours: bytes) -> None:
    twin = sign.sign_for_fleet(bundled(50, OTHER, "1.1"))
    for content in (ours, twin):
        with pytest.raises(Failure, match="names 2 releases that were signed here") as failed:
            release.check_meant(content, listed(content), "1.1")
        for one in (ours, twin):
            assert f"digest {listed(one)['digest'][:8]}" in failed.value.text
    release.check_meant(twin, listed(twin), "50")


def test_what_was_signed_elsewhere_is_shown_and_asked_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, files = bundle.read(bundled(100, GOOD, "1.1"))
    elsewhere = bundle.write(manifest.add_signature(raw, vectors.key("release")), files)
    facts = listed(elsewhere)
    with pytest.raises(Failure, match="not signed on this computer") as failed:
        release.check_meant(elsewhere, facts, "1.1")
    assert facts["digest"] in failed.value.hint
    release.check_meant(elsewhere, facts, facts["digest"])  # the owner's own word
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("mipy_ota.tools.console.confirm", lambda text: False)
    with pytest.raises(Failure, match="nothing was signed"):
        release.check_meant(elsewhere, facts, "1.1")
    monkeypatch.setattr("mipy_ota.tools.console.confirm", lambda text: True)
    release.check_meant(elsewhere, facts, "1.1")
    assert f"seq 100, floor 0, note '1.1', 1 files, digest {facts['digest'][:8]}" in (
        capsys.readouterr().err
    )


def test_a_damaged_record_is_told(ours: bytes) -> None:
    path = signed._folder() / listed(ours)["digest"]
    path.write_bytes(path.read_bytes().replace(b"note 1.1", b"note 1.2"))
    with pytest.raises(Failure, match="damaged"):
        release.check_meant(ours, listed(ours), "1.1")


def test_the_server_does_not_choose_the_number_of_a_release() -> None:
    now = build.minutes()
    day = 24 * 60
    known = [{"app": APP, "class": CLASS, "seq": seq} for seq in (7, 2**31 - 2, now + day)]
    assert release.free_seq(known, APP, CLASS) in (now, now + 1)
    known.append({"app": APP, "class": CLASS, "seq": now + 5})
    assert release.free_seq(known, APP, CLASS) == now + 6
    # What was signed here counts, even if the server keeps quiet about it.
    sign.sign_for_fleet(bundled(now + 9, GOOD, "-"))
    assert release.free_seq(known, APP, CLASS) == now + 10


# --- that there are no other places

SIGNERS = {
    "tools/board/unlock.py:_order",  # board and life checked, shown
    "tools/board/push.py:Push._release",  # the app in this folder, for the board that was meant
    "tools/adopt/survey.py:Prepared.release",  # shown as a plan and asked about
    "tools/fleet/release.py:_signed",  # built here, or checked by check_meant
    "tools/keys/sign.py:sign_bundle",
    "tools/keys/sign.py:sign_for_fleet",
    "tools/keys/verify.py:sign",  # a file that was named; shown
    "tools/keys/changes.py:make_fleet",
    "tools/keys/changes.py:_following",  # made of the fleet's own trust files and of what was typed
    "tools/sim/demo.py:Demo._send",
    "tools/fleet/tls.py:_make",  # a certificate by a key made for it
}
SIGNING = {"sign", "add_signature", "sign_bundle", "sign_for_fleet"}


def calls(path: Path, names: set[str]) -> list[str]:
    """The functions of a module that call one of `names`."""
    found: list[str] = []

    def visit(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = where
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                inner = f"{where}.{child.name}".lstrip(".")
            elif isinstance(child, ast.Call):
                called = child.func
                last = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
                if last in names:
                    found.append(where)
            visit(child, inner)

    visit(ast.parse(path.read_text()), "")
    return found


def test_every_place_that_signs_is_known() -> None:
    found: set[str] = set()
    for part in ("tools", "ota_server"):
        for path in sorted((ROOT / part).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith("tools/sim/chip/"):
                found |= {f"{name}:{where}" for where in calls(path, SIGNING)}
    assert found == SIGNERS
    assert not [one for one in found if one.startswith("ota_server")]


def test_only_what_was_renumbered_after_a_check_is_signed_again() -> None:
    """`reissue` is the one verb that signs what a server sent."""
    source = (ROOT / "tools" / "fleet" / "release.py").read_text()
    functions: dict[str, Callable[..., Any]] = {
        node.name: node  # type: ignore[misc]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
    for name, node in functions.items():
        text = ast.unparse(node)  # type: ignore[arg-type]
        if "renumbered(" in text and name != "renumbered":
            assert text.index("check_meant(") < text.index("renumbered("), name


# --- what is pushed


def facts_of(**lies: Any) -> str:
    facts = {"id": "b1", "app": APP, "class": CLASS, "seq": 7, "digest": b"", "slot": 1} | lies
    return f"{tuple(facts.values())!r}\n"


@pytest.mark.parametrize(
    "said",
    [
        facts_of(id="b2"),
        facts_of(**{"class": "esp32-generic"}),
        facts_of(seq="7"),
        facts_of(slot=2),
        facts_of(digest="x"),
        "(1, 2)\n",
        "boom\n",
        "",
        "__import__('os').system('true')\n",
    ],
)
def test_a_push_is_signed_for_the_board_that_was_meant(said: str) -> None:
    class Board:
        def run(self, code: str) -> str:
            return said

    pushing = push.Push.__new__(push.Push)
    pushing._target = target.Target("kitchen", host="192.0.2.1", record=enrol.find("kitchen"))
    with pytest.raises(Failure, match="say"):
        pushing._facts(Board())  # type: ignore[arg-type]
    said = facts_of()
    assert pushing._facts(Board())["id"] == "b1"  # type: ignore[arg-type]
