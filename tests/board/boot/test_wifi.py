"""Known networks: what is stored survives everything, and what is chosen is the right one."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools import places
from mipy_ota.tools.flash import provision, wifi
from mipy_ota.tools.sim.board import Life, Storage, VirtualBoard
from tests.support import fleet, portal, workbench
from tests.support.boards import Board

# In place of the boot stage's main.py: calls single functions of it.
MAIN = b"""\
import network, os, sys, time
sys.path.append("/")
from bootloader import resident, wifi_networks
sys.modules["ota"] = resident
from bootloader import wifi
"""
SHOW = MAIN + b"print('known', wifi_networks.load())\n"
NEW = SHOW + b"wifi_networks.add(b'new', b'secret-new')\nprint('then', wifi_networks.load())\n"
THIRD = SHOW + b"wifi_networks.add(b'third', b'secret-3rd')\n"
IMPORT = NEW + b"resident.stage('wifi_file').import_file()\n"
IMPORT += b"print('after', wifi_networks.load(), 'wifi.json' in os.listdir('/'))\n"
OLD = [(b"old", b"secret-old")]
BOTH = [(b"new", b"secret-new"), *OLD]

HOSTILE = {
    "empty": b"",
    "truncated": b'{"home": "secret-wo',
    "a list": b'["home", "secret-word"]',
    "a number": b"7",
    "values that are no text": b'{"home": 12345678}',
    "a value that is a list": b'{"home": ["secret-word"]}',
    "deep": b"[" * 2000,
    "huge": b'{"home": "secret-word"}' + b" " * 10_000,
    "no text at all": bytes(range(256)),
    "a name too long": json.dumps({"x" * 33: "secret-word"}).encode(),
    "no name": b'{"": "secret-word"}',
    "a password too short": b'{"home": "1234567"}',
    "a password too long": json.dumps({"home": "x" * 64}).encode(),
    "null": b"null",
    "UTF-16": '{"home": "secret-word"}'.encode("utf-16"),
}


def made(folder: Path, main: bytes, **options: Any) -> VirtualBoard:
    """A board on which `main` runs instead of the boot stage."""
    who = dataclasses.replace(fleet.identity(), name="kitchen_1")
    board = Board(folder, **{"speed": 20, **options})
    board.format({**provision.board_files(who, fleet.first_trust()), "/main.py": main})
    return board


def shown(life: Life, word: str = "known") -> Any:
    """What the board printed behind the word."""
    lines = [line for line in life.console.splitlines() if line.startswith(word + " ")]
    assert lines, life.console
    return ast.literal_eval(lines[0].removeprefix(word + " "))


@pytest.mark.parametrize("storage", ("littlefs", "model"))
@pytest.mark.parametrize("torn", (False, True))
def test_a_power_cut_leaves_old_or_new(tmp_path: Path, storage: Storage, torn: bool) -> None:
    """At every flash operation of a change, and then at every one of the change after that."""
    with made(
        tmp_path, MAIN + b"wifi_networks.add(b'old', b'secret-old')\n", storage=storage
    ) as board:
        assert board.life().cause == "repl"
        board.write("/main.py", NEW)
        first = board.save()
        operations = board.life().ops
        assert operations >= 2
        middle = {}
        for cut in range(1, operations + 1):
            board.restore(first)
            assert board.life(cut, torn).cause == "cut"
            left = board.save()
            found = shown(board.life())
            assert found in (OLD, BOTH), cut
            middle[left.flash[""] if storage == "littlefs" else str(left.flash)] = left, found
        for left, found in list(middle.values())[:: 2 if storage == "model" else 4]:
            board.restore(left)
            board.write("/main.py", THIRD)
            start = board.save()
            for cut in range(1, board.life().ops + 1):
                board.restore(start)
                assert board.life(cut, torn).cause == "cut"
                again = shown(board.life())
                assert again in (found, [(b"third", b"secret-3rd"), *found]), cut


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    with made(tmp_path, NEW) as board:
        assert board.life().ops > 0
        files = {path: data for path, data in board.files().items() if path.endswith("/w")}
        assert len(files) == 2 and len(set(files.values())) == 1
        assert not any(b"new" in data or b"secret" in data for data in files.values())
        assert board.life().ops == 0


def test_another_chip_reads_nothing(tmp_path: Path) -> None:
    with made(tmp_path / "one", NEW) as board:
        assert shown(board.life(), "then") == [(b"new", b"secret-new")]
        copies = {path: board.read(path) for path in ("/state/0/w", "/state/1/w")}
    with made(tmp_path / "two", SHOW) as other:
        for path, data in copies.items():
            other.write(path, data)
        assert shown(other.life()) == []


def test_damaged_files_are_no_networks(tmp_path: Path) -> None:
    with made(tmp_path, NEW) as board:
        board.life()
        good = board.read("/state/0/w")
        flipped = bytes([good[0], *good[1:30], good[30] ^ 1, *good[31:]])
        for first in (b"", good[:20], flipped, bytes(100), b"x" * 5000):
            board.write("/state/0/w", first)
            board.write("/state/1/w", good)
            board.write("/main.py", SHOW)
            assert shown(board.life()) == [(b"new", b"secret-new")]
            board.write("/state/1/w", first)
            assert shown(board.life()) == []


def test_eight_networks(tmp_path: Path) -> None:
    """Also those whose names are no text; the ninth pushes the oldest out; the last can go."""
    many = b"for n in range(9):\n    wifi_networks.add(bytes((0, 255, n)), b'x' * 63)\n"
    end = b"print('then', [n[0] for n in wifi_networks.load()])\n"
    gone = b"for n in range(9):\n    wifi_networks.remove(bytes((0, 255, n)))\n"
    gone += b"print('last', wifi_networks.load())\n"
    with made(tmp_path, MAIN + many + end + gone) as board:
        life = board.life()
        assert shown(life, "then") == [bytes((0, 255, n)) for n in range(8, 0, -1)]
        assert shown(life, "last") == []
        assert not any(path.endswith("/w") for path in board.files())


def test_hostile_wifi_json(tmp_path: Path) -> None:
    """Reported without a password; file and networks stay as they are."""
    with made(tmp_path, IMPORT) as board:
        for name, content in HOSTILE.items():
            board.write("/wifi.json", content)
            life = board.life()
            assert "after [(b'new', b'secret-new')] True" in life.console, (name, life.console)
            assert "stays:" in life.console, name
            assert "secret-word" not in life.console
            assert board.read("/wifi.json") == content
    with made(tmp_path / "folder", IMPORT) as board:
        board.write("/wifi.json/inside", b"")
        assert "/wifi.json OSError" in board.life().console


# Name -> (password, whether there is such a network)
ENTRIES: dict[bytes, tuple[bytes, bool]] = {
    b"open": (b"", True),
    b"short": (b"x" * 7, False),
    b"8": (b"x" * 8, True),
    b"63": (b"x" * 63, True),
    b"64": (b"x" * 64, False),
    b"key": (b"0123456789abcdefABCDEF" + b"0" * 42, True),
    b"nearly": (b"0" * 31 + b"g" + b"0" * 32, False),
    b"spaced": (b" " + b"0" * 63, False),
    b"65": (b"0" * 65, False),
    b"34 umlauts": ("ü".encode() * 34, False),
    b"31 umlauts": ("ü".encode() * 31, True),
    b"n" * 32: (b"", True),
    b"n" * 33: (b"", False),
    "ü".encode() * 16: (b"", True),
    "ü".encode() * 17: (b"", False),
}


def test_one_rule_on_both_sides(tmp_path: Path) -> None:
    """The board's rule and the one of this computer, which asks before the board is reached."""
    pairs = repr([(ssid, password) for ssid, (password, _) in ENTRIES.items()]).encode()
    code = MAIN + b"said = []\nfor ssid, password in " + pairs + b":\n    try:\n"
    code += b"        wifi_networks.check(ssid, password)\n        said.append('')\n"
    code += b"    except ValueError as e:\n        said.append(str(e))\nprint('known', said)\n"
    with made(tmp_path, code) as board:
        board_says = shown(board.life())
    here = []
    for ssid, (password, _) in ENTRIES.items():
        try:
            wifi.check(ssid, password)
            here.append("")
        except ValueError as problem:
            here.append(str(problem))
    assert board_says == here
    assert [not text for text in here] == [good for _, good in ENTRIES.values()]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_good_is_kept(tmp_path: Path, mark: bytes) -> None:
    """A bad entry stays in the file, alone, is named once a start, and costs no other anything."""
    wrong = {"bad": "short", "none": None, "number": 12345678, "list": ["secret-word"]}
    content = {"home": "secret-home", **wrong, "attic": ""}
    with made(tmp_path, IMPORT) as board:
        board.write("/wifi.json", mark + json.dumps(content).encode())
        life = board.life()
        after = re.search(r"^after (\[.*\]) True", life.console, re.MULTILINE)
        assert after and dict(ast.literal_eval(after[1])) == {
            b"new": b"secret-new",
            b"home": b"secret-home",
            b"attic": b"",
        }
        for ssid in wrong:
            assert f"/wifi.json '{ssid}' stays: " in life.console
        assert "'bad' stays: a password has 8 to 63 bytes" in life.console
        assert "secret-word" not in life.console and "12345678" not in life.console
        assert json.loads(board.read("/wifi.json")) == wrong
        again = board.life()
        assert "'none' stays: its password is no text" in again.console
        assert json.loads(board.read("/wifi.json")) == wrong


