"""`mipy keys`, `mipy sign` and `mipy verify`: a fleet's keys from the first to the lost laptop."""

import json
import os
import pty
import stat
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mipy_ota.signing import bundle, manifest, rsa, trust
from mipy_ota.signing.reasons import Refused
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import cli, files, places
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet.client import Client
from mipy_ota.tools.fleet.trust_upload import publish_trust
from mipy_ota.tools.keys import backup, passphrase, sign
from mipy_ota.tools.keys import store as keys
from tests.support import vectors


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch):
    """Keys of 2048 bits: each is proved at each of its many readings here."""
    made = iter(range(1000))
    monkeypatch.setattr(rsa, "new_key", lambda: vectors.key(f"pool {next(made)}"))


@pytest.fixture
def mipy(monkeypatch, tmp_path, capsys):
    """Runs `mipy` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(passphrase.PASSPHRASE_FILE, raising=False)
    monkeypatch.setenv("MIPY_FLEET", "default")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mipy", *map(str, words)])
        code = cli.main()
        said = capsys.readouterr()
        assert "PRIVATE KEY" not in said.out + said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def fleet(mipy):
    """A fleet with keys for the app "weather"."""
    assert mipy("keys", "new")[0] == 0
    return mipy


@pytest.fixture
def phrase(tmp_path):
    """A file with a passphrase."""
    path = tmp_path / "phrase"
    path.write_text("correct horse\n")
    return path


def listed(mipy) -> list[dict]:
    return json.loads(mipy("keys", "list", "--json")[1])


def release(app="weather", seq=5, folder=None) -> bytes:
    made = {"main.py": b"print(1)\n", "lib/a.mpy": b"M\6\0\x1f"}
    raw = bundle.write(manifest.make(app, "esp32-generic", seq, made), made)
    if folder:
        (folder / "r.ota").write_bytes(raw)
    return raw


# --- keys ----------------------------------------------------------------------------------------


def test_new_fleet_has_a_key_of_each_role_and_trust_version_1(fleet):
    rows = listed(fleet)
    assert [row["role"] for row in rows] == ["root", "release", "debug", "dev"]
    assert [row["since"] for row in rows] == [1, 1, 1, None]
    current = keys.trust()
    assert (current.fleet, current.version) == ("default", 1)
    assert all(PublicKey.of(keys.private(key)).id == key.id for key in keys.entries())


def test_keys_are_for_their_owner_alone(fleet):
    folder = places.keys_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 5


def test_second_fleet_does_not_replace_the_first(fleet):
    before = listed(fleet)
    code, _, err = fleet("keys", "new")
    assert code == 1 and "has keys already" in err
    assert listed(fleet) == before
    assert fleet("--fleet", "other", "keys", "new")[0] == 0


@pytest.mark.parametrize("stop_at", range(5))
def test_interrupted_fleet_leaves_nothing(mipy, monkeypatch, stop_at):
    calls = iter(range(100))

    def interrupted(*arguments):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*arguments)

    real = files.write
    monkeypatch.setattr(keys, "write", interrupted)
    assert mipy("keys", "new")[0] == cli.INTERRUPTED
    assert [path.name for path in places.fleet_dir().iterdir()] == ["keys"]
    assert not list(places.keys_dir().iterdir())
    monkeypatch.setattr(keys, "write", real)
    assert mipy("keys", "new")[0] == 0


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, b"old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, b"new")
    assert [(found, found.read_bytes()) for found in tmp_path.iterdir()] == [(path, b"old")]


def test_one_more_release_key_and_the_old_one_revoked(fleet):
    old = keys.usable("release")[0]
    assert fleet("keys", "new", "release")[0] == 0
    assert len(keys.usable("release")) == 2 and keys.trust().version == 2
    code, out, _ = fleet("keys", "revoke", old.id[:8])
    assert code == 0 and "trust version 3" in out
    assert [key.id for key in keys.usable("release")] != [old.id]
    row = next(row for row in listed(fleet) if row["id"] == old.id)
    assert (row["since"], row["revoked"]) == (1, 3)
    trust.verify_chain(keys.trust_files())


def test_root_key_is_replaced_in_two_steps(fleet):
    old = keys.usable("root")[0]
    assert fleet("keys", "new", "root")[0] == 0
    assert fleet("keys", "revoke", old.id)[0] == 0
    assert [key.id for key in keys.trust().valid("root")] != [old.id]
    old.path.unlink()
    assert fleet("keys", "new", "debug")[0] == 0
    assert trust.verify_chain(keys.trust_files()).version == 4


def test_line_is_brought_down_and_the_server_named(fleet):
    code, out, _ = fleet("keys", "reset", 500, 40)
    assert code == 0 and "trust version 2" in out
    assert keys.trust().reset == (500, 40)
    assert fleet("keys", "server", "http://10.1.2.3:8266")[0] == 0
    assert keys.trust().server == "http://10.1.2.3:8266" and keys.trust().reset is None
    assert fleet("keys", "reset", 40, 500)[0] == 1, "the floor is above the seq"
    assert fleet("keys", "server", "ftp://nowhere")[0] == 1
    assert trust.verify_chain(keys.trust_files()).version == 3


def test_last_key_of_a_role_cannot_be_revoked(fleet):
    for role in ("root", "release"):
        code, _, err = fleet("keys", "revoke", keys.usable(role)[0].id)
        assert code == 1 and "mipy keys new ROLE" in err
    assert keys.trust().version == 1


def test_without_the_root_key_there_is_no_new_version(fleet):
    keys.usable("root")[0].path.unlink()
    before = listed(fleet)
    code, _, err = fleet("keys", "new", "release")
    assert code == 1 and "mipy keys restore" in err
    assert listed(fleet) == before
    assert next(row for row in before if row["role"] == "root")["file"] is None


def test_threshold_asks_for_two_signatures(fleet, tmp_path):
    assert fleet("keys", "new", "release", "--threshold", 3)[0] == 1
    assert fleet("keys", "new", "release", "--threshold", 2)[0] == 0
    assert keys.trust().release_threshold == 2
    release(folder=tmp_path)
    assert fleet("sign", "r.ota")[0] == 0
    assert len(json.loads(fleet("verify", "r.ota", "--json")[1])["signed by"]) == 2


def test_one_more_dev_key_changes_no_trust(fleet):
    assert fleet("keys", "new", "dev")[0] == 0
    assert keys.trust().version == 1 and len(keys.usable("dev")) == 2


@pytest.mark.parametrize("words", [("queen",), ("dev", "--threshold", 2), ("--threshold", 2)])
def test_odd_wishes_are_wrong_usage(fleet, words):
    assert fleet("keys", "new", *words)[0] == 2


@pytest.mark.parametrize("start", ["", "abc", "zzzzzzzz"])
def test_revoking_needs_a_key_that_is_meant(fleet, start):
    assert fleet("keys", "revoke", start)[0] == 1
    assert keys.trust().version == 1


def test_passphrase_locks_every_key(mipy, phrase, monkeypatch):
    words = ("keys", "new", "--passphrase-file", phrase)
    assert mipy(*words)[0] == 0
    assert all(b"ENCRYPTED" in key.path.read_bytes() for key in keys.entries())
    code, _, err = mipy("keys", "new", "release")
    assert code == 1 and passphrase.PASSPHRASE_FILE in err
    monkeypatch.setenv(passphrase.PASSPHRASE_FILE, str(phrase))
    assert mipy("keys", "new", "release")[0] == 0
    phrase.write_text("wrong")
    code, _, err = mipy("keys", "new", "release")
    assert code == 1 and "passphrase is wrong" in err


def test_damaged_files_are_told_not_believed(fleet):
    root = keys.usable("root")[0]
    root.path.write_bytes(keys.usable("release")[0].path.read_bytes())
    code, _, err = fleet("keys", "new", "release")
    assert code == 1 and "another key" in err
    path = places.keys_dir() / "trust.1"
    path.write_bytes(path.read_bytes().replace(b"version 1", b"version 2"))
    code, _, err = fleet("keys", "list")
    assert code == 1 and "damaged" in err and "Traceback" not in err


# --- backup --------------------------------------------------------------------------------------


def test_backup_brings_a_fleet_back(fleet, phrase, tmp_path):
    fleet("keys", "new", "release")
    before = {path.name: path.read_bytes() for path in places.keys_dir().iterdir()}
    assert fleet("keys", "backup", "b.keys", "--passphrase-file", phrase)[0] == 0
    packed = tmp_path / "b.keys"
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert b"PRIVATE" not in packed.read_bytes() and b"release-" not in packed.read_bytes()

    code, _, err = fleet("keys", "backup", "b.keys", "--passphrase-file", phrase)
    assert code == 1 and "exists" in err
    restored = ("keys", "restore", "b.keys", "--passphrase-file", phrase)
    assert fleet("--fleet", "second", *restored)[0] == 0
    assert {path.name: path.read_bytes() for path in places.keys_dir().iterdir()} == before


def test_restore_fills_what_is_missing_and_replaces_nothing(fleet, phrase):
    fleet("keys", "backup", "b.keys", "--passphrase-file", phrase)
    restored = ("keys", "restore", "b.keys", "--passphrase-file", phrase)
    root = keys.usable("root")[0].path
    content = root.read_bytes()
    root.unlink()
    assert fleet(*restored)[0] == 0 and root.read_bytes() == content
    fleet("--fleet", "second", "keys", "new")
    before = {path.name: path.read_bytes() for path in places.keys_dir().iterdir()}
    code, _, err = fleet("--fleet", "second", *restored)
    assert code == 1 and "differs" in err
    assert {path.name: path.read_bytes() for path in places.keys_dir().iterdir()} == before


def test_wrong_passphrase_or_damage_opens_nothing(fleet, phrase, tmp_path):
    fleet("keys", "backup", "b.keys", "--passphrase-file", phrase)
    packed = (tmp_path / "b.keys").read_bytes()
    other = tmp_path / "other"
    other.write_text("guess")
    code, _, err = fleet("--fleet", "s", "keys", "restore", "b.keys", "--passphrase-file", other)
    assert code == 1 and "passphrase is wrong" in err
    for broken in (packed[:-1], packed[:20], packed[:-40] + b"x" + packed[-39:]):
        with pytest.raises(Failure, match="damaged"):
            backup.unpack(broken, "correct horse")
    with pytest.raises(Failure, match="no key"):
        backup.unpack(backup.pack({"../evil": b""}, "p"), "p")
    (tmp_path / "no").write_bytes(b"hello")
    code, _, err = fleet("--fleet", "s", "keys", "restore", "no", "--passphrase-file", phrase)
    assert code == 1 and "no backup" in err


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "backup", "new.keys"),
        ("--fleet", "second", "keys", "restore", "b.keys"),
        ("--fleet", "second", "keys", "new", "--passphrase"),
        ("--fleet", "locked", "keys", "new", "release"),
    ],
)
def test_nobody_at_the_keyboard_is_told_how(fleet, phrase, monkeypatch, words):
    """And what is told works with every verb that needs a passphrase."""
    fleet("keys", "backup", "b.keys", "--passphrase-file", phrase)
    locked = ("keys", "new", "--passphrase-file", phrase)
    fleet("--fleet", "locked", *locked)
    monkeypatch.setenv("MIPY_FLEET", "default")
    code, _, err = fleet(*words)
    assert code == 1 and passphrase.PASSPHRASE_FILE in err
    monkeypatch.setenv(passphrase.PASSPHRASE_FILE, str(phrase))
    assert fleet(*words)[0] == 0
    if words[-1] == "new.keys":
        assert backup.unpack(Path("new.keys").read_bytes(), "correct horse")
    if "--passphrase" in words:
        assert all(b"ENCRYPTED" in key.path.read_bytes() for key in keys.entries())


def test_without_keys_every_verb_says_what_to_do(mipy, tmp_path):
    release(folder=tmp_path)
    for words in (("sign", "r.ota"), ("verify", "r.ota"), ("keys", "backup", "b")):
        code, _, err = mipy(*words)
        assert code == 1 and "mipy keys new" in err


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        (("data/boards/a.board", "data/boards/b.board"), "it has 2 boards"),
        (("data/releases/0123",), "releases were signed with them"),
        (("backed-up",), "a backup holds them"),
        (("keys/release-0123456789abcdef.pem",), "without their trust files"),
    ],
)
def test_no_second_set_of_keys_for_a_fleet_that_had_some(mipy, tmp_path, trace, told):
    """Nor does any hint lead to one: its boards would obey no release that it signs."""
    for name in trace:
        (tmp_path / "home" / "default" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / "default" / name).touch()
    before = sorted(path.name for path in places.keys_dir().iterdir())
    release(folder=tmp_path)
    for words in (("keys", "new"), ("sign", "r.ota"), ("keys", "backup", "b")):
        code, _, err = mipy(*words)
        assert code == 1 and "are missing: " in err and told in err
        hint = err.partition("what to do: ")[2]
        assert "`mipy keys restore FILE`" in hint and "--fleet NAME keys new" in hint
        assert "`mipy keys new" not in hint, "in this fleet it makes a second set"
    assert sorted(path.name for path in places.keys_dir().iterdir()) == before
    assert mipy("--fleet", "new", "keys", "new")[0] == 0


# --- publishing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server(Client):
    """Keeps what it is given."""

    versions: list[bytes] = field(default_factory=list)
    ahead: dict[str, object] | None = None

    def status(self):
        return {"ahead": self.ahead}

    def trust(self):
        return self.versions[-1] if self.versions else None

    def add_trust(self, trust):
        self.versions.append(trust)
        return {}


def test_server_gets_the_versions_it_lacks(fleet):
    server = Server("http://127.0.0.1", "")
    assert publish_trust(server) == 1
    fleet("keys", "new", "release")
    fleet("keys", "new", "debug")
    assert publish_trust(server) == 2
    assert publish_trust(server) == 0
    assert server.versions == keys.trust_files()


def test_a_server_with_another_trust_file_is_told(fleet, capsys):
    ours = keys.trust_files()[0]
    fleet("--fleet", "second", "keys", "new")
    for strange in (ours, b"nonsense", b""):
        server = Server("http://127.0.0.1", "", [strange])
        with pytest.raises(Failure, match="not this fleet's"):
            publish_trust(server)
        assert server.versions == [strange]
    fleet("keys", "new", "debug")
    newest = keys.trust_files()
    (places.keys_dir() / "trust.2").unlink()
    server = Server("http://127.0.0.1", "", newest)
    assert publish_trust(server) == 0
    assert "the server has trust version 2, the newest here is 1" in capsys.readouterr().err


def test_a_board_that_is_ahead_of_a_restored_backup_is_told(fleet, capsys, monkeypatch):
    """It has version 3, the keys here are those of version 1, and so is the server."""
    server = Server("http://127.0.0.1", "", keys.trust_files(), {"board": "b1", "trust": 3})
    assert publish_trust(server) == 0
    assert "b1 has trust version 3, the newest here is 1" in capsys.readouterr().err
    fleet("keys", "new", "debug")
    with pytest.raises(Failure, match="b1 has trust version 3, the newest here is 2") as told:
        publish_trust(server)
    assert "backup" in told.value.hint and "mipy board retire b1" in told.value.hint
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for sure, sent in ((False, 1), (True, 2)):
        monkeypatch.setattr("mipy_ota.tools.console.confirm", lambda _, sure=sure: sure)
        with nullcontext() if sure else pytest.raises(Failure, match="nothing was sent"):
            publish_trust(server)
        assert len(server.versions) == sent
    fleet("keys", "new", "debug")
    assert publish_trust(server) == 1  # nobody is ahead of what is here now


# --- sign and verify -----------------------------------------------------------------------------


def test_signed_release_verifies(fleet, tmp_path):
    release(folder=tmp_path)
    code, out, _ = fleet("verify", "r.ota", "--json")
    assert code == 1 and json.loads(out)["code"] == "unsigned"
    assert fleet("sign", "r.ota")[0] == 0
    once = (tmp_path / "r.ota").read_bytes()
    found = json.loads(fleet("verify", "r.ota", "--json")[1])
    assert found["ok"] and found["signed by"] == [keys.usable("release")[0].id]
    assert found["app"] == "weather" and found["seq"] == 5
    assert fleet("sign", "r.ota")[0] == 0
    assert (tmp_path / "r.ota").read_bytes() == once
    assert "signed by" in fleet("verify", "r.ota")[1]


def test_dev_signature_is_told_apart(fleet, tmp_path):
    release(folder=tmp_path)
    assert fleet("sign", "r.ota", "--dev")[0] == 0
    assert json.loads(fleet("verify", "r.ota", "--json")[1])["with"] == "a dev key"
    version = places.keys_dir() / "trust.1"
    code, out, _ = fleet("verify", "r.ota", "--trust", version, "--json")
    assert code == 1 and json.loads(out)["code"] == "key"


def at_a_keyboard(*words: str, typed: Mapping[str, str]) -> tuple[int, str]:
    """Run `mipy` at a terminal, where each key of `typed` is a prompt; exit code and screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "mipy_ota.tools.cli", *words])
    screen = b""
    waiting = dict(typed)
    while True:
        try:
            more = os.read(terminal, 1000)
        except OSError:  # the other end is closed
            break
        screen += more
        for prompt in list(waiting):
            if prompt.encode() in screen:
                os.write(terminal, waiting.pop(prompt).encode() + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode()


def test_one_passphrase_opens_all_keys_of_a_command(mipy, phrase, monkeypatch):
    """Two release keys sign for two classes, and two root keys sign the next trust file."""
    monkeypatch.setenv(passphrase.PASSPHRASE_FILE, str(phrase))
    locked = ("--passphrase-file", phrase)
    mipy("keys", "new", *locked)
    mipy("keys", "new", "root", *locked)
    mipy("keys", "new", "release", "--threshold", "2", *locked)
    monkeypatch.delenv(passphrase.PASSPHRASE_FILE)
    asked = answered(monkeypatch, ["correct horse"])
    for seq in (5, 6):
        sign.sign_for_fleet(release(seq=seq))
    assert [text for text in asked if "release key" in text] == asked and len(asked) == 1
    asked = answered(monkeypatch, ["correct horse"])
    assert mipy("keys", "reset", "7")[0] == 0
    assert len(asked) == 1 and "root key" in asked[0]


def test_a_key_with_a_passphrase_of_its_own_is_asked_for(mipy, phrase, monkeypatch):
    monkeypatch.setenv(passphrase.PASSPHRASE_FILE, str(phrase))
    mipy("keys", "new", "--passphrase-file", phrase)
    own = phrase.with_name("own")
    own.write_text("battery staple")
    [old] = keys.usable("root")
    mipy("keys", "new", "root", "--passphrase-file", own)
    monkeypatch.delenv(passphrase.PASSPHRASE_FILE)
    roots = sorted(key.id for key in keys.usable("root"))
    phrases = {root: "correct horse" if root == old.id else "battery staple" for root in roots}
    asked = answered(monkeypatch, [phrases[root] for root in roots])
    assert mipy("keys", "reset", "7")[0] == 0
    assert [root in text for root, text in zip(roots, asked, strict=True)] == [True, True]


def answered(monkeypatch, answers: list[str]) -> list[str]:
    """A person at the keyboard of a new command, who answers; returns what is asked."""
    asked, rest = [], iter(answers)
    monkeypatch.setattr(passphrase, "typed", [])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        passphrase.console, "prompt", lambda text, **_: asked.append(text) or next(rest)
    )
    return asked


