"""A board with a program of its own joins the fleet, and gets back what it had."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mipy_ota.signing import board_file
from mipy_ota.tools.adopt import backup, connection, plan, steps, survey, undo, verb
from mipy_ota.tools.board import target, webrepl
from mipy_ota.tools.board.remote import Facts, Remote
from mipy_ota.tools.board.repl import Raised, Repl, Serial
from mipy_ota.tools.console import Failure
from mipy_ota.tools.flash import image
from mipy_ota.tools.fleet import address, enrol, serve
from mipy_ota.tools.fleet.trust_upload import publish_trust
from mipy_ota.tools.keys import changes
from mipy_ota.tools.sim.board import Snapshot, VirtualBoard
from mipy_ota.tools.sim.port import Port
from tests.support.boards import Board

APP = "demo"
CLASS = "esp8266-generic"
WIFI = {"home": "secret-word"}
BLOCKS = 320
WAIT = 90
OLD = "old program 7 core: remember"
LIVES = "import time\nwhile True:\n    time.sleep(1)\n"

BOOT = b"import gc\nimport sensor\ngc.collect()\n"
MAIN = b"""\
import sensor
import pkg.core
from helper import words


def main():
    print("old program", sensor.VALUE, pkg.core.NAME + ":", words(open("notes.txt")))
    import time
    while True:
        time.sleep(1)


if __name__ == '__main__':
    main()
"""
PROGRAM: dict[str, bytes | None] = {
    "/boot.py": BOOT,
    "/main.py": MAIN,
    "/sensor.py": b"VALUE = 7\n",
    "/pkg": None,
    "/pkg/__init__.py": b"",
    "/pkg/core.py": b"NAME = 'core'\n",
    "/lib": None,
    "/lib/helper.py": b"def words(file):\n    return file.read()\n",
    "/notes.txt": b"remember",
}
ODD: dict[str, bytes | None] = {
    "/unused.py": b"X = 1\n",
    "/pkg.py": b"raise ImportError('a package of this name comes first')\n",
    "/lib/helper.mpy": b"never looked at",
    "/broken.py": b"def (:\n",
    "/my-script.py": b"print('not a module')\n",
    "/webrepl_cfg.py": b"PASS = 'secret'\n",
    "/lib/pkg": None,
    "/lib/pkg/table.bin": bytes(range(256)) * 20,
    "/data": None,
    "/data/kept.csv": b"1,2\n",
    "/data/empty": None,
    "/empty": None,
    "/a b": None,
    "/a b/c'd\"e.txt": b"quotes",
    "/\u00fcn\u00efcode \U0001f600.txt": "gr\u00fc\u00dfe".encode(),
    "/.hidden": b"dot",
    "/100%.txt": b"percent",
    "/back\\slash.txt": b"",
    "/new\nline": b"\r\n\x03\x04",
    "/" + "n" * 200: b"long",
    "/deep": None,
    "/deep/1": None,
    "/deep/1/2": None,
    "/deep/1/2/x.bin": secrets.token_bytes(3000),
    "/settings": b"of the program",
    "/wifi.json": b'{"ssid": "mine"}',
}


def as_bytes(files: Mapping[str, bytes | None]) -> dict[bytes, bytes | None]:
    return {path.encode(): content for path, content in files.items()}


def put(board: VirtualBoard, files: Mapping[str, bytes | None]) -> None:
    board.format({path: data for path, data in files.items() if data is not None})
    with image.opened(board.folder / "flash.img") as system:
        for path, data in files.items():
            if data is None:
                system.makedirs(path, exist_ok=True)


def tree(board: VirtualBoard) -> dict[str, bytes | None]:
    """All files, and None for each folder."""
    found: dict[str, bytes | None] = dict(board.files())
    with image.opened(board.folder / "flash.img") as system:
        for folder, names, _ in system.walk("/"):
            found |= {f"{folder.rstrip('/')}/{name}": None for name in names}
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fleet with its keys, and its server."""
    with serve.running(tmp_path / "server") as server:
        monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("MIPY_SERVER", server.url)
        monkeypatch.setenv("MIPY_TOKEN_FILE", str(tmp_path / "server" / "token"))
        changes.make_fleet()
        yield tmp_path


