"""Slots and the boot stage that execute in place: images are right, and what is damaged comes back.

DAMAGES says how many random damages are tried (`make damage`: 3,000).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.tools.app.compile import boot_stage
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet
from tests.support.boards import Board
from tests.support.powercut import NOTES, STAGE_NOTE, noted, region, rom_image, stage_files

DAMAGES = int(os.environ.get("DAMAGES", "40"))
_SECTOR = 4096
_ERASED = b"\xff" * _SECTOR

# --- images

_SETS: dict[str, dict[str, bytes]] = {
    "a folder that goes on after one inside it": {
        "lib/a.py": b"a", "lib/b/c.py": b"c", "lib/d.py": b"d", "main.py": b"m",
    },
    "names that sort beside a folder": {
        "a-b/x.py": b"1", "a.py": b"2", "a/y.py": b"3", "a/z/a.py": b"4", "a0": b"5", "b": b"6",
    },
    "folders side by side": {"a/b/c/d": b"1", "a/b/d/d": b"2", "a/c/c/d": b"3", "b/b/c/d": b"4"},
    "64 files": {f"lib/n{n:02}.py": bytes((n,)) * n for n in range(64)},
    "long names": {"n" * 64: b"1", "f" * 31 + "/" + "g" * 32: b"2", "o" * 63 + "p": b""},
    "numbers of one, two and three bytes": {
        f"f{n}": random.Random(n).randbytes(n) for n in (0, 1, 126, 127, 128, 129, 16383, 16384)
    },
    "the smallest": {"m": b""},
    **{f"{n} bytes, residue {n % 4}": {"main.py": b"x" * n} for n in range(20, 24)},
    **{
        f"an image of {n} bytes": {"main.py": b""}
        for n in (255, 256, 257, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193)
    },
}  # fmt: skip
for _name, _files in _SETS.items():
    if _name.startswith("an image of"):
        _wanted = int(_name.split()[3])
        _size = next(n for n in range(_wanted) if len(rom_image({"main.py": bytes(n)})) >= _wanted)
        _files["main.py"] = random.Random(_size).randbytes(_size)

_MAKES = """
import sys
sys.path.append("/")
import machine, os, vfs
from hashlib import sha256
from binascii import hexlify
vfs.umount("/rom") if "rom" in os.listdir("/") else None
at = 0
for n in range(SETS):
    if "made" not in os.listdir("/"):
        from bootloader import image
        def files():
            with open("/sets/%d.list" % n) as f:
                for line in f:
                    name, size, sha = line.split()
                    yield name, int(size), sha
        made = image._write((at, 0x10000), "/sets/%d/" % n, files)
        print("made", n, int.from_bytes(made[:4], "little"), hexlify(made[4:]).decode())
        at += (int.from_bytes(made[:4], "little") + 4095) // 4096 * 4096
        continue
    size = int(open("/sets/%d.size" % n).read())
    vfs.mount(vfs.VfsRom(vfs.rom_ioctl(2, 0)[at : at + size]), "/set")
    def walk(path):
        for entry in os.ilistdir(path):
            name = path + "/" + entry[0]
            if entry[1] == 0x4000:
                walk(name)
            else:
                with open(name, "rb") as f:
                    content = f.read()
                print("has", n, name[5:], hexlify(sha256(content).digest()).decode())
    walk("/set")
    vfs.umount("/set")
    at += (size + 4095) // 4096 * 4096
if "made" not in os.listdir("/"):
    open("/made", "w").close()
    machine.reset()