def test_passphrase_is_typed_twice_and_never_shown(fleet, tmp_path):
    prompt = "Passphrase for the backup"
    typed = {f"{prompt}: ": "tr0ub4dor", "Repeat for confirmation: ": "tr0ub4dor"}
    code, screen = at_a_keyboard("keys", "backup", "b", typed=typed)
    assert code == 0 and "nobody can open it" in screen and "tr0ub4dor" not in screen
    typed = {"Passphrase of the backup: ": "another"}
    code, screen = at_a_keyboard("keys", "restore", "b", typed=typed)
    assert code == 1 and "the passphrase is wrong" in screen
    typed = {"Passphrase of the backup: ": "tr0ub4dor"}
    assert at_a_keyboard("keys", "restore", "b", typed=typed)[0] == 0


def test_revoked_key_no_longer_verifies(fleet, tmp_path):
    release(folder=tmp_path)
    old = keys.usable("release")[0].id
    fleet("sign", "r.ota")
    fleet("keys", "new", "release")
    fleet("keys", "revoke", old)
    code, _, err = fleet("verify", "r.ota")
    assert code == 1 and "(revoked)" in err
    assert fleet("sign", "r.ota")[0] == 0
    assert fleet("verify", "r.ota")[0] == 0
    code, _, err = fleet("sign", "r.ota", "--key", "ffffffffffff")
    assert code == 1 and "mipy keys list" in err


