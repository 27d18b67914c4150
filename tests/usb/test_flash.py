"""The first flash: real esptool, an emulated ROM loader, a virtual board that starts from it."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import http.server
import json
import os
import pty
import stat
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import serial

from mipy_ota.signing import board_file, bundle, manifest
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import addresses, console, places
from mipy_ota.tools.app import build
from mipy_ota.tools.board import target
from mipy_ota.tools.console import Failure
from mipy_ota.tools.flash import (
    batch,
    builds,
    chip,
    download,
    firmware,
    former,
    image,
    layout,
    plan,
    port,
    renew,
)
from mipy_ota.tools.fleet import address, client, enrol, label, sticker
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.keys import sign
from mipy_ota.tools.keys import store as keys
from tests.support import ROOT, fleet, stock
from tests.support.boards import Board
from tests.support.fake_board import FakeBoard

PLAIN = {"main.py": "import ota, time\nwhile True:\n    ota.check()\n    time.sleep(1)\n"}
MACS = {"esp8266": "240ac4ce2bc1", "esp32": "240ac4e29526", "esp32c3": "240ac41f677d"}
CLASSES = {
    "esp8266": "esp8266-generic",
    "esp32": "esp32-generic",
    "esp32c3": "esp32-generic-c3",
}
LAN = "http://192.0.2.7:8266"
SECONDS = 90

Mipy = Callable[..., tuple[int, str, str]]


def until(
    condition: Callable[[], bool], seconds: float = SECONDS, told: Callable[[], str] = str
) -> None:
    """Wait for it; `told` explains a failure."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.02)


class Rom:
    """A chip with an emulated ROM loader (tests/support/rom.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(folder / "port")

    def says(self, text: str) -> None:
        """What the board prints after its next reset."""
        with (self.folder / "console").open("a") as file:
            file.write(text.replace("\n", "\r\n"))

    def starts(self) -> None:
        """It prints that its app starts."""
        self.says("rst cause:2, boot mode:(3,6)\nota: a 5 main\n")

    @property
    def flashed(self) -> bool:
        """A client has changed its flash and hung up."""
        return (self.folder / "flash.bin").exists()

    @property
    def flash(self) -> bytes:
        """What it holds."""
        return (self.folder / "flash.bin").read_bytes()

    def read_back(self, offset: int, size: int) -> bytes:
        """Part of the same, by the real esptool over the terminal."""
        out = self.folder / "back.bin"
        words = ["-m", "esptool", "--port", self.port, "--baud", "460800", "read-flash"]
        words += [str(offset), str(size), str(out)]
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        return out.read_bytes()


@contextmanager
def loader(folder: Path, kind: str, megabytes: int = 4) -> Iterator[Rom]:
    """An emulated chip that is switched off afterwards."""
    folder.mkdir()
    words = ["-m", "tests.support.rom", kind, str(megabytes), str(folder)]
    with subprocess.Popen([sys.executable, *words], cwd=ROOT) as process:
        try:
            until(lambda: (folder / "port").is_symlink())
            yield Rom(folder)
        finally:
            process.kill()


@pytest.fixture
def rom(tmp_path: Path) -> Iterator[Callable[..., Rom]]:
    """Makes emulated chips."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda kind, megabytes=4: stack.enter_context(
            loader(tmp_path / f"rom-{kind}-{megabytes}", kind, megabytes)
        )


