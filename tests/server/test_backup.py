"""`mipy backup` and `mipy restore`: the fleet goes on elsewhere, and nothing bad comes in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import keys as pem
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import console, places
from mipy_ota.tools.backup import archive
from mipy_ota.tools.fleet import enrol
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.keys import changes, passphrase, sign, store
from tests.support import ROOT, fleet
from tests.support.fleet import Fleet
from tests.support.postgres import Postgres

PLAIN = "import ota, time\nprint('app {} runs')\nwhile True:\n    ota.check()\n    time.sleep(1)\n"
SECONDS = 90

Mipy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mipy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mipy:
    """Runs `mipy` on the machine that MIPY_HOME names; returns (exit code, out, err)."""
    from mipy_ota.tools import cli

    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    monkeypatch.setenv(passphrase.PASSPHRASE_FILE, str(phrase))
    monkeypatch.setenv("MIPY_FLEET", "default")
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "old"))

    def run(*words: str | Path) -> tuple[int, str, str]:
        console._consoles.clear()
        monkeypatch.setattr("sys.argv", ["mipy", *map(str, words)])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def keys(mipy: Mipy) -> Path:
    """The folder of a fleet with keys on the old machine."""
    folder = places.keys_dir()
    for role in ("root", "release"):
        made = fleet.key(role)
        store.save(folder / f"{role}-{PublicKey.of(made).id}.pem", pem.to_pem(made))
    store.save(folder / "trust.1", fleet.first_trust())
    return places.fleet_dir()


@contextmanager
def server(port: int = 0) -> Iterator[Running]:
    """The server of this machine's fleet."""
    with running(places.data_dir() / "server", port, interval=5) as served:
        yield served


def plain(seq: int) -> bytes:
    return fleet.release({"main.py": PLAIN.format(seq)}, seq)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a fleet, but the database's, by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in named.items() if "server/server." not in name}


def test_the_boards_of_before_poll_and_update(
    mipy: Mipy, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old machine's disk is gone. The new one has its address, the backup, the passphrase."""
    saved = tmp_path / "fleet.backup"

    def confirmed(at: Running) -> Any:
        found = at.do(at.storage.board("b1"))
        return found and found.confirmed

    with server() as old:
        site = Fleet(old)
        digest = site.publish(plain(1000))
        board = site.board(tmp_path / "board", plain(1000), speed=20)
        enrol.keep(enrol.Record(fleet.identity("b1")))
        board.start()
        assert board.wait(lambda _: confirmed(old) == digest[:32]), board.console[-4000:]
        code, out, err = mipy("backup", saved)
        assert (code, "1 board, 1 release" in out) == (0, True), out + err
    port = int(old.url.rsplit(":", 1)[1])
    before = contents(keys)
    keys.rename(tmp_path / "lost disk")

    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "new"))
    code, out, err = mipy("restore", saved)
    assert code == 0 and "1 board, 1 release restored" in out, out + err
    assert contents(places.fleet_dir()) == before

    with board, server(port) as new:
        signed = sign.sign_for_fleet(fleet.release({"main.py": PLAIN.format(1001)}, 1001))
        digest = Fleet(new).publish(signed)
        assert board.wait(lambda _: confirmed(new) == digest[:32]), board.console[-4000:]
        assert "app 1001 runs" in board.console


def test_all_is_for_the_owner_alone(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    saved = tmp_path / "fleet.backup"
    with server():
        assert mipy("backup", saved)[0] == 0
    assert b"PRIVATE KEY" not in saved.read_bytes()
    assert mipy("--fleet", "copy", "restore", saved)[0] == 0
    copy = tmp_path / "old" / "copy"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in copy.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in copy.rglob("*") if path.is_dir()}
    assert (stat.S_IMODE(saved.stat().st_mode), modes, folders) == (0o600, {0o600}, {0o700})