@pytest.mark.parametrize("app", ["weather", "relay"])
def test_the_fleets_keys_serve_every_app(fleet, tmp_path, app):
    release(app, folder=tmp_path)
    assert fleet("sign", "r.ota")[0] == 0
    code, out, _ = fleet("verify", "r.ota", "--json")
    assert code == 0 and json.loads(out)["app"] == app


def test_trust_files_are_verified_as_a_chain(fleet, tmp_path):
    fleet("keys", "new", "release")
    folder = places.keys_dir()
    found = json.loads(fleet("verify", folder / "trust.2", "--json")[1])
    assert found["version"] == 2 and len(found["keys"]) == 4
    assert fleet("verify", folder / "trust.2", "--trust", folder / "trust.1")[0] == 0
    code, out, _ = fleet("verify", folder / "trust.2", "--trust", folder / "trust.2", "--json")
    assert code == 1 and json.loads(out)["code"] == "trust-version"
    forged = tmp_path / "t"
    forged.write_bytes((folder / "trust.2").read_bytes().replace(b"version 2", b"version 3"))
    code, out, _ = fleet("verify", forged, "--json")
    assert code == 1 and json.loads(out)["code"] == "trust-sig"


FILES = {"main.py": b"print(1)\n", "lib/a.mpy": b"M\6\0\x1f"}