print("all of them")
"""


def test_images_are_what_mpremote_makes_and_micropython_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _MAKES.replace("SETS", str(len(_SETS))).encode()
    files = boot_stage.compiled(boot_stage.sources(), beside=(script,))
    files = {path: data for path, data in files.items() if path.startswith("/bootloader/")}
    for n, content in enumerate(_SETS.values()):
        lines = [f"{name} {len(data)} {sha256(data).hexdigest()}\n"
                 for name, data in sorted(content.items())]  # fmt: skip
        files[f"/sets/{n}.list"] = "".join(lines).encode()
        files[f"/sets/{n}.size"] = str(len(rom_image(content))).encode()
        files |= {f"/sets/{n}/{name}": data for name, data in content.items()}
    with Board(tmp_path / "board", heap=128 * 1024, image_lives=True, romfs=True) as board:
        board.format({**files, "/main.py": script})
        life = board.life()
        assert life.cause == "reset", life.console
        segment = board.segment
        at = 0
        for n, (name, content) in enumerate(_SETS.items()):
            image = rom_image(content)
            assert f"made {n} {len(image)} {sha256(image).hexdigest()}\n" in life.console, name
            assert segment[at : at + len(image)] == image, name
            at += -(-len(image) // _SECTOR) * _SECTOR
        life = board.life()
    read = {line for line in life.console.splitlines() if line.startswith("has ")}
    assert read == {
        f"has {n} {path} {sha256(data).hexdigest()}"
        for n, content in enumerate(_SETS.values())
        for path, data in content.items()
    }
    residues = Counter(len(rom_image(content)) % 4 for content in _SETS.values())
    assert set(residues) == {0, 1, 2, 3}
    with capsys.disabled():
        print(f"\n{len(_SETS)} images, {len(read)} files, by length modulo 4: {dict(residues)}")


_RAW = """
import esp, vfs
m = vfs.rom_ioctl(2, 0)
def says(what, *arguments):
    try:
        print(what(*arguments))
    except (OSError, ValueError) as e:
        print(repr(e))
buf = bytearray(8)
says(esp.flash_erase, 0xB0)
says(esp.flash_write, 0xB0000, b"\\xf0" * 4)
says(esp.flash_write, 0xB0000, b"\\x3c" * 4)
says(esp.flash_read, 0xB0000, buf)
print(buf[:5], SHOWN)
says(esp.flash_write, 0xB0000, m[4096:4100])
says(esp.flash_write, 0xB0000, b"abc")
says(esp.flash_write, 0xB0002, b"abcd")
says(esp.flash_write, 0xB0000, memoryview(b"abcdefgh")[1:5])
says(esp.flash_erase, 0xAF)
says(esp.flash_erase, 0x100)
"""


@pytest.mark.parametrize("flash_map", ("reset", "live"))
def test_the_chips_segment(tmp_path: Path, flash_map: str) -> None:
    """Bits only fall; words from memory alone; the map shows the last reset's content, or not."""
    shown = {"reset": "m[0] == 0xFF", "live": "m[0] == 0x30"}[flash_map]
    script = _RAW.replace("SHOWN", shown).encode()
    with Board(tmp_path / "board", romfs=True, flash_map=flash_map) as board:  # type: ignore[arg-type]
        board.format({"/main.py": script})
        said = board.life().console.splitlines()
    eio = "OSError(5,)"
    assert said == [
        *["None"] * 4, "bytearray(b'0000\\xff') True",
        eio, "ValueError('len must be multiple of 4',)", eio, eio, eio, eio,
    ]  # fmt: skip


# --- a board

_APP = """
import os, ota, time
print("begin", ota.seq, ota.root, ota.home)
while True:
    time.sleep(1)
"""
_PLACE = "begin 1000 /rom /boot\n"
_FILES = "begin 1000 /app_slots/a /\n"


def _release(main: str = _APP, **files: bytes) -> bytes:
    # It brings the runtime: nothing then stands between the boot and its first line.
    return fleet.release({"main.py": main, "runtime/__init__.py": "", **files}, 1000)


@contextmanager
def _board(folder: Path, release: bytes | None = None, **options: Any) -> Iterator[VirtualBoard]:
    options = {"clock": "own", "image_lives": True, "romfs": True, "blocks": 128, **options}
    made = fleet.prepared(folder / "board", fleet.identity(), release or _release(), **options)
    with made as board:
        yield board


def _settle(board: VirtualBoard, ends: str, most: int = 8) -> int:
    """Let it live until its app says so; in how many lives."""
    for n in range(1, most + 1):
        life = board.life(until=ends, timeout=600)
        if ends in life.console:
            return n
    raise AssertionError(board.console[-3000:])


def _is_in_place(board: VirtualBoard) -> bool:
    segment, files = board.segment, board.files()
    slot = {name.removeprefix("/app_slots/a/"): data for name, data in files.items()
            if name.startswith("/app_slots/a/") and not name.endswith("/manifest")}  # fmt: skip
    return (
        noted(files[NOTES[0]], segment, 0) == rom_image(slot)
        and noted(files[STAGE_NOTE], segment, None) == rom_image(stage_files(files))
    )  # fmt: skip