@pytest.fixture
def board(tmp_path: Path, home: Path) -> Iterator[Board]:
    """A board with an old program, off, that will know this machine's server."""
    with Board(tmp_path / "board", blocks=BLOCKS, speed=20) as made:
        made.radio(networks={**WIFI})
        put(made, PROGRAM)
        yield made


def identity(mac: str, cls: str = CLASS) -> board_file.Board:
    """The board file of the chip with this MAC address, which names the server under test."""
    record = enrol.known(mac)
    if record is None:
        name = "b" + mac.replace(":", "")
        made = enrol.make(name, APP, cls, servers=(os.environ["MIPY_SERVER"],))
        record = enrol.Record(made, mac, cls.partition("-")[0])
        enrol.keep(record)
    return record.board


def join(port: Port) -> None:
    with connection.connected(Serial(port.path), port.path) as remote:
        facts = remote.facts()
        identity(facts.mac)
        verb.join(remote, facts, survey.Wishes(wifi=WIFI))


def give_back(port: Port) -> None:
    with connection.connected(Serial(port.path), port.path) as remote:
        undo.give_back(remote, remote.facts())


@pytest.fixture
def facts() -> Facts:
    return Facts(
        "esp8266", (1, 26, 0), 6, "ESP module with ESP8266", "", "02:00:00:00:00:01", 1 << 20
    )


# --- the REPL ------------------------------------------------------------------------------------


@pytest.fixture
def port(board: VirtualBoard) -> Iterator[Port]:
    with Port(board) as made:
        board.start(made.hear)
        yield made
        board.stop()


def test_raw_repl_answers_raises_and_starts_afresh(board: VirtualBoard, port: Port) -> None:
    assert board.wait(OLD)
    repl = Repl(Serial(port.path), port.path)
    repl.enter()
    assert repl.run("x = 6\nprint(x * 7)") == "42\n"
    assert repl.evaluate("[x, b'\\xff', None]") == [6, b"\xff", None]
    with pytest.raises(Raised) as raised:
        repl.run("1/0")
    assert raised.value.kind == "ZeroDivisionError"
    with pytest.raises(Raised) as raised:
        repl.run("def (:")
    assert raised.value.kind == "SyntaxError"
    assert repl.run("print('y' * 3000)" + "#" * 3000).strip() == "y" * 3000
    repl.enter()
    with pytest.raises(Raised, match="NameError"):
        repl.run("x")
    repl.reset()
    repl.close()
    assert board.wait(lambda one: one.console.count(OLD) == 2)


def test_program_that_ignores_ctrl_c_is_said(board: VirtualBoard, port: Port) -> None:
    board.stop()
    stubborn = "import time\nwhile 1:\n try:\n  time.sleep(1)\n except KeyboardInterrupt:\n  pass\n"
    put(board, {"/main.py": stubborn.encode()})
    board.start(port.hear)
    repl = Repl(Serial(port.path), port.path)
    with pytest.raises(Failure, match="does not stop at Ctrl-C"):
        repl.enter(timeout=2)
    repl.close()