@pytest.mark.parametrize(
    "changed, code",
    [
        ({**FILES, "main.py": b"print(2)\n"}, "hash"),
        ({**FILES, "main.py": b"print(1)"}, "truncated"),
        ({**FILES, "main.py": b"print(1)\n\n"}, "size"),
        ({"main.py": FILES["main.py"]}, "truncated"),
        ({**FILES, "lib/b.py": b""}, "extra"),
        ({**FILES, "../evil.py": b""}, "extra"),
        ({**FILES, "/etc/passwd": b""}, "extra"),
    ],
)
def test_bundle_whose_files_are_not_the_listed_ones(fleet, tmp_path, changed, code):
    signed = sign.sign_for_fleet(release())
    raw = bundle.read(signed)[0]
    (tmp_path / "r.ota").write_bytes(bundle.write(raw, changed))
    exit_code, out, _ = fleet("verify", "r.ota", "--json")
    assert (exit_code, json.loads(out)["code"]) == (1, code)
    with pytest.raises(Refused) as refused:
        sign.sign_bundle((tmp_path / "r.ota").read_bytes(), vectors.key("release"))
    assert refused.value.code == code
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "r.ota")] == []


def test_what_is_no_release_is_said_in_one_line(fleet, tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    for words in (("verify", "x"), ("sign", "x"), ("verify", "nowhere"), ("sign", tmp_path)):
        code, _, err = fleet(*words)
        assert code == 1 and err.startswith("error:") and "unexpected" not in err