def test_first_boot(tmp_path: Path) -> None:
    with _board(tmp_path) as board:
        assert _settle(board, _PLACE) == 2
        assert _is_in_place(board)
        erases = board.stats.erases
        for _ in range(3):
            assert _settle(board, _PLACE) == 1
        assert board.stats.erases == erases


# --- damage

_MAGIC = b"\xd2\xcd\x31"


def _somewhere(chance: random.Random, size: int) -> int:
    """Mostly where images are: their first sectors, and all over."""
    at = region(chance.choice((None, 0)))[0] + chance.randrange(0x10000)
    return min(chance.choice((at, at // _SECTOR * _SECTOR)), 0x50000 - size)


def _damage_segment(board: VirtualBoard, chance: random.Random) -> str:
    raw = bytearray(board.segment)
    kind = chance.choice(("erase", "flip", "fill", "torn", "zero", "false", "wipe", "shift"))
    size = chance.choice((1, 4, 64, 256, 4096, 16384))
    at = _somewhere(chance, size)
    if kind == "erase":
        count = chance.choice((1, 1, 2, 16))
        at = at // _SECTOR * _SECTOR
        raw[at : at + count * _SECTOR] = _ERASED * count
    elif kind == "flip":
        for _ in range(chance.choice((1, 1, 8))):
            raw[_somewhere(chance, 1)] ^= 1 << chance.randrange(8)
    elif kind == "fill":
        raw[at : at + size] = chance.randbytes(size)
    elif kind == "torn":
        raw[at : at + 2048] = _ERASED[:2048]
    elif kind == "zero":
        raw[at : at + size] = bytes(size)
    elif kind == "false":
        # It begins like an image; its numbers are false.
        at = region(chance.choice((None, None, 0, 1)))[0]
        length = chance.choice((b"\x81\xf8\x00", b"\x7f", b"\xff\xff\xff\x7f", b"\x81\x7f"))
        inside = chance.choice((b"\x05\xff\xff\x7f\x04boot", b"\x04\x81\xf8\x00\xff\xff\x7f", b""))
        raw[at : at + 600] = (_MAGIC + length + inside + chance.randbytes(600))[:600]
    elif kind == "wipe":
        raw[:] = b"\xff" * len(raw)
    else:
        raw[at : at + 8192] = raw[at + 4 : at + 8196]
    board.segment = bytes(raw[:0x50000].ljust(0x50000, b"\xff"))
    return kind


def _damage_note(board: VirtualBoard, chance: random.Random) -> str:
    path = chance.choice((NOTES[0], STAGE_NOTE))
    raw = bytearray(board.read(path))
    kind = chance.choice(("flip", "short", "long", "empty", "random", "huge", "gone"))
    if kind == "flip":
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    elif kind == "short":
        del raw[chance.randrange(1, len(raw)) :]
    elif kind == "long":
        raw += chance.randbytes(chance.choice((1, 100, 30000)))
    elif kind == "random":
        raw[:] = chance.randbytes(len(raw))
    elif kind == "huge":
        raw[-36:-32] = b"\xff\xff\xff\xff"
    if kind == "gone":
        board.remove(path)
    else:
        board.write(path, b"" if kind == "empty" else bytes(raw))
    return f"{path}, {kind}"


def _damage_stage(board: VirtualBoard, chance: random.Random) -> str:
    """Of the boot stage's copy on LittleFS; the segment is whole."""
    path = chance.choice([p for p in board.files() if p.startswith("/bootloader/")
                          and p.endswith(".mpy")])  # fmt: skip
    raw = bytearray(board.read(path))
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    board.write(path, chance.choice((bytes(raw), bytes(raw[: len(raw) // 2]), b"")))
    return "a file of /bootloader"


_DAMAGES: tuple[Callable[[VirtualBoard, random.Random], str], ...] = (
    _damage_segment, _damage_segment, _damage_segment, _damage_note, _damage_stage,
)  # fmt: skip


def _damage_many(seeds: range) -> list[tuple[str, int, str]]:
    """What was damaged, in how many lives the board was in place again, and what failed."""
    done = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _board(Path(folder), flash_map=("reset", "live")[seeds[0] % 2]) as board,
    ):
        _settle(board, _PLACE)
        whole = board.save()
        for seed in seeds:
            chance = random.Random(seed)
            board.restore(whole)
            damage = chance.choice(_DAMAGES)
            what = damage(board, chance)
            lives, failed = 0, ""
            try:
                lives = _settle(board, _PLACE, 4)
                if damage is not _damage_stage and not _is_in_place(board):
                    failed = "what is noted is not what is there"
            except AssertionError as problem:
                failed = str(problem)
            done.append((what, lives, failed and f"seed {seed}, {what}: {failed}"))
    return done


@pytest.mark.timeout(600)
def test_a_damaged_board_runs_its_app_and_is_in_place_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("root", "release"):
        fleet.key(name)  # made once, before the processes part
    shares = [range(n, DAMAGES, 4) for n in range(4)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        done = [one for many in pool.map(_damage_many, shares) for one in many]
    with capsys.disabled():
        print(f"\n{len(done)} damages; in place again in so many lives:", end=" ")
        print(dict(sorted(Counter(lives for _, lives, _ in done).items())))
        for what, count in sorted(Counter(what for what, _, _ in done).items()):
            print(f"  {what:32}{count:5}")
    assert [failed for _, _, failed in done if failed] == []
    assert len(done) == DAMAGES


# --- others write to the segment

_STRANGE = "print('hijacked')\n"
_STRANGERS: dict[str, Mapping[str, bytes]] = {
    "an app": {"main.py": _STRANGE.encode(), "lib/dht.py": b"x" * 9000},
    "names of ours": {
        f"{place}{name}.py": _STRANGE.encode()
        for place in ("", "lib/", "bootloader/")
        for name in ("hashlib", "os", "machine", "pins", "start", "main", "boot", "ota", "time")
    },
}
_DEPLOY = """\
import vfs
with open("/data/rom", "rb") as f: image = f.read()

vfs.rom_ioctl(3, 0, len(image))
for i in range(0, len(image), 256): vfs.rom_ioctl(4, 0, i, image[i : i + 256])

print("depl" + "oyed")
"""


@pytest.mark.parametrize("flash_map", ("reset", "live"))
@pytest.mark.parametrize("name", _STRANGERS)
def test_mpremote_romfs_deploy(tmp_path: Path, name: str, flash_map: str) -> None:
    """It overwrites the boot stage's image; nothing of it runs, and the board mends that."""
    with _board(tmp_path, flash_map=flash_map, heap=64 * 1024) as board:
        _settle(board, _PLACE)
        image = rom_image(_STRANGERS[name])
        board.write("/data/rom", image + b"\xff" * (-len(image) % 4))
        board.start()
        assert board.wait(_PLACE, 600)
        board.ctrl_c()
        assert board.wait(">>>", 600)
        board.type(_DEPLOY)
        assert board.wait("deployed", 600), board.console[-2000:]
        board.stop()
        assert board.segment.startswith(image)
        assert _settle(board, _PLACE) == 2
        assert _is_in_place(board)
        assert "hijacked" not in board.console


# --- another firmware


def test_another_firmware_and_back(tmp_path: Path) -> None:
    """Without a segment the slots' files run; with one again, what is still right, at once."""
    with _board(tmp_path) as board:
        _settle(board, _PLACE)
        erases = board.stats.erases
        for _ in range(2):
            board.romfs = False
            assert _settle(board, _FILES) == 1
            board.romfs = True
            assert _settle(board, _PLACE) == 1
        assert _is_in_place(board) and board.stats.erases == erases


def test_a_board_of_before_migrates_without_a_network(tmp_path: Path) -> None:
    with _board(tmp_path, romfs=False) as board:
        _settle(board, _FILES)
        board.radio(up=False)
        board.romfs = True
        assert _settle(board, _PLACE) == 2
        assert _is_in_place(board)


def test_another_release_came_meanwhile(tmp_path: Path) -> None:
    """Its slot's image is of the release before: it is not what runs."""
    with _board(tmp_path) as board:
        _settle(board, _PLACE)
        before = board.segment, {path: board.read(path) for path in (NOTES[0], STAGE_NOTE)}
    with _board(tmp_path, _release("#\n" + _APP)) as board:
        board.segment = before[0]
        for path, data in before[1].items():
            board.write(path, data)
        console = len(board.console)
        assert _settle(board, _PLACE) == 2
        assert _is_in_place(board)
        assert "image: /app_slots/a/" in board.console[console:]


# --- what cannot be in place


_LIVES = 20
_NEVER_AGAIN = 8
"""Three tries, and one boot in 64 after that: more than this within 20 lives never happens."""


def _lives(board: VirtualBoard, ends: str) -> tuple[int, int]:
    """Twenty times the power comes and the app runs: how many images were begun, and erases."""
    erases, console = board.stats.erases, len(board.console)
    for _ in range(_LIVES):
        _settle(board, ends, 2)
    return board.console[console:].count("image:"), board.stats.erases - erases


@pytest.mark.parametrize("slot", (0, None))
def test_flash_that_does_not_keep_it(tmp_path: Path, slot: int | None) -> None:
    """The app runs from the files, and the flash is not worn out by trying."""
    ends = "begin 1000 /rom /\n" if slot is None else "begin 1000 /app_slots/a /boot\n"
    with _board(tmp_path, stuck=region(slot)[0] + 1) as board:  # a byte of the magic number
        begun, _ = _lives(board, ends)
        assert 3 <= begun - 1 <= _NEVER_AGAIN, board.console[-2000:]
        board.stuck = None
        board.remove(STAGE_NOTE if slot is None else NOTES[0])
        _settle(board, _PLACE)


def test_a_release_that_does_not_fit(tmp_path: Path) -> None:
    """Nothing is erased for it; one that fits is in place."""
    large = _release(blob=random.Random(1).randbytes(region(0)[1]))
    with _board(tmp_path, large, blocks=256) as board:
        segment = board.segment
        begun, erases = _lives(board, "begin 1000 /app_slots/a /boot\n")
        assert 3 <= board.console.count("does not fit") <= _NEVER_AGAIN
        at, length = region(0)
        assert board.segment[at : at + length] == segment[at : at + length]
        assert begun and erases < 60


@pytest.mark.parametrize("flash_map", ("reset", "live"))
def test_power_fails_whenever_an_image_is_made(tmp_path: Path, flash_map: str) -> None:
    """However often: the app runs as soon as there is power for it."""
    with _board(tmp_path, flash_map=flash_map) as board:
        struck = [board.life(cut=op, torn=op > 5, until="begin").cause for op in (40, 3, 90, 7)]
        assert struck.count("cut") >= 3
        _settle(board, "begin 1000 /rom /", 2)
        board.remove(STAGE_NOTE)
        _settle(board, _PLACE)


def test_ctrl_c_while_an_image_is_made(tmp_path: Path) -> None:
    """It leads to the REPL; the next boot makes the image."""
    with _board(tmp_path) as board:
        at, length = region(0)
        segment = board.folder / "segment.img"
        board.start()

        def begun(_: VirtualBoard) -> bool:
            return segment.read_bytes()[at : at + length].strip(b"\xff") != b""

        assert board.wait(begun, 600, 0.001)
        board.ctrl_c()
        board.wait(">>>", 60)  # unless it came within boot.py, which goes on
        board.stop()
        _settle(board, _PLACE)
        assert _is_in_place(board)


_FILLS = """
def fill(size=4096):
    n = 0
    while size > 16:
        n += 1
        try:
            f = open("/state/junk%d" % n, "wb")
        except OSError:
            break
        try:
            f.write(bytes(size))
        except OSError:
            size //= 2
        try:
            f.close()
        except OSError:
            size //= 2
        ota.feed()
import os, ota
if "fill" in os.listdir("/data"):
    os.remove("/data/fill")
    fill()
"""


def test_no_room_for_a_note(tmp_path: Path) -> None:
    """The app runs from the files, nothing is erased in vain; with room it is in place."""
    with _board(tmp_path, _release(_FILLS + _APP), romfs=False) as board:
        _settle(board, _FILES)
        board.write("/data/fill", b"")
        _settle(board, _FILES)
        board.romfs = True
        segment = board.segment
        for _ in range(5):
            _settle(board, "begin 1000 ", 2)
        assert NOTES[0] not in board.files() and board.segment == segment
        for path in board.files():
            if path.startswith("/state/junk"):
                board.remove(path)
        _settle(board, _PLACE)
        assert _is_in_place(board)
