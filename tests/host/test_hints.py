"""Hints fit what went wrong: a full disk, an address that is none, a server somewhere else."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mipy_ota.tools import cli, console, files, places
from mipy_ota.tools.console import Failure
from mipy_ota.tools.fleet import client, pick, serve

Mipy = Callable[..., tuple[int, str]]
FULL = errno.ENOSPC


@pytest.fixture
def mipy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mipy:
    """Runs `mipy` without a fleet; exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    for name in ("MIPY_SERVER", "MIPY_FLEET", "MIPY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(console, "_consoles", {})
        monkeypatch.setattr("sys.argv", ["mipy", *words])
        return cli.main(), capsys.readouterr().err

    return run


def fails_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From now on nothing reaches the disk."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


# --- files


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "make room on that disk"),
        (errno.EROFS, "can only be read"),
        (errno.EACCES, "see whose it is with `ls -ld`, or name a file"),
        (errno.ENOENT, "name a file"),
    ],
)
def test_the_hint_goes_by_the_cause(number: int, hint: str) -> None:
    failure = files.failed("cannot write x", OSError(number, os.strerror(number)), "name a file")
    assert failure.text == f"cannot write x: {os.strerror(number)}"
    assert hint in failure.hint


def test_no_verb_words_the_trouble_of_a_file_itself() -> None:
    """Where it does, a full disk and a folder of somebody else's get one and the same hint."""
    past = [
        str(path.relative_to(places.sources("tools")))
        for path in places.sources("tools").rglob("*.py")
        if re.search(r"Failure\([^)]*problem\.strerror", path.read_text())
    ]
    assert past == []


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "new")])
def test_a_full_disk(mipy: Mipy, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    fails_with(monkeypatch, FULL)
    code, said = mipy(*words)
    assert code == 1
    assert "No space left" in said and "what to do: make room on that disk" in said


def test_a_full_disk_leaves_no_empty_token(
    mipy: Mipy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        fails_with(context, FULL)
        mipy("serve", "--port", "0")
    folder = tmp_path / "home" / "default"
    assert not [path for path in folder.iterdir() if "token" in path.name]
    (folder / "token").touch()  # as an earlier version left it
    assert len(serve._token(folder / "token")) > 20
    assert (folder / "token").stat().st_mode & 0o777 == 0o600


# --- addresses


def test_a_server_listens_on_addresses_of_this_machine(mipy: Mipy) -> None:
    for host, what in (("192.0.2.9", "cannot listen on 192.0.2.9:0"), ("no.invalid", "no address")):
        code, said = mipy("serve", "--host", host, "--port", "0")
        assert code == 1 and what in said
        assert "an address of this machine, or 0.0.0.0" in said and "stop what runs" not in said


def test_a_port_that_is_taken(mipy: Mipy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, said = mipy("serve", "--host", "127.0.0.1", "--port", str(other.getsockname()[1]))
    assert code == 1 and "address already in use\n" in said and "stop what runs there" in said


@pytest.mark.parametrize(
    "named", ["kitchen", "kitchen:8266", "127.0.0.1:8266", "ftp://a", "http://", "http://a:99999"]
)
def test_a_server_that_is_no_address(
    mipy: Mipy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = places.fleet_dir()
    (folder / "fleet.json").write_text(f'{{"server": "{named}"}}')
    assert f"\"server\" in {folder / 'fleet.json'} is '{named}'" in mipy("status")[1]
    monkeypatch.setenv("MIPY_SERVER", named)
    code, said = mipy("status")
    assert code == 1 and f"MIPY_SERVER is '{named}', which is no address" in said
    assert "like http://192.168.1.10:8266" in said and "mipy serve" not in said


def test_a_server_elsewhere_is_not_to_be_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise client.requests.ConnectionError

    monkeypatch.setattr(client.requests.Session, "request", refuse)
    hints = []
    for url in ("http://127.0.0.1:8266", "http://ota.example:8266"):
        with pytest.raises(Failure, match="cannot reach") as raised:
            client.Client(url, "token").status()
        hints.append(raised.value.hint)
    assert "start it with" in hints[0]
    assert "start it" not in hints[1] and "`mipy serve` runs there" in hints[1]


# --- releases


def test_a_name_that_fits_several_releases_lists_them() -> None:
    known = [
        {"app": "a", "class": "c", "digest": f"{n:064x}", "seq": n, "note": "same", "published": n}
        for n in range(1, 10)
    ]
    with pytest.raises(Failure) as raised:
        pick.chosen(known, "same")
    text = raised.value.text
    assert text.startswith("'same' names 9 releases: 1 (same, 19")
    assert "; 6 (same" in text and "; 7 (same" not in text
    assert text.endswith("and 3 more, see `mipy status`")
    assert "the number of the one" in raised.value.hint