@pytest.fixture
def esp32(rom: Callable[..., Rom]) -> Rom:
    """An ESP32 with 4 MB."""
    return rom("esp32")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A server that has releases for three classes."""
    with running(tmp_path / "server", interval=1) as served:
        known = fleet.Fleet(served)
        for cls in CLASSES.values():
            known.publish(fleet.release(PLAIN, 4, cls=cls))
        yield served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet with keys and without a server."""
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9")
    monkeypatch.delenv("MIPY_FLEET", raising=False)
    monkeypatch.setattr(port, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(port, "UP_SECONDS", float(SECONDS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support" / "untraced"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(address, "lan_address", lambda: "192.0.2.7")
    monkeypatch.setattr(address, "from_dhcp", lambda address: False)
    listens = address.listens  # no test asks further than this computer
    monkeypatch.setattr(address, "listens", lambda url: addresses.loopback(url) and listens(url))
    folder = keys.places.keys_dir()
    for role in ("root", "release", "dev"):
        private = fleet.key(role)
        name = f"{role}-{PublicKey.of(private).id}.pem"
        keys.write(folder / name, keys.pem.to_pem(private), 0o600)
    keys.write(folder / "trust.1", fleet.first_trust(), 0o600)
    return tmp_path / "home"


@pytest.fixture
def fleet_up(home: Path, server: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The fleet's server, where the tool finds it."""
    monkeypatch.setenv("MIPY_SERVER", server.url)
    keys.write(places.fleet_dir() / "token", server.token.encode(), 0o600)
    return server


@pytest.fixture
def mipy(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mipy:
    """Runs `mipy` as a shell would; returns (exit code, out, err)."""
    from mipy_ota.tools import cli

    def run(*words: object) -> tuple[int, str, str]:
        console._consoles.clear()
        monkeypatch.setattr("sys.argv", ["mipy", *map(str, words)])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def images(tmp_path: Path) -> Callable[[str], Path]:
    """The firmware for a chip, as a file."""

    def image(kind: str) -> Path:
        if kind != "esp8266":
            return stock.path(kind)
        path = tmp_path / "esp8266.bin"
        path.write_bytes(stock.esp8266())
        return path

    return image


def kept(flash: bytes, place: layout.Place) -> dict[str, bytes]:
    """What a flash holds that a board keeps."""
    files = image.read(flash[place.offset : place.offset + place.size])
    return {path: data for path, data in files.items() if path.startswith(former.KEPT)}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A signed release for the ESP32, as a file."""
    path = tmp_path / "r.ota"
    path.write_bytes(fleet.release(PLAIN, 5, cls="esp32-generic"))
    return path


# --- the round trip


@pytest.mark.parametrize("kind", ["esp8266", "esp32", "esp32c3"])
def test_round_trip(
    kind: str, rom: Callable[..., Rom], fleet_up: Running, mipy: Mipy, images, tmp_path: Path
) -> None:
    """What the chip holds is, byte by byte, the image that --image makes."""
    board = rom(kind)
    board.starts()
    words = ("flash", board.port, "--firmware", images(kind))
    code, out, err = mipy(*words, "--name", "kitchen")
    assert code == 0, err
    name = f"kitchen ({kind}-{MACS[kind]})"
    assert f"{name} is up and on the fleet's list" in out
    assert "  ota: a 5 main" in err
    assert (enrol.find("kitchen").board.portal or "?") in out and "█" in out, "its label"
    flash = board.flash
    at = firmware.load(images(kind)).place(4 << 20).offset
    assert board.read_back(at, 256 << 10) == flash[at : at + (256 << 10)]

    # The chip is known now, so the image for it is for the same board.
    code, out, err = mipy(*words, "--image", tmp_path / "whole.bin")
    assert code == 0, err
    assert flash == (tmp_path / "whole.bin").read_bytes()
    assert stat.S_IMODE((tmp_path / "whole.bin").stat().st_mode) == 0o600
    assert len(flash) == 4 << 20
    assert f"this is {name}" in err
    (listed,) = client.connect().boards()
    assert (listed["id"], listed["name"]) == (f"{kind}-{MACS[kind]}", "kitchen")
    assert listed["class"] == CLASSES[kind]


def whole_app(seq: int) -> bytes:
    """The project's own app with its runtime, as a release for the ESP32."""
    made = build.assemble(places.sources("app_slots"), "esp32-generic", seq)
    return sign.sign_bundle(made.bundle, fleet.key("release"))


def few_lines(cls: str) -> Callable[[int], bytes]:
    """An app without the runtime."""
    return lambda seq: fleet.release(PLAIN, seq, cls=cls)


@pytest.mark.parametrize(
    ("kind", "app", "starts"),
    [
        ("esp8266", few_lines("esp8266-generic"), "ota: a 5 /prepare"),
        ("esp32", few_lines("esp32-generic"), "ota: a 5 /prepare"),
        ("esp32", whole_app, "ota: a 5 main"),
    ],
)
def test_a_board_starts_from_what_was_flashed(
    kind: Literal["esp8266", "esp32"],
    app: Callable[[int], bytes],
    starts: str,
    rom: Callable[..., Rom],
    fleet_up: Running,
    mipy: Mipy,
    images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes up while `mipy flash` listens, is seen by the server, and takes an update."""
    monkeypatch.setattr(address, "loopback", lambda url: False)
    monkeypatch.setenv("MIPY_WIFI_PASSWORD", "secret-word")
    board = rom(kind)
    place = firmware.load(images(kind)).place(4 << 20)
    release = tmp_path / "5.ota"
    release.write_bytes(app(5))
    with Board(tmp_path / "board", kind, speed=20) as virtual:
        virtual.format({})
        virtual.radio(networks={**fleet.WIFI})

        def start() -> None:
            until(lambda: board.flashed)
            flash = board.flash[place.offset : place.offset + place.size]
            assert len(flash) == (virtual.folder / "flash.img").stat().st_size
            (virtual.folder / "flash.img").write_bytes(flash)
            virtual.start(board.says)

        starter = threading.Thread(target=start)
        starter.start()
        words = ("--firmware", images(kind), "--release", release, "--wifi", "home")
        with virtual.passing():
            code, out, err = mipy("flash", board.port, *words, "--server", fleet_up.url)
        starter.join()
        assert code == 0, err + virtual.console
        assert f"  {starts}" in err
        assert "secret-word" not in out + err

        def confirmed(release: bytes) -> bool:
            (listed,) = client.connect().boards()
            return listed["state"] == "ok" and listed["digest"] == fleet.digest(release)[:32]

        assert virtual.wait(lambda _: confirmed(release.read_bytes())), virtual.console
        new = app(6)
        client.connect().publish(new)
        assert virtual.wait(lambda _: confirmed(new)), virtual.console
        virtual.stop()
        files = virtual.files()
    assert "/wifi.json" not in files
    assert f"server {fleet_up.url}\n".encode() in files["/trust/1/board"]


def test_flashed_again_it_stays_the_same_board(
    esp32: Rom, mipy: Mipy, release: Path, tmp_path: Path
) -> None:
    """Id, name, key, passwords, settings, wiring, Wi-Fi stay; dev is for this flash only."""
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--release", release)
    esp32.starts()
    pins = tmp_path / "pins"
    pins.write_text("led 2 0\n\nbutton  14\n5 1\n")
    assert mipy(*words, "--name", "kitchen", "--dev", "--pins", pins)[0] == 0
    wired = {"/state/pins": b"led 2 0\nbutton 14\n5 1\n"}
    at = firmware.load(stock.path("esp32")).place(4 << 20)
    assert kept(esp32.flash, at) == wired
    first = enrol.find("kitchen").board
    assert first.dev == PublicKey.of(fleet.key("dev"))

    # A life of its own: settings and networks that only the board has.
    settings = {"/data/settings/0": b"one", "/state/0/w": b"networks", "/data/log": b"x" * 5000}
    made = plan.make(
        first,
        firmware.load(stock.path("esp32")),
        4 << 20,
        release.read_bytes(),
        kept=settings | wired,
    )
    chip.write(esp32.port, made.parts, lambda done: None)
    esp32.starts()
    code, _, err = mipy(*words, "--server", "http://192.0.2.9:80")
    assert code == 0, err
    assert "stays it" in err
    again = enrol.find("kitchen").board
    assert (again.id, again.key, again.webrepl, again.portal) == (
        first.id,
        first.key,
        first.webrepl,
        first.portal,
    )
    assert (again.dev, again.servers) == (None, ("http://192.0.2.9:80",))
    place = made.place
    after = {"/data/settings/0": b"one", "/state/0/w": b"networks", **wired}
    assert kept(esp32.flash, place) == after


SETTINGS = {"/data/settings/0": b"one", "/state/0/w": b"n" * 300}


def lived(board: Rom, mipy: Mipy, words: tuple[object, ...]) -> layout.Place:
    """Flash a board; then it has settings of its own. Returns where its file system is."""
    board.starts()
    code, _, err = mipy(*words, "--name", "kitchen")
    assert code == 0, err
    who = enrol.find("kitchen").board
    raw = fleet.release(PLAIN, 5, cls="esp32-generic")
    made = plan.make(who, firmware.load(stock.path("esp32")), 4 << 20, raw, kept=SETTINGS)
    chip.write(board.port, made.parts, lambda done: None)
    return made.place


def test_a_board_becomes_one_of_another_app(
    esp32: Rom, mipy: Mipy, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flashed in that app's folder: it stays the board it is; settings were the former app's."""
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--release")
    place = lived(esp32, mipy, (*words, release))
    first = enrol.find("kitchen").board
    relay = tmp_path / "relay"
    relay.mkdir()
    (relay / "app.toml").write_text('name = "relay"\nclasses = ["esp32-generic"]\n')
    other = tmp_path / "other.ota"
    other.write_bytes(fleet.release(PLAIN, 6, cls="esp32-generic", app="relay"))
    failed(mipy(*words, other), "made for another app", "the folder of demo")
    monkeypatch.chdir(relay)
    failed(mipy(*words, release), "made for another app", "the folder of relay")
    esp32.starts()
    code, _, err = mipy(*words, other)
    assert code == 0, err
    assert "its app was demo and is relay from now on" in err
    assert enrol.find("kitchen").board == replace(first, app="relay")
    assert kept(esp32.flash, place) == {"/state/0/w": SETTINGS["/state/0/w"]}


def test_which_app_a_new_board_is_for(
    mipy: Mipy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is named, else the folder's, else the only one of the fleet."""
    monkeypatch.chdir(tmp_path)
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run")
    failed(mipy(*words), "not said which app the board is for", "`mipy new DIR` starts one")
    assert enrol.app_of_new("relay") == "relay"
    enrol.keep(enrol.Record(enrol.make("b1", "weather", "esp32-generic")))
    assert enrol.app_of_new(None) == "weather"
    enrol.keep(enrol.Record(enrol.make("b2", "relay", "esp32-generic")))
    failed(mipy(*words), "not said which app the board is for", "the fleet has relay, weather")
    (tmp_path / "app.toml").write_text('name = "garden"\n')
    assert enrol.app_of_new(None) == "garden"
    assert enrol.app_of_new("relay") == "relay"
    monkeypatch.chdir(tmp_path.parent)
    assert enrol.app_of_new(str(tmp_path)) == "garden"


def test_settings_outlive_a_write_that_failed(
    esp32: Rom, mipy: Mipy, release: Path, tmp_path: Path
) -> None:
    """Between erasing and the last block they are beside the board's record; an image has them."""
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--release", release)
    place = lived(esp32, mipy, words)
    code, out, err = mipy(*words, "--dry-run")
    assert code == 0, err
    assert "/data/settings/0" in out and "/state/0/w" in out
    (esp32.folder / "worn").touch()
    failed(mipy(*words), "does not hold what was written", "another cable")
    (esp32.folder / "worn").unlink()
    saved = enrol.path_of("esp32-240ac4e29526").with_suffix(".kept")
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert mipy(*words, "--image", tmp_path / "whole.bin")[0] == 0
    assert kept((tmp_path / "whole.bin").read_bytes(), place) == SETTINGS
    esp32.starts()
    assert mipy(*words)[0] == 0
    assert kept(esp32.flash, place) == SETTINGS
    assert not saved.exists()


def test_a_run_that_stops_before_writing_starts_the_board_again(
    esp32: Rom, mipy: Mipy, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    run = chip._esptool
    monkeypatch.setattr(chip, "_esptool", lambda *w, **m: said.append(run(*w, **m)) or said[-1])
    failed(mipy("flash", esp32.port, "--firmware", stock.path("esp32c3")), "is for the esp32c3", "")
    assert "Staying in bootloader" in said[0]
    assert "Hard resetting" in said[-1]
    words = ("--firmware", stock.path("esp32"), "--release", release)
    assert mipy("flash", esp32.port, *words, "--dry-run")[0] == 0
    assert "Staying in bootloader" in said[2]
    assert "Hard resetting" in said[-1]
    assert not esp32.flashed


@pytest.mark.parametrize(
    ("was", "comes", "megabytes"),
    [
        ("esp32s3 1.24.1", "esp32s3", 8),  # from a row of the table to all that follows it
        ("esp32s3", "esp32s3 1.24.1", 8),
        ("esp32", "esp32", 16),
        ("FLASH_1M", "", 4),
        ("", "FLASH_1M", 4),
    ],
)
def test_settings_are_found_where_the_former_firmware_had_them(
    was: str, comes: str, megabytes: int
) -> None:
    """And of a large file system only a few blocks are read."""

    def of(name: str) -> firmware.Firmware:
        if name in stock.SUMS:
            return firmware.load(stock.path(name))
        return firmware.parse(stock.esp8266(name))

    size = megabytes << 20
    old = of(was)
    place = old.place(size)
    code = {f"/app_slots/a/{i}.mpy": os.urandom(3000) for i in range(60)}
    flash = bytearray(b"\xff" * size)
    flash[old.offset : old.offset + len(old.data)] = old.data
    system = image.build(SETTINGS | code, place.blocks)
    flash[place.offset : place.offset + place.size] = system
    crossed: list[int] = []

    def read(at: int, size: int) -> bytes:
        crossed.append(size)
        return bytes(flash[at : at + size])

    assert former.on_chip(of(comes), size, read) == SETTINGS
    assert sum(crossed) <= 512 * 1024
    flash[place.offset : place.offset + 2 * layout.BLOCK] = b"\xff" * 2 * layout.BLOCK
    assert former.on_chip(of(comes), size, read) is None


def test_trouble_while_settings_are_read_is_said() -> None:
    def read(at: int, size: int) -> bytes:
        if at:
            raise Failure("the board went away")
        return image.build(SETTINGS, 512)[:size]

    with pytest.raises(Failure, match="went away"):
        image.some(read, former.KEPT)


def test_a_cable_that_carries_only_the_slow_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading gets a second try as writing does."""
    speeds: list[int] = []

    def esptool(port: str, baud: int, *words: str, heard: object) -> str:
        speeds.append(baud)
        if baud == chip.FAST:
            raise Failure("esptool: Packet content transfer stopped")
        Path(words[-1]).write_bytes(b"read")
        return ""

    monkeypatch.setattr(chip, "_esptool", esptool)
    assert chip.read("x", 0, 4) == b"read"
    assert speeds == [chip.FAST, chip.SLOW]


def test_a_board_that_an_image_was_made_for(
    esp32: Rom, mipy: Mipy, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plugged in later it becomes that board, once somebody says that it is."""
    words = ("--firmware", stock.path("esp32"), "--release", release, "--name", "kitchen")
    assert mipy("flash", *words, "--image", tmp_path / "whole.bin")[0] == 0
    made = enrol.find("kitchen")
    assert made.mac == ""
    failed(mipy("flash", esp32.port, *words), "an image was made for 'kitchen'", "--yes")
    answers = iter([False, True])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *words, **more: next(answers))
    failed(mipy("flash", esp32.port, *words), "another board", "--name")
    esp32.starts()
    assert mipy("flash", esp32.port, *words)[0] == 0
    assert enrol.find("kitchen") == enrol.Record(made.board, "24:0a:c4:e2:95:26", "esp32")
    assert len(enrol.records()) == 1


def test_dry_run_writes_nothing(esp32: Rom, fleet_up: Running, mipy: Mipy) -> None:
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--dry-run")
    code, out, err = mipy(*words, "--name", "kitchen")
    assert code == 0, err
    for line in (
        "esp32-240ac4e29526, new",
        "kitchen",
        "demo, esp32-generic",
        "http://192.0.2.7:",
        "512 blocks of 4 KB from 0x200000",
        "0x1ae8e0",
        "/bootloader/trust",
        "/app_slots/a/main.mpy",
        "nothing was written",
    ):
        assert line in out
    assert not esp32.flashed
    assert enrol.records() == []
    assert client.connect().boards() == []


@pytest.mark.parametrize(
    ("variant", "words", "megabytes", "cls"),
    [
        ("", (), 4, "esp8266-generic"),
        ("", ("--flash-size", "2MB"), 2, "esp8266-generic"),
        ("FLASH_1M", (), 1, "esp8266-generic-1m"),
        ("esp32s3", ("--flash-size", "8MB"), 8, "esp32-generic-s3"),
        ("esp32s3 1.24.1", ("--flash-size", "16MB"), 16, "esp32-generic-s3"),
        ("esp32c3", (), 4, "esp32-generic-c3"),
    ],
)
def test_image_without_a_board(
    variant: str, words: tuple[str, ...], megabytes: int, cls: str, mipy: Mipy, tmp_path: Path
) -> None:
    """Also of an S3, which the emulated ROM loader does not know."""
    stocked = variant in stock.SUMS
    raw = stock.path(variant).read_bytes() if stocked else stock.esp8266(variant)
    (tmp_path / "fw.bin").write_bytes(raw)
    (tmp_path / "r.ota").write_bytes(fleet.release(PLAIN, 5, cls=cls))
    out = tmp_path / "flash.bin"
    given = ("--firmware", tmp_path / "fw.bin", "--release", tmp_path / "r.ota", "--name", "one")
    code, _, err = mipy("flash", *given, "--image", out, *words)
    assert code == 0, err
    whole = out.read_bytes()
    assert len(whole) == megabytes << 20
    there = firmware.parse(raw)
    written = firmware.parse(whole[there.offset :][: len(raw)])
    assert (written.chip, written.variant) == (there.chip, there.variant)
    place = written.place(megabytes << 20)
    files = image.read(whole[place.offset : place.offset + place.size])
    assert files["/trust/0/board"] == enrol.find("one").board.encode()
    assert enrol.find("one").board.cls == cls
    assert "mipy boards --add" in err, "there is no server"


# --- each thing that goes wrong


def failed(result: tuple[int, str, str], what: str, hint: str) -> None:
    """One line that says what, one that says what to do; and nothing of Python."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith(("error:", "what to do:"))]
    assert code in (1, 2)
    assert len(lines) == 2, err
    assert what in lines[0]
    assert hint in lines[1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("led 2\n", "'led 2' is no line"),
        ("5 high\n", "is no line"),
        ("49 1\n", "is no line"),
        ("5 1\nbutton 5\n", "pin 5 is there already"),
        ("led 2 0\nled 4 0\n", "led is there already"),
        ("5 1\n\xff\n", "cannot read"),
    ],
)
def test_bad_wiring(mipy: Mipy, tmp_path: Path, text: str, what: str) -> None:
    pins = tmp_path / "pins"
    pins.write_text(text, "latin-1")
    failed(mipy("flash", "/dev/null", "--pins", pins), what, "")


def test_no_keys_yet(mipy: Mipy, monkeypatch: pytest.MonkeyPatch) -> None:
    (places.home() / "empty").mkdir()
    monkeypatch.setenv("MIPY_FLEET", "empty")
    failed(mipy("flash", "/dev/null"), "has no keys", "mipy keys new")


def test_no_port(mipy: Mipy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "find", list)
    failed(mipy("flash"), "no board on a USB port", "cable that carries data")


def test_several_ports(mipy: Mipy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "find", lambda: ["/dev/ttyUSB0", "/dev/ttyUSB1"])
    failed(mipy("flash"), "/dev/ttyUSB0, /dev/ttyUSB1", "like /dev/ttyUSB0")
    failed(mipy("adopt"), "/dev/ttyUSB0, /dev/ttyUSB1", "like /dev/ttyUSB0")


def test_port_does_not_exist(mipy: Mipy) -> None:
    failed(mipy("flash", "/dev/ttyUSB99"), "no port /dev/ttyUSB99", "plug the board in")


def test_not_a_port(mipy: Mipy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed(mipy("flash", tmp_path / "file"), "is no serial port", "name the port")
    failed(mipy("flash", "/dev/null"), "/dev/null is no serial port", "name the port")


def test_an_image_needs_a_board_or_a_firmware(
    mipy: Mipy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "find", list)
    for words in (("flash", "--image", tmp_path / "whole.bin"), ("flash", "--dry-run")):
        failed(mipy(*words), "no board is plugged in", "plug the board in with a cable")
        sized = mipy(*words, "--flash-size", "4MB")
        failed(sized, "no firmware is named", "--firmware FILE, or leave --flash-size out")


def test_no_permission(mipy: Mipy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise serial.SerialException(errno.EACCES, "Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    failed(mipy("flash", "/dev/ttyX"), "no permission to use /dev/ttyX", "usermod -a -G dialout")


def test_port_busy(esp32: Rom, mipy: Mipy) -> None:
    code = "import serial, sys; s = serial.Serial(sys.argv[1]); print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, esp32.port]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout
        other.stdout.readline()
        failed(mipy("flash", esp32.port), f"(process {other.pid})", "close the terminal")
        other.communicate("")


def test_port_locked(esp32: Rom, mipy: Mipy) -> None:
    with serial.Serial(esp32.port, exclusive=True):
        failed(mipy("flash", esp32.port), "is in use", "close the terminal")


def test_not_in_download_mode(mipy: Mipy) -> None:
    master, slave = pty.openpty()  # a board that runs its app, and does not care
    name = os.ttyname(slave)
    os.close(slave)
    failed(mipy("flash", name), "does not answer as one in download mode", "BOOT")
    os.close(master)


def test_wrong_chip(esp32: Rom, mipy: Mipy) -> None:
    failed(
        mipy("flash", esp32.port, "--firmware", stock.path("esp32c3")),
        "is for the esp32c3, the board has an esp32",
        "take the image for this chip",
    )


def test_flash_too_small(rom: Callable[..., Rom], fleet_up: Running, mipy: Mipy, images) -> None:
    board = rom("esp8266", 1)
    failed(
        mipy("flash", board.port, "--firmware", images("esp8266")),
        "does not go onto 1024 KB of flash",
        "for this board and flash size",
    )
    assert not board.flashed


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no firmware image"),
        (b"\x7fELF" + bytes(90000), "no firmware image"),
        (b"\xe9" + bytes(90000), "no MicroPython"),
        (stock.esp8266(version="1.21.0"), "1.21.0 is too old"),
        (stock.esp8266()[:-20], "damaged or cut short"),
    ],
)
def test_bad_firmware(mipy: Mipy, tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "fw.bin"
    path.write_bytes(content)
    failed(mipy("flash", "--firmware", path, "--dry-run"), what, "micropython.org/download")


def test_no_release_for_the_class(fleet_up: Running, mipy: Mipy) -> None:
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run", "--class", "esp32-lamp")
    failed(mipy(*words), "no release of 'demo' for the class esp32-lamp", "mipy release --class")


def test_a_release_that_boards_went_back_from_is_passed_over(
    fleet_up: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its fault: not where a board lost its power, or refused what it already has."""
    known = fleet.Fleet(fleet_up)
    digests = {
        seq: known.publish(fleet.release(PLAIN, seq, cls="esp32-generic"))[:32] for seq in (6, 7)
    }
    with contextlib.closing(FakeBoard(fleet_up.url, app="demo", cls="esp32-generic")) as board:
        who = board_file.parse(board.file())
        known.enrol(who)

        def chosen() -> tuple[int, str]:
            raw = plan.release_for(who, None)
            return manifest.parse(bundle.read(raw)[0]).seq, capsys.readouterr().err

        for why, soft in (("power", 1), ("same-seq", 0)):
            board.boot(bad={"m": digests[7], "why": why, "soft": soft, "trace": ""})
            assert chosen() == (7, "")
        board.boot(bad={"m": digests[7], "why": "exception", "soft": 0, "trace": ""})
        seq, said = chosen()
        assert seq == 6 and " is passed over: sim-01 has gone back from it" in said
        board.boot(bad={"m": digests[6], "why": "watchdog", "soft": 0, "trace": ""})
        assert chosen()[0] == 4
        with pytest.raises(Failure, match="gone back from every release"):
            listed = {"seq": 6, "digest": digests[6], "note": "-", "published": 0.0}
            plan._unrejected([listed], {digests[6]: "sim-01"})


@pytest.mark.parametrize(
    ("cls", "app", "signer", "what"),
    [
        ("esp8266-generic", "demo", "release", "(class)"),
        ("esp32-generic", "other", "release", "(app)"),
        ("esp32-generic", "demo", "stranger", "(key)"),
        ("esp32-generic", "demo", "dev", "(key)"),
    ],
)
def test_release_that_the_board_would_refuse(
    mipy: Mipy, tmp_path: Path, cls: str, app: str, signer: str, what: str
) -> None:
    path = tmp_path / "r.ota"
    path.write_bytes(fleet.release(PLAIN, 5, cls=cls, app=app, signer=signer))
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run", "--release", path)
    failed(mipy(*words), what, "mipy release")


def test_dev_board_takes_a_dev_release(mipy: Mipy, tmp_path: Path) -> None:
    path = tmp_path / "r.ota"
    path.write_bytes(fleet.release(PLAIN, 5, cls="esp32-generic", signer="dev"))
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run", "--release", path, "--dev")
    code, out, err = mipy(*words)
    assert code == 0, err
    assert "dev key, WebREPL on" in out


def test_no_server_and_no_release(mipy: Mipy) -> None:
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run")
    failed(mipy(*words), "no release to start with", "--release FILE")


def test_server_unreachable_is_said_and_done_later(esp32: Rom, mipy: Mipy, release: Path) -> None:
    esp32.starts()
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--release", release)
    code, out, err = mipy(*words)
    assert code == 0, err
    assert "is up\n" in out
    silent = LAN.replace("8266", "9")
    assert f"nothing answers at {silent}, where the board will look for its server" in err
    path = places.data_dir() / "boards" / "esp32-240ac4e29526.board"
    assert f"do it later: mipy boards --add {path}" in err
    assert board_file.parse(path.read_bytes()).servers == (LAN.replace("8266", "9"),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_release_too_large_for_the_flash(mipy: Mipy, tmp_path: Path) -> None:
    (tmp_path / "fw.bin").write_bytes(stock.esp8266("FLASH_1M"))
    big = {f"f{i}.bin": os.urandom(30000) for i in range(14)}
    content = fleet.release(PLAIN | big, 5, cls="esp8266-generic-1m")
    (tmp_path / "r.ota").write_bytes(content)
    words = ("--firmware", tmp_path / "fw.bin", "--release", tmp_path / "r.ota", "--dry-run")
    failed(mipy("flash", *words), "do not fit into a file system of", "leave out")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8266", "http://localhost:1", "nonsense"])
def test_servers_a_board_cannot_reach(mipy: Mipy, url: str) -> None:
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run", "--server", url)
    failed(mipy(*words), url, "http://")


def test_names_are_given_once(mipy: Mipy, release: Path, tmp_path: Path) -> None:
    words = ("flash", "--firmware", stock.path("esp32"), "--release", release, "--name", "one")
    board = enrol.make("esp32-1", "demo", "esp32-generic", name="one")
    enrol.keep(enrol.Record(board, "24:0a:c4:00:00:01", "esp32"))
    failed(mipy(*words, "--image", tmp_path / "1"), "is called 'one' already", "--name")
    words = (*words[:-1], "no name")
    failed(mipy(*words, "--image", tmp_path / "1"), "no board file", "letters")
    words = (*words[:-1], "two")
    assert mipy(*words, "--image", tmp_path / "1")[0] == 0
    assert mipy(*words, "--image", tmp_path / "2")[0] == 0
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes(), "it stays the same"


def test_worn_flash(rom: Callable[..., Rom], fleet_up: Running, mipy: Mipy, images) -> None:
    """A second try, slower, comes before giving up."""
    board = rom("esp8266")
    (board.folder / "worn").touch()
    words = ("flash", board.port, "--firmware", images("esp8266"))
    failed(mipy(*words), "does not hold what was written", "another cable")
    (board.folder / "worn").unlink()
    board.starts()
    assert mipy(*words)[0] == 0


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("A fatal error occurred: MD5 of file does not match data in flash!", "does not hold"),
        ("A fatal error occurred: Could not open /dev/x, the port is busy or", "went away"),
        ("A fatal error occurred: Packet content transfer stopped", "esptool: Packet content"),
        ("A fatal error occurred: 'x' requires chip revision in range v0.3", "of a revision"),
        ("", "esptool: nothing"),
    ],
)
def test_what_esptool_says(output: str, what: str) -> None:
    assert what in chip._failure(output).text


# --- following the console


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("The filesystem appears to be corrupted. If you had", "does not mount"),
        ("invalid header: 0xffffffff", "no firmware that it can start"),
        ("waiting for download", "still in download mode"),
        (">>> ", "stopped at its prompt"),
        ("ota: None 0 /recovery", "waits for a release"),
    ],
)
def test_console_tells_trouble(line: str, what: str) -> None:
    with pytest.raises(Failure, match=what):
        port.started(line)


def test_console_knows_the_words_of_the_firmware() -> None:
    for name in ("esp32", "esp32c3", "esp32s3 1.24.1"):
        assert b"filesystem appears to be corrupted" in stock.path(name).read_bytes()


def test_console_tells_the_start() -> None:
    assert port.started("ota: a 3630241 main")
    assert not port.started("ota: a 3630241 /prepare")
    assert port.started("r$l#|$`bnn`rlota: a 3630241 main"), "behind the noise of a ROM"


def test_trouble_after_the_flash(esp32: Rom, mipy: Mipy, release: Path) -> None:
    esp32.says("ets Jul 29 2019\n\nMicroPython v1.27.0 on 2025-12-09\n>>> ")
    words = ("flash", esp32.port, "--firmware", stock.path("esp32"), "--release", release)
    failed(mipy(*words), "stopped at its prompt", "printed above")


def test_silent_board(esp32: Rom, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="says nothing"):
        port.follow(esp32.port, print, 3)
    with pytest.raises(Failure, match="has gone"):
        port.follow(esp32.port + "x", print, 0.3)


# --- batch


def test_batch_stops_without_losing_what_is_done(
    fleet_up: Running,
    rom: Callable[..., Rom],
    mipy: Mipy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second board is a wrong one; the batch goes on from there when it is run again."""
    first, wrong = rom("esp32"), rom("esp32c3")
    first.starts()
    table = tmp_path / "boards.csv"
    table.write_text("name,server\nhall,\nloft,http://192.0.2.8:80\n")
    monkeypatch.setattr(port, "find", lambda: [first.port, wrong.port])
    words = ("flash", "--batch", table, "--firmware", stock.path("esp32"))
    failed(mipy(*words), "is for the esp32, the board has an esp32c3", "image for this chip")
    rows = list(csv.DictReader(table.open()))
    assert [row["id"] for row in rows] == ["esp32-240ac4e29526", ""]

    # Both are still plugged in: the one that is done is left alone, whatever the others get.
    wrong.starts()
    before = first.flash
    code, out, err = mipy("flash", "--batch", table, "--firmware", stock.path("esp32c3"))
    assert code == 0, err
    assert "1 of 2 boards done" in err
    assert f"the board on {first.port} is done already" in err
    assert first.flash == before
    rows = list(csv.DictReader(table.open()))
    assert [row["id"] for row in rows] == ["esp32-240ac4e29526", "esp32c3-240ac41f677d"]
    assert enrol.find("hall").board.id == "esp32-240ac4e29526"
    assert "done: 2 boards" in out
    assert enrol.find("loft").board.servers == ("http://192.0.2.8:80",)
    assert {one["name"] for one in client.connect().boards()} == {"hall", "loft"}
    assert mipy("flash", "--batch", table)[0] == 0, "nothing is left to do"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no column 'name'"),
        ("nom\nx\n", "no column is called 'nom'"),
        ("name\nx\nx\n", "two boards are called 'x'"),
        ("name,server\n,http://x\n", "a board has no name"),
        ("name\nx,y\n", "more cells"),
    ],
)
def test_bad_tables(mipy: Mipy, tmp_path: Path, text: str, what: str) -> None:
    table = tmp_path / "boards.csv"
    table.write_text(text)
    failed(mipy("flash", "--batch", table), what, "")


def test_ports_are_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [["a", "b"], ["a", "b"], ["a", "b"], ["b"], ["a", "b"]]
    monkeypatch.setattr(port, "find", lambda: there.pop(0))
    monkeypatch.setattr(batch, "_LOOK_SECONDS", 0)
    hand = batch._Ports(None)
    assert [hand("x") for _ in range(3)] == ["a", "b", "a"]


# --- firmware from the network


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served as micropython.org is."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        pins = download.pins()._replace(source=f"http://127.0.0.1:{served.server_port}/")
        monkeypatch.setattr(download, "pins", lambda: pins)
        yield folder
        served.shutdown()


ROMFS = "ESP8266_GENERIC-FLASH_2M_ROMFS"


def test_firmware_is_fetched_once_and_kept(mirror: Path) -> None:
    path = mirror / download.cached(ROMFS).name
    path.write_bytes(stock.esp8266("FLASH_2M_ROMFS"))
    assert download.fetch(ROMFS).variant == "FLASH_2M_ROMFS"
    path.unlink()
    assert download.fetch(ROMFS).variant == "FLASH_2M_ROMFS"
    download.cached(ROMFS).write_bytes(stock.esp8266("FLASH_2M_ROMFS")[:-1])
    with pytest.raises(Failure, match="cannot fetch"):
        download.fetch(ROMFS)


def test_firmware_with_a_known_sum(mirror: Path) -> None:
    path = mirror / download.cached("ESP32_GENERIC").name
    path.write_bytes(stock.esp8266())
    with pytest.raises(Failure, match="not the known firmware"):
        download.fetch("ESP32_GENERIC")
    path.write_bytes(stock.path("esp32").read_bytes())
    assert download.fetch("ESP32_GENERIC").chip == "esp32"
    assert not download.cached("ESP32_GENERIC").with_suffix(".sha256").exists()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_first_sum_is_said_and_counts_from_then_on(
    mirror: Path, capsys: pytest.CaptureFixture[str], by_hand: bool
) -> None:
    """Whether it was fetched or put into the cache by hand; the cache alone may be emptied."""
    console._consoles.clear()
    kept, served = download.cached(ROMFS), mirror / download.cached(ROMFS).name
    kept.parent.mkdir(parents=True)
    first = stock.esp8266("FLASH_2M_ROMFS")
    (kept if by_hand else served).write_bytes(first)
    download.fetch(ROMFS)
    said = capsys.readouterr().err
    digest = hashlib.sha256(first).hexdigest()
    assert "no SHA-256 of" in said and digest in said
    assert kept.with_suffix(".sha256").read_text() == digest + "\n"
    download.fetch(ROMFS)
    assert capsys.readouterr().err == "", "said once"
    kept.unlink()
    other = bytearray(first)
    other[3] ^= 0x10  # outside its own checksum
    served.write_bytes(other)
    with pytest.raises(Failure, match="its SHA-256 differs") as refused:
        download.fetch(ROMFS)
    assert str(kept.with_suffix(".sha256")) in refused.value.hint
    assert not kept.exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"log in to the hotel's Wi-Fi", "no firmware image"),
        (stock.esp8266(), "this is ESP8266_GENERIC 1.27.0, not ESP8266_GENERIC-FLASH_2M_ROMFS"),
        (stock.esp8266("FLASH_2M_ROMFS", "1.26.0"), r"FLASH_2M_ROMFS 1.26.0, not .* 1.27.0"),
    ],
)
def test_something_else_than_the_firmware(mirror: Path, content: bytes, what: str) -> None:
    (mirror / download.cached(ROMFS).name).write_bytes(content)
    with pytest.raises(Failure, match=what):
        download.fetch(ROMFS)
    assert not list((places.cache() / "firmware").glob("*"))


def test_which_stock_build() -> None:
    for kind, megabytes, name in (
        ("esp8266", 16, ROMFS),
        ("esp8266", 4, ROMFS),
        ("esp8266", 2, ROMFS),
        ("esp8266", 1, "ESP8266_GENERIC-FLASH_1M"),
        ("esp32", 4, "ESP32_GENERIC"),
        ("esp32", 2, "ESP32_GENERIC-D2WD"),
        ("esp32c3", 4, "ESP32_GENERIC_C3"),
    ):
        assert builds.for_chip(kind, megabytes << 20) == name
    with pytest.raises(Failure, match="no stock firmware"):
        builds.for_chip("esp32h2", 4 << 20)


def test_pages_name_the_version_that_is_fetched() -> None:
    version = download.pins().version
    assert f"{ROMFS}-{version}.bin" in (ROOT / "docs" / "firmware.md").read_text("utf-8")
    number = version.rpartition("-v")[2]
    assert f"micropython.org ({number})" in (ROOT / "docs" / "first-flash.md").read_text("utf-8")


def test_every_stock_build_is_pinned() -> None:
    """Each that can be chosen has its line; those whose file is at hand have its SHA-256."""
    chosen = {builds.for_chip(kind, size << 20) for kind in builds.BOARDS for size in (1, 2, 4)}
    assert chosen == set(download.pins().sha256)
    assert download.pins().source == "https://micropython.org/resources/firmware/"
    for name, digest in stock.SUMS.items():
        if " " not in name:
            assert download.pins().sha256[builds.for_chip(name, 4 << 20)] == digest


@pytest.mark.parametrize(
    ("megabytes", "variant", "cls"),
    [(2, "FLASH_2M_ROMFS", "esp8266-generic"), (1, "FLASH_1M", "esp8266-generic-1m")],
)
def test_the_chip_decides_which_build_it_gets(
    rom: Callable[..., Rom], mipy: Mipy, mirror: Path, tmp_path: Path, megabytes: int, variant, cls
) -> None:
    name = f"ESP8266_GENERIC-{variant}"
    (mirror / download.cached(name).name).write_bytes(stock.esp8266(variant))
    (tmp_path / "r.ota").write_bytes(fleet.release(PLAIN, 5, cls=cls))
    board = rom("esp8266", megabytes)
    code, out, err = mipy("flash", board.port, "--dry-run", "--release", tmp_path / "r.ota")
    assert code == 0, err
    assert f"MicroPython 1.27.0 for esp8266 {variant}\n" in out and f"demo, {cls}\n" in out
    assert "modules fill" not in err


# --- another firmware for a board that keeps its files


NEW = "FLASH_2M_ROMFS"


def flashed(board: Rom, tmp_path: Path, variant: str, megabytes: int) -> bytes:
    """Put a board with files of its own on the chip; returns what the flash holds then."""
    who = enrol.make("esp8266-240ac4ce2bc1", "demo", "esp8266-generic", name="kitchen")
    enrol.keep(enrol.Record(who, "24:0a:c4:ce:2b:c1", "esp8266"))
    old = firmware.parse(stock.esp8266(variant, "1.24.1", named=False))
    raw = fleet.release(PLAIN, 5, cls="esp8266-generic")
    made = plan.make(who, old, megabytes << 20, raw, kept=SETTINGS)
    chip.write(board.port, made.parts, lambda done: None)
    until(lambda: board.flashed)
    before = board.flash
    (board.folder / "flash.bin").unlink()
    return before


@pytest.mark.parametrize("megabytes", [2, 4])
def test_firmware_only_keeps_every_file(
    rom: Callable[..., Rom], mipy: Mipy, mirror: Path, tmp_path: Path, megabytes: int
) -> None:
    """The stock build with a segment is taken by itself; all behind the old firmware stays."""
    fresh = stock.esp8266(NEW)
    (mirror / download.cached(ROMFS).name).write_bytes(fresh)
    board = rom("esp8266", megabytes)
    before = flashed(board, tmp_path, "", megabytes)
    board.starts()
    code, out, err = mipy("flash", board.port, "--firmware-only")
    assert code == 0, err
    assert f"MicroPython 1.27.0 for esp8266 {NEW} is written and verified" in out
    assert "kitchen is up" in out and "  ota: a 5 main" in err
    until(lambda: board.flashed)
    after = board.flash
    there = firmware.parse(after)
    assert (there.variant, there.version) == (NEW, (1, 27, 0))
    assert after[3] >> 4 == {2: 3, 4: 4}[megabytes], "the header tells the size of this flash"
    end = -(-len(fresh) // layout.BLOCK) * layout.BLOCK
    assert after[end:] == before[end:]
    place = firmware.parse(fresh).place(megabytes << 20)
    files = image.read(after[place.offset : place.offset + place.size])
    assert files["/data/settings/0"] == b"one"


def test_firmware_only_that_was_broken_off_is_run_again(
    rom: Callable[..., Rom], mipy: Mipy, mirror: Path, tmp_path: Path
) -> None:
    (mirror / download.cached(ROMFS).name).write_bytes(stock.esp8266(NEW))
    board = rom("esp8266", 2)
    before = flashed(board, tmp_path, "", 2)
    (board.folder / "worn").touch()
    failed(mipy("flash", board.port, "--firmware-only"), "does not hold what was", "another cable")
    (board.folder / "worn").unlink()
    board.starts()
    assert mipy("flash", board.port, "--firmware-only")[0] == 0
    until(lambda: board.flashed)
    assert board.flash[0x100000:] == before[0x100000:]


def test_firmware_only_first_says_what_it_would_do(
    rom: Callable[..., Rom], mipy: Mipy, mirror: Path, tmp_path: Path
) -> None:
    (mirror / download.cached(ROMFS).name).write_bytes(stock.esp8266(NEW))
    board = rom("esp8266", 2)
    flashed(board, tmp_path, "", 2)
    code, out, err = mipy("flash", board.port, "--firmware-only", "--dry-run")
    assert code == 0, err
    assert f"MicroPython 1.27.0 for esp8266 {NEW} would be written" in out
    assert "nothing was written" in out
    assert not board.flashed


def test_firmware_only_on_a_chip_without_room(rom: Callable[..., Rom], mipy: Mipy) -> None:
    board = rom("esp8266", 1)
    said = mipy("flash", board.port, "--firmware-only")
    failed(said, "1024 KB of flash have no room for ESP8266_GENERIC-FLASH_2M_ROMFS", "FLASH_1M")
    assert not board.flashed


def test_firmware_only_where_files_would_be_lost(
    rom: Callable[..., Rom], mipy: Mipy, mirror: Path, tmp_path: Path
) -> None:
    """FLASH_1M on a larger chip has its file system elsewhere; an empty chip has none."""
    (mirror / download.cached(ROMFS).name).write_bytes(stock.esp8266(NEW))
    board = rom("esp8266", 4)
    failed(mipy("flash", board.port, "--firmware-only"), "none is there", "keeps identity")
    flashed(board, tmp_path, "FLASH_1M", 4)
    failed(mipy("flash", board.port, "--firmware-only"), "763 blocks at 0x100000", "mipy flash")
    assert not board.flashed


def test_firmware_only_is_for_one_chip_and_few_options(esp32: Rom, mipy: Mipy) -> None:
    failed(mipy("flash", esp32.port, "--firmware-only"), "is for the ESP8266", "mipy flash")
    for word in (("--name", "x"), ("--dev",), ("--image", "x"), ("--batch", "x")):
        failed(mipy("flash", esp32.port, "--firmware-only", *word), "writes no files", "leave")
    assert not esp32.flashed


@pytest.mark.parametrize(
    ("variant", "version", "megabytes", "what"),
    [
        ("", "1.27.0", 4, "its modules fill the heap"),
        ("", "1.24.1", 2, "no firmware before 1.25 can run modules from flash"),
        ("FLASH_1M", "1.27.0", 4, "it has no asyncio"),
        ("FLASH_1M", "1.27.0", 1, ""),
        (NEW, "1.27.0", 4, ""),
    ],
)
def test_what_a_firmware_that_is_named_does_without(
    variant: str,
    version: str,
    megabytes: int,
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is known by its bytes, whether these name the build, as since 1.25, or not."""
    console._consoles.clear()
    path = tmp_path / "firmware.bin"
    path.write_bytes(stock.esp8266(variant, version, named=version != "1.24.1"))
    there = chip.Chip("esp8266", "ESP8266EX", "24:0a:c4:ce:2b:c1", megabytes << 20)
    assert renew.firmware_for(there, path).variant == variant
    said = capsys.readouterr().err
    assert (what in said and ROMFS in said) if what else said == ""


# --- identity and label


def test_every_board_has_secrets_of_its_own(home: Path) -> None:
    made = [enrol.make(f"b{i}", "demo", "esp32-generic") for i in range(50)]
    for secret in ("key", "webrepl", "portal"):
        assert len({getattr(one, secret) for one in made}) == 50
    assert {len(one.webrepl or "") for one in made} == {9}
    assert {len(one.portal or "") for one in made} == {14}


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8266", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8266", True),
        ("http://0.0.0.0:80", True),
        ("http://localhost", True),
        ("http://192.168.1.5:8266", False),
        ("https://ota.example.org", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:
    assert address.loopback(url) is loopback


def test_proposed_address(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console._consoles.clear()
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9000")
    assert address.server_address() == "http://192.0.2.7:9000"
    assert capsys.readouterr().err == ""
    console._consoles.clear()
    monkeypatch.setattr(address, "from_dhcp", lambda address: True)
    assert address.server_address() == "http://192.0.2.7:9000"
    assert "comes from DHCP" in capsys.readouterr().err
    monkeypatch.setenv("MIPY_SERVER", "https://ota.example.org")
    with pytest.raises(Failure, match="boards speak no https"):
        address.server_address()
    monkeypatch.setenv("MIPY_SERVER", "http://ota.example.org")
    assert address.server_address() == "http://ota.example.org"
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:9000")
    monkeypatch.setattr(address, "lan_address", lambda: None)
    with pytest.raises(Failure, match="no address that a board could reach"):
        address.server_address()


def test_dhcp_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [
        {"addr_info": [{"local": "192.0.2.7", "dynamic": True}]},
        {"addr_info": [{"local": "192.0.2.8"}]},
    ]
    done = subprocess.CompletedProcess([], 0, json.dumps(links))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    assert address.from_dhcp("192.0.2.7")
    assert not address.from_dhcp("192.0.2.8")
    done.stdout = "?"
    assert not address.from_dhcp("192.0.2.7")


def test_label(mipy: Mipy, tmp_path: Path) -> None:
    board = enrol.make("esp32-1", "demo", "esp32-generic", name="kitchen")
    enrol.keep(enrol.Record(board, "24:0a:c4:e2:95:26", "esp32"))
    code, out, _ = mipy("label", "kitchen")
    assert code == 0
    assert board.portal and board.webrepl
    assert board.portal in out and board.webrepl in out and "█" in out
    assert board.key.hex() not in out
    facts = json.loads(mipy("label", "esp32-1", "--json")[1])
    assert facts["code"] == f"WIFI:T:WPA;S:{label.access_point('kitchen')};P:{board.portal};;"
    for kind in ("svg", "png"):
        assert mipy("label", "kitchen", "--out", tmp_path / f"label.{kind}")[0] == 0
        assert stat.S_IMODE((tmp_path / f"label.{kind}").stat().st_mode) == 0o600
    svg = (tmp_path / "label.svg").read_text()
    for words in (
        ">kitchen<",
        ">esp32-generic<",
        f"{label.access_point('kitchen')}<",
        board.portal,
        board.webrepl,
    ):
        assert words in svg
    failed(mipy("label", "attic"), "no boards", "mipy boards")


def test_letters_of_a_label() -> None:
    """Each is drawn, and none like another."""
    letters = string.ascii_letters + string.digits + "-_./: "
    assert len({tuple(sticker._dots(letter)) for letter in letters}) == len(letters)
    assert sticker._dots("T") == [(0, 0), (1, 0), *((2, y) for y in range(7)), (3, 0), (4, 0)]


def test_label_of_a_board_on_a_port_or_at_an_address(
    esp32: Rom, mipy: Mipy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(mipy("label", esp32.port), "is none of the fleet", "name or id")
    board = enrol.make("esp32-1", "demo", "esp32-generic", name="kitchen")
    enrol.keep(enrol.Record(board, "24:0a:c4:e2:95:26", "esp32"))
    assert "id                esp32-1\n" in mipy("label", esp32.port)[1]
    monkeypatch.setattr(target, "_boards", lambda: [{"id": "esp32-1", "address": "192.0.2.9"}])
    assert "id                esp32-1\n" in mipy("label", "192.0.2.9")[1]
    failed(mipy("label", "192.0.2.10"), "is none of the fleet", "name or id")


def test_damaged_record(mipy: Mipy) -> None:
    board = enrol.make("esp32-1", "demo", "esp32-generic")
    path = enrol.keep(enrol.Record(board, "24:0a:c4:e2:95:26", "esp32"))
    path.write_bytes(path.read_bytes()[:-3])
    failed(mipy("label", "esp32-1"), "is damaged", "backup")


def test_wifi_password_is_never_a_word_of_the_command(mipy: Mipy, tmp_path: Path) -> None:
    words = ("flash", "--firmware", stock.path("esp32"), "--dry-run", "--wifi", "home")
    failed(mipy(*words), "nobody is at the keyboard", "--wifi-password-file")
    (tmp_path / "pw").write_text("short\n")
    failed(mipy(*words, "--wifi-password-file", tmp_path / "pw"), "8 to 63", "router")