def test_a_truncated_wifi_json_stops_no_boot(tmp_path: Path) -> None:
    release = fleet.release({"main.py": "print('app runs')"}, 1000)
    with Board(tmp_path, speed=50) as board:
        files = provision.board_files(fleet.identity(), fleet.first_trust(), release)
        board.format({**files, "/wifi.json": b'{"home'})
        board.start()
        assert board.wait("app runs"), board.console
        assert "and stays" in board.console


CONNECT = (
    SHOW + b"ap = network.WLAN(1)\nsta = network.WLAN(0)\n"
    b"for n in ('home', 'attic', 'cellar'):\n"
    b"    wifi_networks.add(n.encode(), n.encode() * 2 + b'--')\n"
    b"print('is', wifi.connect(), sta.config('ssid'), ap.active(), network.hostname())\n"
)


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
def test_the_strongest_that_works(tmp_path: Path, chip: Any) -> None:
    """Strongest first, then the next; hidden ones too; the factory's access point goes."""
    good = {name: name * 2 + "--" for name in ("home", "attic", "cellar")}
    cases = [
        ({"home": {"password": good["home"], "rssi": -80}, "attic": good["attic"]}, "attic"),
        ({"home": {"password": good["home"], "rssi": -80}, "attic": "changed-it"}, "home"),
        ({"cellar": {"password": good["cellar"], "hidden": True}}, "cellar"),
        ({"neighbour": ""}, None),
    ]
    with made(tmp_path, CONNECT, chip=chip) as board:
        for networks, right in cases:
            board.radio(networks=networks)
            life = board.life()
            result = f"is True {right} False kitchen-1" if right else "is False"
            assert result in life.console, (networks, life.console)