def test_a_backup_of_keys_alone(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    """The server runs on another machine; virtual boards are made again."""
    (places.data_dir() / "sim" / "b1").mkdir(parents=True)
    (places.data_dir() / "sim" / "b1" / "flash.img").write_bytes(bytes(1000))
    code, out, _ = mipy("backup", tmp_path / "b")
    assert code == 0 and "3 files, no server's data" in out
    names = {f"{key.role}-{key.id}.pem" for key in store.entries()} | {"trust.1"}
    assert set((keys / "backed-up").read_text().split()) == names


def test_a_server_with_data_elsewhere(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    with running(tmp_path / "elsewhere") as served:
        site = Fleet(served)
        digest = site.publish(plain(7))
        assert mipy("backup", tmp_path / "b", "--data", tmp_path / "elsewhere")[0] == 0
    assert mipy("--fleet", "copy", "restore", tmp_path / "b")[0] == 0
    copy = tmp_path / "old" / "copy" / "data" / "server"
    assert (copy / "manifests" / digest).is_file() and (copy / "server.db").is_file()


def test_a_mistyped_fleet_makes_no_folder(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    code, _, err = mipy("--fleet", "defualt", "backup", tmp_path / "b")
    assert code == 1 and "there is no fleet 'defualt'" in err
    assert [path.name for path in keys.parent.iterdir()] == ["default"]


def test_a_backup_replaces_nothing(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine")
    assert mipy("backup", tmp_path / "b")[0] == 1
    assert (tmp_path / "b").read_bytes() == b"mine"
    assert "in the fleet's own folder" in mipy("backup", keys / "data" / "b")[2]


def test_a_fleet_that_is_here_is_not_touched(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    mipy("backup", tmp_path / "b")
    before = contents(keys)
    code, _, err = mipy("restore", tmp_path / "b")
    assert code == 1 and "is here already" in err
    assert contents(keys) == before


def test_empty_folders_are_no_fleet(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    """A look at the keys of a machine that has none makes their folder."""
    mipy("backup", tmp_path / "b")
    mipy("--fleet", "copy", "keys", "list")
    assert mipy("--fleet", "copy", "restore", tmp_path / "b")[0] == 0
    assert (tmp_path / "old" / "copy" / "keys" / "trust.1").is_file()


def test_damaged_content_is_told(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    with server() as served:
        digest = Fleet(served).publish(plain(7))
        assert "damaged" not in mipy("backup", tmp_path / "sound")[2]
        server_data = places.data_dir() / "server"
        (stored,) = (server_data / "files").iterdir()
        for path in (server_data / "manifests" / digest, stored):
            whole = path.read_bytes()
            path.write_bytes(b"\0")
            code, _, err = mipy("backup", tmp_path / path.parent.name)
            assert code == 0 and "1 of 2 files that boards download are damaged" in err
            path.write_bytes(whole)


def test_a_damaged_database_is_no_backup(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    with server():
        pass
    path = places.data_dir() / "server" / "server.db"
    path.write_bytes(path.read_bytes()[:100] + os.urandom(8000))
    code, _, err = mipy("backup", tmp_path / "b")
    assert code == 1 and "is damaged" in err
    assert not (tmp_path / "b").exists()
    assert not [path for path in keys.iterdir() if path.name.startswith(".")]


# --- the pages


def blocks(title: str) -> list[str]:
    """The commands of a section of docs/operations.md."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```\n(.*?)^```$", section, re.M | re.S)
    assert found, title
    return [line for block in found for line in block.splitlines()]


def test_the_commands_of_the_page_move_a_server(
    mipy: Mipy, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, by a shell: backups, then the move, with both computers' home folders in one."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "passphrase").write_text("correct horse\n")
    with server() as old:
        Fleet(old).publish(plain(7))
        Fleet(old).enrol(fleet.identity("b1"))
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        first, nightly = blocks("Backing up the whole fleet")
        shell(first)
        shell(nightly)
        assert len(list(home.glob("fleet*.backup"))) == 2
        (home / "fleet.backup").unlink()
        save, *there = blocks("Moving a server to another computer")
        shell(save)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "new"))
    assert [*blocks("Restoring it"), "mipy serve"] == there
    shell(there[0])
    serving = ["bash", "-c", f"exec {there[1]} --host 127.0.0.1 --port 0"]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().removeprefix("serving ").strip()
            monkeypatch.setenv("MIPY_SERVER", url)
            found = json.loads(shell("mipy boards --json"))
        finally:
            process.send_signal(signal.SIGINT)
    assert [one["id"] for one in found] == ["b1"]


def shell(line: str) -> str:
    """What a command line prints."""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


# --- interrupted, damaged, made by somebody else


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_interrupted_work_leaves_nothing(
    mipy: Mipy, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    if verb == "restore":
        assert mipy("backup", tmp_path / "b")[0] == 0
        monkeypatch.setenv("MIPY_FLEET", "copy")
    before = {path for path in tmp_path.rglob("*") if path != keys / "backed-up"}
    count = iter(range(100))

    def stopped(*_: object) -> None:
        if next(count) == (0 if verb == "backup" else 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(archive.os, "fsync", stopped)
    assert mipy(verb, tmp_path / "b")[0] == 130
    assert {path for path in tmp_path.rglob("*") if path != keys / "backed-up"} == before


def test_every_altered_byte_is_noticed(mipy: Mipy, keys: Path, tmp_path: Path) -> None:
    saved = tmp_path / "b"
    mipy("backup", saved)
    good = saved.read_bytes()
    size = len(good)
    for at in (len(archive.HEADER), 30, 41, 42, size // 2, size - 17, size - 1):
        saved.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        code, _, err = mipy("--fleet", "copy", "restore", saved)
        assert (code, "the passphrase is wrong, or" in err) == (1, True)
    for cut in (0, 5, len(archive.HEADER), 40, 56, size - 1):
        saved.write_bytes(good[:cut])
        assert mipy("--fleet", "copy", "restore", saved)[0] == 1
    assert [path.name for path in keys.parent.iterdir()] == ["default"]


def sealed(path: Path, raw: bytes) -> None:
    """An archive of these bytes under the right passphrase."""
    with path.open("wb") as file:
        sealing = archive._Sealing(file, "correct horse")
        sealing.write(raw)
        sealing.close()


def zipped(*files: tuple[str, bytes], index: Any = None, mode: int = 0o100600) -> bytes:
    out = io.BytesIO()
    listed = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, data)
        said = {"files": listed} if index is None else index
        packed.writestr(archive.INDEX, said if isinstance(said, bytes) else json.dumps(said))
    return out.getvalue()


HASH = hashlib.sha256(b"x").hexdigest()
ATTACKS = {
    "up": zipped(("../x", b"x")),
    "up inside": zipped(("data/../../x", b"x")),
    "absolute": zipped(("/tmp/x", b"x")),
    "backslash": zipped(("data\\x", b"x")),
    "hidden": zipped(("data/.x", b"x")),
    "no key": zipped(("keys/x", b"x")),
    "keys in keys": zipped(("keys/a/trust.1", b"x")),
    "deep": zipped(("/".join("a" * 9), b"x")),
    "long": zipped(("a" * 201, b"x")),
    "control": zipped(("data/\x1b[2J", b"x")),
    "empty part": zipped(("data//x", b"x")),
    "file and folder": zipped(("data/x", b"x"), ("data/x/y", b"x")),
    "other hash": zipped(("token", b"x"), index={"files": {"token": [1, "0" * 64]}}),
    "shorter": zipped(("token", b"x"), index={"files": {"token": [2, HASH]}}),
    "bomb": zipped(("token", bytes(50_000_000)), index={"files": {"token": [1, HASH]}}),
    "too much": zipped(("token", b"x"), index={"files": {"token": [1 << 60, HASH]}}),
    "negative": zipped(("token", b"x"), index={"files": {"token": [-1, HASH]}}),
    "no size": zipped(("token", b"x"), index={"files": {"token": ["1", HASH]}}),
    "not listed": zipped(("token", b"x"), index={"files": {}}),
    "not there": zipped(index={"files": {"token": [1, HASH]}}),
    "no index": b"PK\5\6" + bytes(18),
    "index is a list": zipped(index=[]),
    "index is no JSON": zipped(index=b"{"),
    "no zip": b"nothing of the kind",
    "empty": b"",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused(mipy: Mipy, tmp_path: Path, attack: str) -> None:
    saved = tmp_path / "b"
    sealed(saved, ATTACKS[attack])
    before = set(tmp_path.rglob("*"))
    code, _, err = mipy("restore", saved)
    assert (code, "nothing is restored" in err) == (1, True), err
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "old"}
    assert "\x1b[2J" not in err


def test_a_name_twice_is_refused(mipy: Mipy, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        raw = zipped(("token", b"x"), ("token", b"x"))
    sealed(tmp_path / "b", raw)
    code, _, err = mipy("restore", tmp_path / "b")
    assert code == 1 and "not those of its index" in err


def test_a_link_is_a_file(mipy: Mipy, tmp_path: Path) -> None:
    """What a zip calls a symbolic link comes out as the file that it is."""
    sealed(tmp_path / "b", zipped(("token", b"/etc/passwd"), mode=0o120777))
    assert mipy("restore", tmp_path / "b")[0] == 0
    token = tmp_path / "old" / "default" / "token"
    assert not token.is_symlink() and token.read_bytes() == b"/etc/passwd"


def test_what_is_no_backup_is_said_before_the_passphrase(
    mipy: Mipy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(passphrase.PASSPHRASE_FILE)
    (tmp_path / "b").write_bytes(b"mipy-keys 1\n" + bytes(100))
    code, _, err = mipy("restore", tmp_path / "b")
    assert code == 1 and "is no backup of a fleet" in err
    assert mipy("restore", tmp_path / "missing")[0] == 1


def test_database_on_postgres_is_missed(mipy: Mipy, postgres: Postgres, tmp_path: Path) -> None:
    """It is said, for nobody should learn it when he restores."""
    changes.make_fleet()
    with running(places.data_dir() / "server", database=postgres.schema()):
        pass
    for words in ((), ("--data", places.data_dir() / "server")):
        code, said, warned = mipy("backup", tmp_path / f"{len(words)}.backup", *words)
        assert code == 0 and "no server's data" in said
        assert "the server's database is not in it" in warned and "pg_dump" in warned