def test_silence_is_said(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    repl = Repl(Serial(os.ttyname(theirs)), "it")
    with pytest.raises(Failure, match="does not stop at Ctrl-C"):
        repl.enter(timeout=1)
    repl.close()
    os.close(ours)
    os.close(theirs)


# --- the plan ------------------------------------------------------------------------------------


def test_what_becomes_of_each_file() -> None:
    made = plan.plan(as_bytes(PROGRAM | ODD), CLASS)
    assert sorted(made.files) == [
        "lib/helper.mpy", "main.py", "pkg/__init__.mpy", "pkg/core.mpy", "sensor.mpy", "unused.mpy",
    ]  # fmt: skip
    assert b'__name__ in ("__main__", "main")' in made.files["main.py"]
    assert set(made.code) >= {b"/pkg.py", b"/lib/helper.mpy", b"/sensor.py"}
    assert made.data[b"/notes.txt"] == b"/data/notes.txt"
    assert made.data[b"/my-script.py"] == b"/data/my-script.py"
    assert made.data[b"/new\nline"] == b"/data/new\nline"
    assert {b"/broken.py", b"/webrepl_cfg.py", b"/data/kept.csv", b"/settings"} == set(made.left)
    every = {*made.code, *made.data, *made.left, b"/boot.py", b"/main.py"}
    assert every == {p for p, c in as_bytes(PROGRAM | ODD).items() if c is not None}


@pytest.mark.parametrize("path", ["/state", "/bootloader", "/trust", "/app_slots.py", "/data"])
def test_names_of_the_boot_stage_are_refused(path: str) -> None:
    with pytest.raises(Failure, match="of its own"):
        plan.plan(as_bytes({**PROGRAM, path: b""}), CLASS)


@pytest.mark.parametrize("path", ["/network.py", "/json.mpy", "/time", "/socket.py"])
def test_what_hides_a_module_of_the_firmware_is_refused(path: str) -> None:
    with pytest.raises(Failure, match="would hide"):
        plan.plan(as_bytes({**PROGRAM, path: b""}), CLASS)


def test_a_board_without_a_program_is_refused(home: Path, facts: Facts) -> None:
    with pytest.raises(Failure, match=r"no main\.py"):
        survey.prepare(as_bytes({"/boot.py": b""}), facts, None, None)


def test_old_firmware_is_refused(facts: Facts) -> None:
    old = Facts(**{**vars(facts), "version": (1, 21, 0)})
    with pytest.raises(Failure, match=r"1\.21\.0"):
        survey.survey(None, old, survey.Wishes())  # type: ignore[arg-type]


FILE_SYSTEMS = """
import vfs, os
class Flash:
    def __init__(self, blocks, size):
        self.raw, self.size = bytearray(blocks * size), size
    def readblocks(self, n, buf, off=0):
        at = n * self.size + off
        buf[:] = self.raw[at : at + len(buf)]
    def writeblocks(self, n, buf, off=0):
        at = n * self.size + off
        self.raw[at : at + len(buf)] = buf
    def ioctl(self, op, arg):
        return len(self.raw) // self.size if op == 4 else self.size if op == 5 else 0
for kind, blocks, size in ((vfs.VfsFat, 256, 512), (vfs.VfsLfs2, 64, 4096)):
    flash = Flash(blocks, size)
    kind.mkfs(flash)
    vfs.mount(flash, "/x")
    open("/x/boot.py", "w").close()
    try:
        os.stat("/x/BOOT.PY")
        print("the same")
    except OSError:
        print("another")
    if size == 512:
        vfs.umount("/x")
free = os.statvfs("/x")[3]
for i in range(10):
    os.mkdir("/x/%d" % i)
print(free - os.statvfs("/x")[3])
full = 0
try:
    while True:
        with open("/x/f%d" % full, "wb") as file:
            file.write(b"x" * 4000)
        full += 1
except OSError:
    pass
print(full)
"""


def test_what_micropython_says_of_its_file_systems(mpy: list[str], tmp_path: Path) -> None:
    """FAT does not tell capitals; LittleFS's free blocks miss two for each folder."""
    (tmp_path / "look.py").write_text(FILE_SYSTEMS)
    words = [*mpy, "-X", "heapsize=4m", str(tmp_path / "look.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    fat, littlefs, less, full = done.stdout.split("\n")[:4]
    assert (fat, littlefs, less) == ("the same", "another", "40"), done.stderr
    assert int(full) > 64 - 2 - 40, "really a folder has two"


class Named:
    """A board with one file; on FAT capitals make no other one."""

    def __init__(self, fat: bool) -> None:
        self.fat = fat

    def size(self, path: bytes) -> int | None:
        if self.fat or path == b"/boot.py":
            return 0
        raise Raised("OSError: [Errno 2] ENOENT")


def test_a_fat_file_system_is_refused() -> None:
    tree = as_bytes({"/lib": None, "/boot.py": b""})
    survey._check_file_system(Named(fat=False), tree)  # type: ignore[arg-type]
    with pytest.raises(Failure, match="FAT"):
        survey._check_file_system(Named(fat=True), tree)  # type: ignore[arg-type]


def test_room_is_counted_as_it_is(facts: Facts) -> None:
    """What MicroPython gives as free misses two blocks for every folder that is there."""
    tree = as_bytes({f"/{i}": None for i in range(10)})
    files = {b"/bootloader/x": bytes(4096 * 30)}
    needed = 30 + 2
    for free, fits in ((needed, True), (needed - 20, True), (needed - 21, False)):
        seen = Facts(**{**vars(facts), "free": free * 4096})
        if fits:
            survey._check_space(seen, plan.Plan(), tree, files)
        else:
            with pytest.raises(Failure, match="bytes of flash are needed"):
                survey._check_space(seen, plan.Plan(), tree, files)


@pytest.mark.parametrize(
    ("platform", "machine", "build", "cls"),
    [
        ("esp8266", "ESP module with ESP8266", "", "esp8266-generic"),
        ("esp32", "Generic ESP32 module with ESP32", "", "esp32-generic"),
        ("esp32", "ESP32C3 module with ESP32C3", "", "esp32-generic-c3"),
        ("esp32", "ESP32C3 module with ESP32C3", "ESP32_GENERIC_C3", "esp32-generic-c3"),
        ("esp32", "Generic ESP32 module with SPIRAM", "ESP32_GENERIC-SPIRAM", "esp32-generic"),
        ("esp8266", "ESP module with ESP8266", "ESP8266_GENERIC-FLASH_2M_ROMFS", "esp8266-generic"),
        ("esp8266", "ESP module with ESP8266", "ESP8266_GENERIC-FLASH_1M", "esp8266-generic-1m"),
    ],
)
def test_class_of_a_board(platform: str, machine: str, build: str, cls: str) -> None:
    facts = Facts(platform, (1, 26, 0), 6, machine, build, "", 0)
    assert survey.class_of(facts) == cls


def test_names_in_a_backup_come_back(home: Path) -> None:
    paths = [*as_bytes(PROGRAM | ODD), b"/no \xff\xfe utf-8", b"/%41", b"/\\x", b"/caf\xc3\xa9"]
    assert [backup.path_of(backup.name_of(path)) for path in paths] == paths
    wanted: dict[bytes, bytes | None] = {path: b"x" for path in paths} | {b"/folder": None}
    made = backup.Backup(backup.folder() / "feed-1.zip", {"mac": "fe:ed"}, wanted)
    made.save()
    assert backup.newest("fe:ed") == made
    assert made.path.stat().st_mode & 0o077 == 0


# --- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "answer", "begun", "why"),
    [
        (False, False, False, "nobody is here to be asked"),
        (True, False, False, "nothing was written"),
        (True, True, False, ""),
        (False, False, True, ""),
    ],
)
def test_the_boards_own_program_is_not_replaced_unasked(
    here: bool,
    answer: bool,
    begun: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was begun is finished all the same."""
    done: list[str] = []
    kept = SimpleNamespace(save=lambda: done.append("backup"), path="backup")
    who = SimpleNamespace(board=SimpleNamespace(servers=(), app=APP, cls=CLASS))
    found = SimpleNamespace(begun=begun, kept=kept, record=who, plan=None, files=None)
    monkeypatch.setattr(verb, "survey", lambda *_: found)
    monkeypatch.setattr(verb, "steps", lambda *_: None)
    monkeypatch.setattr(verb, "work", lambda _: done.append("work"))
    monkeypatch.setattr(enrol, "keep", lambda record: Path())
    monkeypatch.setattr(enrol, "tell_server", lambda path: True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: here, raising=False)
    monkeypatch.setattr("mipy_ota.tools.console.confirm", lambda text: answer)
    listed = {"app": APP, "class": CLASS, "note": "1.8", "published": 0.0, "withdrawn": None}
    releases = [listed | {"class": "esp32-generic", "note": "2.0"}, listed]
    monkeypatch.setattr(verb, "connect", lambda: SimpleNamespace(releases=lambda: releases))
    nothing: Any = None
    if why:
        with pytest.raises(Failure, match=why):
            verb.join(nothing, nothing, survey.Wishes(), ask=True)
        assert done == []
    else:
        verb.join(nothing, nothing, survey.Wishes(), ask=True)
        assert done[-1] == "work"
    assert ("the server has the release 1.8, 1970" in capsys.readouterr().err) is not begun


def test_adopted_board_keeps_its_files_updates_and_is_given_back(
    board: Board, tmp_path: Path
) -> None:
    before = PROGRAM | ODD
    password = tmp_path / "password"
    password.write_text(WIFI["home"])
    identity(board.mac)
    put(board, before)
    with Port(board) as port:
        board.start(port.hear)
        assert board.wait(OLD)
        verb.adopt(port.path, name="shed", wifi="home", wifi_password_file=password, yes=True)
        assert board.wait(lambda one: one.console.count(OLD) == 2, WAIT), board.console
        assert enrol.find("shed").mac == board.mac
        board.stop()
        after = tree(board)
        for path, content in before.items():
            gone = content is None or path == "/wifi.json" or path.endswith((".py", ".mpy"))
            assert path in after or gone, path
            if path in after and path not in ("/boot.py", "/main.py", "/wifi.json"):
                assert after[path] == content, path
        assert after["/data/deep/1/2/x.bin"] == before["/deep/1/2/x.bin"]
        assert "/state/adopt" not in after and "/sensor.py" not in after

        publish({"main.py": b"print('from the air', open('notes.txt').read())\n" + LIVES.encode()})
        board.start(port.hear)
        assert board.wait("from the air remember"), board.console
        verb.adopt(port.path, undo=True)
        assert board.wait(lambda one: one.console.count(OLD) == 3, WAIT), board.console
        board.stop()
    assert tree(board) == before


@pytest.mark.parametrize("cut", [300, 675])
def test_broken_off_adoption_is_taken_up_again(board: VirtualBoard, cut: int) -> None:
    with Port(board) as port:
        board.start(port.hear, cut=cut, torn=True)
        assert board.wait(OLD)
        with pytest.raises(Failure, match=r"stopped answering|has gone|no MicroPython"):
            join(port)
        assert board.lives[0].cause == "cut"
        assert board.wait(lambda one: one.console.count(OLD) == 2, WAIT), board.console
        join(port)
        assert board.wait(lambda one: one.console.count(OLD) == 3, WAIT), board.console
        board.stop()
        files = board.files()
        assert "/state/adopt" not in files and "/sensor.py" not in files
        board.start(port.hear)
        give_back(port)
        board.stop()
    assert tree(board) == PROGRAM


class Known(target.Target):
    """A board whose WebREPL password is known."""

    def _password(self, doubt: str) -> str:
        return "over-air"


def test_adopted_without_a_cable(tmp_path: Path, home: Path) -> None:
    """Over the WebREPL that the board's own program has opened."""
    boot = b"""\
import network, time, webrepl
sta = network.WLAN(0)
sta.active(True)
sta.connect("home", "secret-word")
while not sta.isconnected():
    time.sleep_ms(50)
webrepl.start(password="over-air")
"""
    with Board(tmp_path / "board", "esp32", blocks=BLOCKS, speed=5) as board:
        board.radio(networks={**WIFI})
        put(board, PROGRAM | {"/boot.py": boot})
        board.start()
        assert board.wait(OLD)
        found = Known("shed", host=board.address, number=webrepl.PORT)
        with connection.connected(found.open(), found.name, soft_reset=False) as remote:
            facts = remote.facts()
            identity(facts.mac, "esp32-generic")
            verb.join(remote, facts, survey.Wishes(wifi=WIFI))
        assert board.wait(lambda one: one.console.count(OLD) == 2, WAIT), board.console
        board.stop()
        files = board.files()
        assert files["/data/notes.txt"] == b"remember" and "/sensor.py" not in files
        assert "/app_slots/a/manifest" in files and "/state/adopt" not in files


def publish(files: Mapping[str, bytes]) -> None:
    from mipy_ota.tools.app import build
    from mipy_ota.tools.fleet import client
    from mipy_ota.tools.keys import sign

    server = client.connect()
    publish_trust(server)
    built = build.packed(APP, CLASS, build.minutes(), files)
    server.publish(sign.sign_for_fleet(built.bundle))


def test_dry_run_changes_nothing(
    board: VirtualBoard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "lan_address", lambda: "192.0.2.7")
    with Port(board) as port:
        board.start(port.hear)
        verb.adopt(port.path, dry_run=True)
        assert board.wait(OLD)
        board.stop()
    assert tree(board) == PROGRAM
    assert "/data/notes.txt" in capsys.readouterr().out
    assert enrol.records() == [] and list(backup.folder().glob("*")) == []


def test_dry_run_refuses_what_the_real_run_refuses(board: VirtualBoard) -> None:
    """A board of the fleet, and one whose flash is full."""
    filled = {f"/fill{i}": bytes(4096 * 16) for i in range(13)}
    for files, why in (
        ({**PROGRAM, "/state": None, "/state/0": None, "/state/0/r": b"1"}, "of a fleet already"),
        ({**PROGRAM, **filled}, "bytes of flash are needed"),
    ):
        put(board, files)
        with Port(board) as port:
            board.start(port.hear)
            for dry in (True, False):
                with pytest.raises(Failure, match=why):
                    verb.adopt(port.path, server=["http://192.0.2.7:8266"], dry_run=dry)
            board.stop()
        assert tree(board) == files
    assert list(backup.folder().glob("*")) == []


# --- power cuts ----------------------------------------------------------------------------------

EVERY = int(os.environ.get("MIPY_CUT_EVERY", "50"))
"""What no program knows of yet is cut at each of so many operations, everything else at each;
`make sweep-adopt` sets it to 1 (docs/adopt.md).
"""
BULK = ("/bootloader", "/app_slots", "/data", "/trust", "/state")


class Recorder(Repl):
    """A REPL that keeps what it ran, step by step."""

    steps: list[tuple[str, list[str]]]

    def run(self, code: str, timeout: float = 10) -> str:
        if hasattr(self, "steps"):
            self.steps[-1][1].append(code)
        return super().run(code, timeout)


def recorded(
    port: Port, steps: Callable[[Remote, Facts], Iterator[steps.Step]]
) -> list[tuple[str, list[str]]]:
    """Run an adoption or its undoing; returns label and code of each step."""
    repl = Recorder(Serial(port.path), port.path)
    repl.enter()
    remote = Remote(repl)
    facts = remote.facts()
    todo = steps(remote, facts)
    repl.steps = [("begin", [])]
    for label, act in todo:
        repl.steps.append((label, []))
        act()
    done = repl.steps
    repl.reset()
    repl.close()
    return done


def there(remote: Remote, facts: Facts) -> Iterator[steps.Step]:
    kept = backup.take(remote, facts)
    kept.save()
    prepared = survey.prepare(kept.tree, facts, None, None)
    who = enrol.make("alone", APP, CLASS)
    files = survey._files(who, prepared.release(False), WIFI)
    return steps.steps(remote, prepared.plan, kept, files)


def back(remote: Remote, facts: Facts) -> Iterator[steps.Step]:
    return undo.steps_back(remote, backup.newest(facts.mac).tree, backup.take(remote, facts).tree)


def typed(board: VirtualBoard, codes: list[str], cut: int | None, torn: bool) -> int:
    """Run pieces of code at the board's prompt in one life; returns its flash operations."""
    from mipy_ota.tools.board.remote import _FUNCTIONS

    # A Ctrl-C that came when the prompt was there already strikes the first piece: an idle one.
    pieces = ["pass", _FUNCTIONS, *codes, "print('all', 'done')"]
    said = "\x01" + "".join(f"{piece}\x04" for piece in pieces)
    lives, before = len(board.lives), len(board.console)
    board.start(cut=cut, torn=torn)
    assert board.wait(lambda one: OLD in one.console[before:]), board.console
    for _ in range(10):  # one that arrives in a timer's callback is lost, as on a chip
        if board.wait(lambda one: ">>> " in one.console[before:], 0.3):
            break
        board.ctrl_c()
    board.type(said)
    ended = "all done"
    assert board.wait(lambda one: len(one.lives) > lives or ended in one.console[before:])
    board.stop()
    if cut is None:
        heard = board.console[before:].rpartition("raw REPL")[2].split("OK", 2)[2]
        assert not re.search("KeyboardInterrupt|NameError|SyntaxError", heard), heard
    else:
        assert board.lives[lives].cause == "cut", (cut, torn, board.lives[lives])
    return board.lives[lives].ops


def starts(board: VirtualBoard) -> bool:
    """Whether it runs its program, in the old way or as a release."""
    for _ in range(4):
        life = board.life(until=OLD, timeout=20)
        if OLD in life.console:
            return True
        if life.cause != "reset":
            return False
    return False


@pytest.mark.timeout(900 if EVERY > 1 else 0)
@pytest.mark.parametrize("way", ["there", "back"])
def test_power_cut_at_any_operation_leaves_a_board_that_starts(
    tmp_path: Path, home: Path, way: str
) -> None:
    """Each step begins from the flash that the steps before it left."""
    ends = MAIN.replace(b"while True:\n        time.sleep(1)", b"return")
    with Board(tmp_path / "board", blocks=BLOCKS, speed=50) as board:
        board.radio(networks={**WIFI})
        put(board, {**PROGRAM, "/main.py": ends})
        snapshot = board.save()
        with Port(board) as port:
            board.start(port.hear)
            # Until it is exec'ed, a new process holds a copy of any lock on the port.
            assert board.wait(lambda one: OLD in one.console)
            if way == "back":
                recorded(port, there)
                assert board.wait(lambda one: one.console.count(OLD) > 1)
                board.stop()
                snapshot = board.save()
                board.start(port.hear)
                assert board.wait(lambda one: one.console.count(OLD) > 2)
                steps = recorded(port, back)
            else:
                steps = recorded(port, there)
            board.stop()
        if way == "there":
            put(board, {**PROGRAM, "/main.py": ends})
            snapshot = board.save()
        done = cuts = 0
        for label, codes in grouped(steps):
            snapshot = at_the_program(board, snapshot)
            operations = typed(board, codes, None, False)
            after = board.save()
            every = EVERY if label.startswith(BULK) else 1
            for cut in (n for n in range(1, operations + 1) if (done + n) % every == 0):
                for torn in (False, True) if EVERY == 1 else (cut % 2 == 0,):
                    board.restore(snapshot)
                    typed(board, codes, cut, torn)
                    assert starts(board), (label, cut, torn, board.lives[-1])
                    cuts += 1
            done += operations
            snapshot = after
        board.restore(snapshot)
        assert starts(board)
        print(f"{way}: {done} operations, {cuts} cuts")


def grouped(steps: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Some steps that write what no program knows of, in one: fewer lives to live."""
    found: list[tuple[str, list[str]]] = []
    together = 0
    for label, codes in steps:
        if found and together < 6 and label.startswith(BULK) and found[-1][0].startswith(BULK):
            found[-1][1].extend(codes)
            together += 1
        else:
            found.append((label, [*codes]))
            together = 0
    return found


def at_the_program(board: VirtualBoard, snapshot: Snapshot) -> Snapshot:
    """The same flash, the board about to start its program: a boot stage has a life before it."""
    board.restore(snapshot)
    if board.life(until=OLD, timeout=20).cause == "reset":
        return board.save()
    board.restore(snapshot)
    return snapshot