def test_over_the_cable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mipy wifi add`, `ls` and `rm`, while an app runs; the password is seen nowhere."""
    from mipy_ota.tools import cli
    from mipy_ota.tools.sim.port import Port

    secret = tmp_path / "password"
    secret.write_text("grüße & 'küsse'\n")
    release = fleet.release({"main.py": "import time\nwhile True:\n    time.sleep(1)\n"}, 1000)
    said = []
    monkeypatch.setattr("mipy_ota.tools.console.say", said.append)
    with Board(tmp_path / "board", speed=20) as board:
        board.format(provision.board_files(fleet.identity(), fleet.first_trust(), release))
        port = Port(board)
        try:
            board.start(port.hear)

            def mipy(*words: str) -> int:
                runs = len(said) + 1  # each call ends in a reset
                assert board.wait(lambda b: b.console.count("1000 main") >= runs), board.console
                monkeypatch.setattr("sys.argv", ["mipy", "wifi", *words, "--port", port.path])
                return cli.main()

            assert mipy("add", "Café", "--password-file", str(secret)) == 0
            assert mipy("ls") == 0 and said[-1] == "Café"
            assert mipy("rm", "Café") == 0
            assert "küsse" not in board.console
        finally:
            board.stop()
            port.close()


def test_over_the_air(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mipy wifi` by the board's name, through WebREPL; the password is seen nowhere."""
    from mipy_ota.tools import cli

    secret = tmp_path / "password"
    secret.write_text("grüße & 'küsse'\n")
    said = []
    monkeypatch.setattr("mipy_ota.tools.console.say", said.append)
    with workbench.desk(tmp_path / "desk") as desk:

        def mipy(*words: str) -> int:
            # The board starts again at the end of each.
            assert desk.runs("one"), desk.board.console
            monkeypatch.setattr("sys.argv", ["mipy", "wifi", *words, "--board", workbench.NAME])
            return cli.main()

        assert mipy("add", "Café", "--password-file", str(secret)) == 0
        said.clear()
        assert mipy("ls") == 0 and said[:2] == ["Café", "home"]
        assert mipy("rm", "Café") == 0
        said.clear()
        assert mipy("ls") == 0 and said[:1] == ["home"]
        assert "küsse" not in desk.board.console


# --- under an app on the runtime

OTHER = {"other": "secret-2nd", "home": "secret-word"}
# In place of the boot stage's boot.py: the SDK has been quick.
QUICK = b"""\
import network, time
network.WLAN(1).active(True)
sta = network.WLAN(0)
sta.active(True)
sta.connect("home", "secret-word")
while not sta.isconnected():
    time.sleep_ms(50)
"""
NO_SCAN = b"""\
import network
def scan(self):
    raise OSError("scan failed")
network.WLAN.scan = scan
"""
NO_SWITCH = b"""\
import network
real = network.WLAN.active
def active(self, *on):
    if on == (True,):
        raise OSError("Wifi Out of Memory")
    return real(self, *on)
network.WLAN.active = active
"""
TELLS = (
    "import network\n"
    "def up():\n"
    "    ap = network.WLAN(1).active()\n"
    "    print('up', network.WLAN(0).config('ssid'), ap, network.hostname())\n"
    "def setup(app):\n"
    "    print('app runs')\n"
    "    app.on_wifi.append(up)\n"
    "import runtime\n"
    "runtime.run(setup)\n"
)


CONFIG = (places.sources("app_slots") / "config.py").read_text()


def app(
    folder: Path,
    boot: bytes,
    known: dict[str, str],
    *,
    main: str = TELLS,
    config: str = CONFIG,
    portal: str | None = None,
    **options: Any,
) -> VirtualBoard:
    """A board with a small app on the runtime that tells what it finds."""
    release = fleet.release({**fleet.runtime(), "config.py": config, "main.py": main}, 1000)
    who = dataclasses.replace(fleet.identity(), name="kitchen_1", portal=portal)
    board = Board(folder, **{"speed": 20, **options})
    board.format({**provision.board_files(who, fleet.first_trust(), release, known)})
    board.write("/boot.py", boot)
    board.radio(networks={"home": "secret-word"})
    board.start()
    return board


def test_who_is_connected_already(tmp_path: Path) -> None:
    """The rest is done all the same: access point off, name set, /wifi.json taken in."""
    with app(tmp_path, QUICK, OTHER) as board:
        assert board.wait("up home False kitchen-1"), board.console
        board.stop()
        assert "/wifi.json" not in board.files() and "/state/0/w" in board.files()


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
@pytest.mark.parametrize("boot", (NO_SCAN, NO_SWITCH), ids=("scan", "switch"))
def test_a_radio_that_fails_is_no_crash(tmp_path: Path, boot: bytes, chip: Any) -> None:
    with app(tmp_path, boot, OTHER, chip=chip) as board:
        assert board.wait("app runs"), board.console
        if boot is NO_SCAN:
            assert board.wait("up home False kitchen-1"), board.console
        else:
            assert board.wait("wifi: trying again"), board.console
        assert "Traceback" not in board.console and board.console.count("1000 main") == 1


# Tells at which second without Wi-Fi it is tried anew; busy for ten minutes.
KEEPS = """\
import ota
import runtime

def setup(app):
    stage = ota.stage

    def spy(name):
        if name == "wifi":
            print("again at", app.wifi.down)
        return stage(name)

    ota.stage = spy
    app.on_wifi.append(lambda: print("wifi is", app.wifi.up))
    BUSY
    print("app runs")

runtime.run(setup)
"""
PAUSES = [15, 45, 105, 225, 300, 465, 600]


@pytest.mark.parametrize("kind", ("busy", "never"))
def test_the_keeper(tmp_path: Path, kind: str) -> None:
    """Growing pauses; no portal while the app is busy, and with PORTAL = 0 never."""
    busy = "app.busy = lambda: app.wifi.down < 620" if kind == "busy" else ""
    minutes = "PORTAL = 2" if kind == "busy" else "PORTAL = 0"
    with app(
        tmp_path,
        b"",
        OTHER,
        main=KEEPS.replace("BUSY", busy),
        config=CONFIG.replace("PORTAL = 30", minutes),
        portal=portal.PASSWORD,
        speed=50,
    ) as board:
        assert board.wait("wifi is True"), board.console
        board.radio(networks={})
        assert board.wait("wifi is False"), board.console
        assert board.wait("again at 600"), board.console
        found = [int(n) for n in re.findall(r"again at (\d+)", board.console)]
        assert found[: len(PAUSES)] == PAUSES
        assert portal.OPEN not in board.console
        if kind == "busy":
            assert board.wait(portal.OPEN), board.console
        else:
            assert board.wait("again at 900"), board.console
            assert portal.OPEN not in board.console
            board.radio(networks={"home": "secret-word"})
            assert board.wait(lambda b: b.console.count("wifi is True") == 2), board.console
