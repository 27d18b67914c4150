"""Power cuts at every flash operation: the courses, the watch over them, the counts.

A course starts from a prepared board and ends when the board is steady on the release it is to
end on. It is run once whole; then once for each flash operation in it, with the power gone at that
operation, cleanly or with half of it done. After each life the flash is read by another
implementation of LittleFS and held against the invariants:

    mix       what runs is one released set of files, nothing else and nothing more
    converge  the board becomes steady, on the release it is to end on
    tries     no release runs as a trial more than three times
    line      seq and floor stand where a confirmed release (or the trust file) put them
    back      the record never goes back to an earlier state
    lost      one copy of the record is whole
    whole     a slot with a manifest holds exactly its files; the record names such slots alone
    trust     one copy of the trust file is whole, in the end both are; its version never falls
    settings  a setting is the old value or the new one, and a failed trial of it ends
    in place  with a ROMFS segment, a steady board runs app and boot stage from it
    note      an image that is noted is in the segment, whole, and of the files it was made of
    first     what begins like an image is a whole one
    mounted   the boot stage in place is the one on LittleFS
    erased    no life erases or writes flash that it has mounted

`python -m tests.support.powercut` cuts everywhere;
`test_power_cut.py` takes a sample.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from mpremote.romfs import VfsRomWriter  # type: ignore[import-untyped]

from mipy_ota.signing import board_file, bundle, trust
from mipy_ota.signing.rsa import PublicKey
from mipy_ota.tools import places
from mipy_ota.tools.app.compile import boot_stage
from mipy_ota.tools.flash import provision
from mipy_ota.tools.fleet.serve import running
from mipy_ota.tools.sim.board import Snapshot, VirtualBoard
from tests.support import fleet
from tests.support.boards import Board

Storage = Literal["littlefs", "model", "in place", "in place, live"]
_OPTIONS: Mapping[Storage, Mapping[str, Any]] = {
    "littlefs": {"romfs": False},
    "model": {"storage": "model", "romfs": False},
    "in place": {"romfs": True, "flash_map": "reset"},
    "in place, live": {"romfs": True, "flash_map": "live"},
}
"""What a slot is stored in, as a board takes it. In place it is on LittleFS as well; the map into
memory shows what was there at the last reset, or what is there now (tools/sim/chip/_segment.py)."""
STORAGES = tuple(_OPTIONS)
ON_FILES: tuple[Storage, ...] = ("littlefs", "model")
IN_PLACE: tuple[Storage, ...] = ("in place", "in place, live")

SPEED = 20
BLOCKS = 160
HEAP = 64 * 1024
"""Room enough: what fits a chip is tested elsewhere, and want of memory would blur the counts."""
WORKERS = 4  # boards wait more than they compute
TRIES = 3
_GONE = 4
"""At every fourth operation also with the network away in the life after the cut."""
LIVES = 16
"""A board that is not steady after so many lives never will be."""
SECONDS = 4000
"""Nor one that says nothing for so long within a life."""

# --- releases -------------------------------------------------------------------------------------

_APP = """
import os, time, ota
from hashlib import sha256
from binascii import hexlify

def walk(path, h, buf):
    for name in sorted(os.listdir(path)):
        name = path + "/" + name
        if name[len(ota.root):] == "/manifest":
            continue
        if os.stat(name)[0] & 0x4000:
            walk(name, h, buf)
            continue
        h.update(name[len(ota.root) + 1:].encode())
        with open(name, "rb") as f:
            while True:
                n = f.readinto(buf)
                if not n:
                    break
                h.update(memoryview(buf)[:n])

h = sha256()
walk(ota.root, h, bytearray(256))
print("app", SEQ, int(ota.trial), hexlify(h.digest()).decode(), ota.seq, ota.root, ota.home)
del walk, h, sha256, hexlify
if "runtime" in os.listdir(ota.root):
    import network
    network.WLAN(0).active(True)
    ota.stage("wifi").start()
    for _ in range(20):
        if network.WLAN(0).isconnected():
            break
        time.sleep(1)
BEHAVIOUR
said = False
while True:
    ota.check()
    if not (said or ota.trial) and ota.server_seen_at:
        said = True
        print("steady", SEQ)
    time.sleep(1)
"""

GOOD = "ota.confirm()"
CRASHES = "raise ValueError('a bad release')"
LEAVES_IT_TO_THE_TIMER = """
if not ota.trial:
    print("steady", SEQ)
while True:
    time.sleep(1)
"""
INSTALLS_AT_ONCE = """
ota.install()
ota.confirm()
"""
_SETS = """
import config, runtime
from runtime import settings
settings.load()
print("set", config.NAME, int(runtime.settings_trial))
if config.NAME == "one" and "asked" not in os.listdir("/data"):
    open("/data/asked", "w").close()
    settings.set("NAME", "two")
    ota.reset()
if runtime.settings_trial:
    THEN
del settings
"""
SETTING_CONFIRMED = _SETS.replace("THEN", "settings.store.confirm()")
SETTING_FAILS = _SETS.replace("THEN", "ota.reset()")

_ERRING_INSTALLER = """
def fetch(connection, slot, active, name, size, sha):
    import ota
    ota.stage("http_download").fetch(connection, slot, active, name, size, sha)
    if name == "blob":
        with open("/app_slots/%s/blob" % slot, "ab") as f:
            f.write(b"x")
"""


@dataclass(frozen=True)
class Release:
    """A signed release and what a board that runs it says of its files."""

    seq: int
    floor: int
    bundle: bytes = field(repr=False)
    manifest: bytes = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    behaviour: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The half that the record holds."""
        return bytes.fromhex(fleet.digest(self.bundle))[:16]

    @property
    def tree(self) -> str:
        return _tree(self.files)

    @property
    def line(self) -> tuple[int, int]:
        return self.seq, self.floor


def rom_image(files: Mapping[str, bytes]) -> bytes:
    """The ROMFS image of `files`, as mpremote makes it."""
    rom = VfsRomWriter()

    def fill(inside: str) -> None:
        left = sorted(name.removeprefix(inside) for name in files if name.startswith(inside))
        for entry in dict.fromkeys(name.split("/")[0] for name in left):
            if inside + entry in files:
                rom.mkfile(entry, files[inside + entry])
            else:
                rom.opendir(entry)
                fill(f"{inside}{entry}/")
                rom.closedir()

    fill("")
    image = rom.finalise()
    # It makes its length even, by a byte in front of a number.
    return image.replace(b"\x31\x80", b"\x31", 1) if image[3] == 0x80 else image


def _tree(files: Mapping[str, bytes]) -> str:
    h = sha256()
    for name in sorted(files, key=lambda name: name.split("/")):
        h.update(name.encode() + files[name])
    return h.hexdigest()


@cache
def release(
    seq: int,
    floor: int,
    behaviour: str = GOOD,
    *,
    parts: tuple[str, ...] = (),
    signer: str = "release",
) -> Release:
    """A release of five files in three folders.

    Against the one before it a file has changed, one is new, one is gone with its folder, one is
    as in the slot before the last, and one as in the last; the largest takes two blocks.
    """
    files: dict[str, str | bytes] = {
        "main.py": _APP.replace("BEHAVIOUR", behaviour).replace("SEQ", str(seq)),
        "blob": bytes(i * seq & 255 for i in range(5000)),
        "lib/last.py": f"A = {(seq + 1) // 2}",
        "lib/former.py": f"B = {seq % 2}",
        f"at{seq}/new/only": b"x" * 200,
    }
    for part in parts:
        files |= _PARTS[part]()
    raw = fleet.release(files, seq, floor=floor, signer=signer)
    manifest, contents = bundle.read(raw)
    return Release(seq, floor, raw, manifest, contents, behaviour)


def _runtime(*names: str) -> dict[str, str | bytes]:
    source = places.sources("app_slots") / "runtime"
    return {f"runtime/{name}.py": (source / f"{name}.py").read_text() for name in names}


_PARTS: dict[str, Callable[[], dict[str, str | bytes]]] = {
    "installer": lambda: {"runtime/__init__.py": "", **_runtime("installer")},
    "erring": lambda: {"runtime/__init__.py": "", "runtime/installer.py": _ERRING_INSTALLER},
    "settings": lambda: {
        "config.py": "NAME = 'demo'",
        **_runtime("__init__", "log", "settings", "settings_store"),
    },
}


_RESET = (1000, 940)
"""What version 2 of the trust file sets seq and floor back to."""

# --- the state record, as docs/architecture.md has it ---------------------------------------------

_RECORD = struct.Struct("<4sIBBBBBBBBII16s16s16s")
_NONE = 255
_HARD = 1
_COPIES = ("/state/0/r", "/state/1/r")


@dataclass(frozen=True)
class Record:
    """What tests read and write of the record."""

    number: int
    active: int
    trial: int
    left: int
    seq: int
    floor: int
    good: tuple[bytes, bytes]
    bad: bytes = bytes(16)
    hard: bool = False

    def encode(self) -> bytes:
        body = _RECORD.pack(
            b"OTA1", self.number, self.active, self.trial, self.left, 0, self.hard, 0, 0, 0,
            self.seq, self.floor, *self.good, self.bad,
        )  # fmt: skip
        return body + sha256(body).digest()[:4]


def _record(raw: bytes | None) -> Record | None:
    if raw is None or len(raw) != _RECORD.size + 4:
        return None
    body = raw[: _RECORD.size]
    if sha256(body).digest()[:4] != raw[_RECORD.size :]:
        return None
    _, number, active, trial, left, _, flags, _, _, _, seq, floor, *halves = _RECORD.unpack(body)
    hard = bool(flags & _HARD)
    return Record(number, active, trial, left, seq, floor, (halves[0], halves[1]), halves[2], hard)


def newest_record(files: Mapping[str, bytes]) -> Record | None:
    """The newest whole copy on the flash, None when there is none."""
    found = [r for path in _COPIES if (r := _record(files.get(path)))]
    return max(found, key=lambda r: r.number, default=None)


# --- the segment ----------------------------------------------------------------------------------

NOTES = ("/state/image_a", "/state/image_b")
STAGE_NOTE = "/bootloader/image"
_NOTE_PATHS: Mapping[int | None, str] = {0: NOTES[0], 1: NOTES[1], None: STAGE_NOTE}
_NOTED = 36  # bytes of a length and a SHA-256
_SECTOR = 4096
_MAGIC = b"\xd2\xcd\x31"


def region(slot: int | None) -> tuple[int, int]:
    """Offset and length of what `slot` has of the segment; None: the boot stage."""
    return (0, 0x14000) if slot is None else (0x14000 + slot * 0x1E000, 0x1E000)


def _part(segment: bytes, slot: int | None) -> bytes:
    at, length = region(slot)
    return segment[at : at + length]


def noted(note: bytes, segment: bytes, slot: int | None) -> bytes | None:
    """The image that a whole `note` names, if it is in the segment."""
    at = region(slot)[0]
    length = int.from_bytes(note[-_NOTED:-32], "little")
    image = segment[at : at + length]
    return image if image and sha256(image).digest() == note[-32:] else None


def stage_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of the files on a flash, those that are the boot stage's, as its image has them."""
    return {
        path[1:]: data
        for path, data in files.items()
        if path.startswith("/bootloader/") and path.endswith(".mpy")
    }


# --- scenarios ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A course.

    Attributes:
        slots: what slots a and b hold, both confirmed.
        offered: what the server has, oldest first.
        final: what the board is to end on.
        lines: every (seq, floor) that the record may hold, in this order.
        tamper: what is done to the flash before the course.
        strange: slots whose content is not whole at first, by intent.
        ends: console text of a steady board.
        trusts: versions of the trust file that the server has.
        setting: values that the setting may end on.
        forged: nobody released what slot b holds.
        order: the server orders a rollback.
        lives: limit of lives after a cut.
        gone: also take the network away in the life after a cut, at some of the operations.
        cut: cut the power; False: only run it.
        storages: where it is run.
    """

    name: str
    slots: tuple[Release, Release]
    offered: tuple[Release, ...]
    final: Release
    lines: tuple[tuple[int, int], ...]
    tamper: Callable[[VirtualBoard], None] | None = None
    strange: str = ""
    ends: str = "steady"
    trusts: int = 1
    setting: tuple[str, ...] = ()
    forged: bool = False
    order: bool = False
    lives: int = LIVES
    gone: bool = True
    cut: bool = True
    storages: tuple[Storage, ...] = STORAGES


@cache
def _scenarios() -> dict[str, Scenario]:
    old, home = release(1000, 900), release(1001, 950)
    pair = (home, old)
    new = release(1002, 1001)
    timer = release(1002, 1001, LEAVES_IT_TO_THE_TIMER)
    bad = release(1002, 1002, CRASHES)
    turned = release(1002, 1001, CRASHES)
    eager = release(1002, 1001, INSTALLS_AT_ONCE)
    newer = release(1003, 1001)
    own_old, own_home, own_new = (
        release(seq, seq - 50, parts=("installer",)) for seq in (1000, 1001, 1002)
    )
    erring = release(1001, 950, parts=("erring",))
    resigned = release(1002, 1001, signer="release2")
    forged = release(1002, 1001, signer="stranger")
    set_good = release(1001, 950, SETTING_CONFIRMED, parts=("settings",))
    set_bad = release(1001, 950, SETTING_FAILS, parts=("settings",))
    raised = (home.line, new.line)
    found = [
        Scenario("normal boot", pair, (), home, (home.line,)),
        Scenario("install, trial, confirm", pair, (new,), new, raised),
        Scenario("install by the release's own installer", (own_home, own_old), (own_new,),
                 own_new, (own_home.line, own_new.line)),
        Scenario("confirm by the timer", pair, (timer,), timer, raised, gone=False),
        Scenario("install, three tries, rollback", pair, (bad,), home, (home.line,)),
        Scenario("crash limit", (home, turned), (), home, (turned.line,), _crashing(home, turned),
                 lives=40),
        Scenario("ordered rollback", (new, home), (new,), home, (new.line,), order=True),
        Scenario("trust, two steps with a reset", pair, (resigned,), resigned,
                 (home.line, _RESET, resigned.line), trusts=3),
        Scenario("trust copies differ", pair, (resigned,), resigned,
                 (_RESET, resigned.line), _second_trust(pair), trusts=3),
        Scenario("both records lost", (home, new), (), new,
                 ((home.seq, new.floor), new.line), _lose_records),
        Scenario("recovery install", pair, (new,), new, raised, _flip("a", "b"), strange="ab"),
        Scenario("setting confirmed", (set_good, old), (), set_good, (set_good.line,),
                 _set_one, setting=("one", "two")),
        Scenario("setting fails", (set_bad, old), (), set_bad, (set_bad.line,),
                 _set_one, setting=("one",)),
        Scenario("install asked for in a trial", (home, eager), (eager, newer), newer,
                 (home.line, eager.line, newer.line), _on_trial(home, eager), ends="steady 1003"),
        Scenario("trial is damaged", (home, new), (), home, (home.line,),
                 _both(_on_trial(home, new), _flip("b")), strange="b"),
        Scenario("trial is forged", (home, forged), (), home, (home.line,),
                 _on_trial(home, forged), strange="b", forged=True),
        Scenario("confirmed is damaged", pair, (), old, (home.line,), _flip("a"), strange="a"),
        Scenario("file too many", pair, (), home, (home.line,),
                 lambda board: board.write("/app_slots/a/lib/extra.py", b"x"), strange="a"),
        Scenario("first boot in place", pair, (), home, (home.line,), _wipe, storages=IN_PLACE),
        Scenario("image is damaged", pair, (), home, (home.line,), _rot_image(0),
                 storages=IN_PLACE),
        Scenario("boot stage's image is damaged", pair, (), home, (home.line,), _rot_image(None),
                 storages=IN_PLACE),
        Scenario("somebody else's image", pair, (), home, (home.line,), _deploy,
                 storages=IN_PLACE),
        Scenario("installer that errs", (erring, old), (new,), new, (erring.line, new.line),
                 ends="steady 1002", cut=False),
        *(Scenario(f"record rots at byte {n}", pair, (), home, (home.line,), _rot(n), cut=False,
                   storages=ON_FILES[:1])
          for n in range(_RECORD.size + 4)),
    ]  # fmt: skip
    return {scenario.name: scenario for scenario in found}


def scenario(name: str) -> Scenario:
    return _scenarios()[name]


def names() -> list[str]:
    """All scenarios' names."""
    return list(_scenarios())


def write_record(board: VirtualBoard, record: Record) -> None:
    for copy_, path in enumerate(_COPIES):
        board.write(path, replace(record, number=record.number + copy_).encode())


def _crashing(home: Release, bad: Release) -> Callable[[VirtualBoard], None]:
    record = Record(8, 1, _NONE, 0, *bad.line, (home.digest, bad.digest))
    return lambda board: write_record(board, record)


def _on_trial(home: Release, trial: Release) -> Callable[[VirtualBoard], None]:
    record = Record(8, 0, 1, TRIES, *home.line, (home.digest, trial.digest))
    return lambda board: write_record(board, record)


def _lose_records(board: VirtualBoard) -> None:
    for path in _COPIES:
        board.remove(path)


def _rot(n: int) -> Callable[[VirtualBoard], None]:
    def tamper(board: VirtualBoard) -> None:
        raw = bytearray(board.read(_COPIES[1]))
        raw[n] ^= 1
        board.write(_COPIES[1], bytes(raw))

    return tamper


def _flip(*slots: str) -> Callable[[VirtualBoard], None]:
    def tamper(board: VirtualBoard) -> None:
        for slot in slots:
            path = f"/app_slots/{slot}/blob"
            raw = bytearray(board.read(path))
            raw[4500] ^= 1
            board.write(path, bytes(raw))
            if board.romfs:
                _rot_image("ab".index(slot))(board)

    return tamper


def _rot_image(slot: int | None) -> Callable[[VirtualBoard], None]:
    """A bit of the slot's image, or of the boot stage's, changes."""

    def tamper(board: VirtualBoard) -> None:
        raw = bytearray(board.segment)
        raw[region(slot)[0] + 1500] ^= 1
        board.segment = bytes(raw)

    return tamper


STRANGE = "hijacked"


def _deploy(board: VirtualBoard) -> None:
    """As `mpremote romfs deploy` does, with modules of ours and of the firmware by name."""
    names = ("hashlib", "os", "machine", "time", "ota", "main", "bootloader/pins")
    image = rom_image({f"{name}.py": f"print('{STRANGE}')\n".encode() for name in names})
    raw = bytearray(board.segment)
    raw[:_SECTOR] = image.ljust(_SECTOR, b"\xff")
    board.segment = bytes(raw)


def _wipe(board: VirtualBoard) -> None:
    """As a board is that never had a segment."""
    board.segment = b"\xff" * len(board.segment)
    for name in (*NOTES, STAGE_NOTE):
        if name in board.files():
            board.remove(name)


def _both(*parts: Callable[[VirtualBoard], None]) -> Callable[[VirtualBoard], None]:
    def tamper(board: VirtualBoard) -> None:
        for part in parts:
            part(board)

    return tamper


def _second_trust(slots: tuple[Release, Release]) -> Callable[[VirtualBoard], None]:
    """Cut between the two copies of version 2."""
    record = Record(8, 0, _NONE, 0, *_RESET, (slots[0].digest, slots[1].digest))

    def tamper(board: VirtualBoard) -> None:
        write_record(board, record)
        board.write("/trust/1/trust", trusts()[1])

    return tamper


def _set_one(board: VirtualBoard) -> None:
    body = b"settings 1 1 0\nNAME one\n"
    board.write("/data/settings/0", body + b"end %s\n" % sha256(body).hexdigest()[:8].encode())


@cache
def trusts() -> tuple[bytes, bytes, bytes]:
    """The trust file's versions: a second release key and a reset; the first one revoked."""
    first = trust.parse(fleet.first_trust())
    added = [("release", PublicKey.of(fleet.key("release2")))]
    second = trust.following(first, add=added, reset=_RESET)
    third = trust.following(second, revoke=[PublicKey.of(fleet.key("release")).id])
    root = fleet.key("root")
    signed = (trust.add_signature(t.body, root) for t in (second, third))
    return fleet.first_trust(), next(signed), next(signed)


# --- the watch ------------------------------------------------------------------------------------


class Violated(Exception):
    """An invariant does not hold: its name, and what was seen."""

    def __init__(self, invariant: str, seen: str) -> None:
        super().__init__(f"{invariant}: {seen}")
        self.invariant = invariant


class Watch:
    """What is known of a board on its course, and the invariants."""

    def __init__(self, scenario: Scenario, storage: Storage, again: bool = False) -> None:
        self._scenario = scenario
        self._atomic = storage != "model"
        self._in_place = storage in IN_PLACE
        self._notes: list[bytes] = []
        self._root = self._home = ""  # where the app that ran last, and the boot stage, ran from
        slots = scenario.slots[:1] if scenario.forged else scenario.slots
        self._releases = {r.seq: r for r in (*slots, *scenario.offered)}
        self._images = {r.seq: rom_image(r.files) for r in self._releases.values()}
        self._again = again
        self.ran: set[int] = set()
        self._tries: Counter[int] = Counter()
        self._number = 0
        self._line = 0
        self._trust = 0
        self._whole: list[int] = []
        self._setting = ""
        self._proven = False  # the setting is no trial any more
        self._running: Release | None = None
        self._record: Record | None = None
        # What was broken before the course is the board's to find out.
        self._strange: dict[str, bytes | None] = {}
        self._rotten: dict[int | None, tuple[bytes, bytes]] = {}

    def aim(self, scenario: Scenario) -> None:
        """From now on it is to end so; what was seen stays seen."""
        self._scenario = scenario
        self._releases |= {r.seq: r for r in scenario.offered}
        self._images |= {r.seq: rom_image(r.files) for r in scenario.offered}

    @property
    def postponed(self) -> bool:
        """Cuts took all the tries of a good release: the board waits an hour before the next."""
        record, final = self._record, self._scenario.final
        return bool(self._again and record and record.bad == final.digest and not record.hard)

    def start(self, files: Mapping[str, bytes], segment: bytes) -> None:
        """The flash as the course finds it."""
        for slot, path in _NOTE_PATHS.items():
            self._rotten[slot] = files.get(path, b""), _part(segment, slot)
        for slot in self._scenario.strange:
            self._strange[slot] = files.get(f"/app_slots/{slot}/manifest")
        self.see("", files, None)

    def see(self, console: str, files: Mapping[str, bytes], segment: bytes | None) -> None:
        """One life: what it printed and what it left behind. Raises Violated."""
        for line in console.splitlines():
            words = line.split()
            if len(words) == 7 and words[0] == "app":
                self._see_app(int(words[1]), words[2] == "1", words[3])
                if words[4] != words[1]:
                    raise Violated("mix", f"{words[1]} runs as {words[4]}")
                self._root, self._home = words[5:]
            elif len(words) == 3 and words[0] == "set":
                self._see_setting(words[1], words[2] == "1")
        self._see_record(newest_record(files))
        for slot in "ab":
            self._see_slot(slot, files)
        self._see_trust(files)
        if STRANGE in console:
            raise Violated("mix", "what runs is what somebody else wrote to the segment")
        if "chip: mounted flash changes" in console:
            raise Violated("erased", "a life wrote to flash that it had mounted")
        if segment and self._in_place:
            self._see_images(files, segment)
            if "\napp " in console and self._home == "/boot":
                stage = noted(files.get(STAGE_NOTE, b""), segment, None)
                if stage != rom_image(stage_files(files)):
                    raise Violated("mounted", "the boot stage ran from an image that is not right")

    def end(self) -> None:
        """The board is steady. Raises Violated."""
        scenario, record = self._scenario, self._record
        if self.postponed:
            return
        if self._running is not scenario.final:
            raise Violated("converge", f"steady on {self._running}, not on {scenario.final}")
        if record and (
            record.trial != _NONE or record.good[record.active] != scenario.final.digest
        ):
            raise Violated("converge", f"steady, but the record says {record}")
        if self._whole != [scenario.trusts] * 2:
            raise Violated("trust", f"steady with versions {self._whole}")
        # Several cuts may well cost an image its three tries; later boots go on trying, rarely.
        in_vain = self._again and any(note[-1:] == b"\3" for note in self._notes)
        if self._in_place and not in_vain and (self._root, self._home) != ("/rom", "/boot"):
            raise Violated("in place", f"app runs from {self._root}, boot stage: {self._home}")
        if scenario.setting and self._setting not in scenario.setting:
            raise Violated("settings", f"ends as {self._setting}")

    def _see_app(self, seq: int, trial: bool, tree: str) -> None:
        known = self._releases.get(seq)
        if known is None or known.tree != tree:
            raise Violated("mix", f"what runs as {seq} is not what was released")
        self._running = known
        self.ran.add(seq)
        self._tries[seq] += trial
        if self._tries[seq] > TRIES:
            raise Violated("tries", f"{seq} ran as a trial {self._tries[seq]} times")

    def _see_setting(self, value: str, trying: bool) -> None:
        if value not in ("one", "two") or (value == "one" and trying):
            raise Violated("settings", f"the value is {value}")
        lost = self._setting == "two" and value == "one" and "two" in self._scenario.setting
        # Where a write can be torn, the one that confirms takes the trial with it: the former
        # values are the safe ones then.
        if lost and (self._atomic or self._proven):
            raise Violated("settings", "a change that works is lost")
        self._setting = value
        self._proven = value == "two" and not trying
        self._tries[0] += trying
        if self._tries[0] > TRIES:
            raise Violated("settings", "a change ran on trial more than three times")

    def _see_record(self, record: Record | None) -> None:
        if record is None:
            if self._number:
                raise Violated("lost", "no copy of the record is whole")
            return
        if record.trial == record.active:
            raise Violated("whole", "the slot that runs was overwritten by a trial")
        if record.number < self._number:
            raise Violated("back", f"record {record.number} follows {self._number}")
        # Cuts may well cost a good release its tries; offered again, it has three new ones.
        if self._again and record.left == TRIES:
            self._tries.clear()
        lines = self._scenario.lines
        line = record.seq, record.floor
        if line not in lines[self._line :]:
            raise Violated("line", f"{line} after {lines[self._line]}")
        self._line = lines.index(line, self._line)
        final = self._scenario.final
        if record.good[record.active] == final.digest and not _covers(line, final.line):
            raise Violated("line", f"{line} with {final.line} confirmed")
        self._number = record.number
        self._record = record

    def _see_slot(self, slot: str, files: Mapping[str, bytes]) -> None:
        root = f"/app_slots/{slot}/"
        manifest = files.get(root + "manifest")
        if slot in self._strange:
            if manifest == self._strange[slot]:
                return
            del self._strange[slot]
        record = self._record
        named = b""
        if record and record.trial != "ab".index(slot) == record.active:
            named = record.good[record.active]
        if manifest is None:
            if named or (record and record.trial == "ab".index(slot)):
                raise Violated("whole", f"the record names slot {slot}, which has no manifest")
            return
        has = {path.removeprefix(root): data for path, data in files.items() if root in path}
        content = {name: data for name, data in has.items() if name != "manifest"}
        for known in self._releases.values():
            if known.manifest == manifest:
                if known.files != content:
                    raise Violated("whole", f"slot {slot} does not hold what its manifest lists")
                if named not in (b"", known.digest):
                    raise Violated("whole", f"slot {slot} is not what the record confirmed")
                return
        raise Violated("whole", f"slot {slot} has a manifest that nobody released")

    def _see_images(self, files: Mapping[str, bytes], segment: bytes) -> None:
        stage = rom_image(stage_files(files))
        self._notes = [files.get(path, b"") for path in _NOTE_PATHS.values()]
        self._notes = [note for note in self._notes if len(note) < _NOTED]
        for slot, path in _NOTE_PATHS.items():
            note, part = files.get(path, b""), _part(segment, slot)
            # Until its first sector is erased, a rotten image may lie there, noted or under way.
            rotten_note, rotten = self._rotten[slot]
            if part == rotten and (note == rotten_note or len(note) < _NOTED):
                continue
            right = [stage] if slot is None else self._images.values()
            if part.startswith(_MAGIC) and not any(part.startswith(image) for image in right):
                raise Violated("first", f"where {path} is about, something begins like an image")
            if len(note) < _NOTED:
                continue
            image = noted(note, segment, slot)
            if image not in right:
                raise Violated("note", f"{path} names what is not in the segment")
            digests = [r.digest for r in self._releases.values() if self._images[r.seq] == image]
            if slot is not None and note[:16] not in digests:
                raise Violated("note", f"{path} names another release's image")

    def _see_trust(self, files: Mapping[str, bytes]) -> None:
        whole = [trusts().index(f) + 1 for c in "01" if (f := files.get(f"/trust/{c}/trust"))
                 in trusts()]  # fmt: skip
        if max(whole, default=0) < max(self._trust, 1):
            raise Violated("trust", f"whole copies: {whole}, after version {self._trust}")
        self._trust = max(whole)
        self._whole = whole
        lines = self._scenario.lines
        if self._trust > 1 and _RESET not in lines[: self._line + 1]:
            raise Violated("line", f"{lines[self._line]} stands after the reset to {_RESET}")


def _covers(line: tuple[int, int], other: tuple[int, int]) -> bool:
    return line[0] >= other[0] and line[1] >= other[1]


# --- the bench ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """Where the power goes: life of the course, operation in it, half done or not at all.

    `gone`: the network is away until the app runs.
    """

    life: int
    op: int
    torn: bool = False
    gone: bool = False


@dataclass
class Tally:
    """What a sweep counts."""

    runs: int = 0
    clean: int = 0
    torn: int = 0
    lives: int = 0
    boots: int = 0
    missed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(invariant, where and what)"""

    def __iadd__(self, other: Tally) -> Tally:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass(frozen=True)
class _Step:
    """A life of the uncut course: what it began with."""

    who: board_file.Board
    start: Snapshot
    ops: int
    watch: Watch


Edits = tuple[tuple[str, str, str], ...]
"""(file of the boot stage, old text, new text)"""


def patched(edits: Edits) -> dict[str, bytes]:
    """The boot stage's files that `edits` change, as they lie on the flash."""
    sources = boot_stage.sources()
    for name, old, new in edits:
        assert sources[name].count(old) == 1, f"{name} has {sources[name].count(old)} times: {old}"
        sources[name] = sources[name].replace(old, new)
    whole = boot_stage.files()
    changed = boot_stage.compiled(sources) if edits else {}
    return {path: data for path, data in changed.items() if data != whole[path]}


class Bench:
    """A board and a server for one scenario."""

    def __init__(self, scenario: Scenario, storage: Storage, edits: Edits = ()) -> None:
        self._scenario = scenario
        self._storage: Storage = storage
        self.tally = Tally()
        self._stack = ExitStack()
        self._count = 0
        # In memory where that can be had: no disk shall be worn out by this.
        memory = Path("/dev/shm")
        folder = Path(tempfile.mkdtemp(prefix="powercut", dir=memory if memory.is_dir() else None))
        self._stack.callback(shutil.rmtree, folder)
        server = self._stack.enter_context(running(folder / "server", interval=30))
        self._fleet = fleet.Fleet(server)
        self._who = fleet.identity(self._name(), (server.url,))
        self._fleet.enrol(self._who)
        self._board = Board(
            folder / "board",
            speed=SPEED,
            blocks=BLOCKS,
            heap=HEAP,
            clock="own",
            image_lives=True,
            **_OPTIONS[storage],
        )
        self._stack.callback(self._board.close)
        self._board.radio(networks={**fleet.WIFI})
        self._start = self._prepare(edits)
        self.steps: list[_Step] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _name(self) -> str:
        self._count += 1
        return f"board-{self._count:06}"

    def _prepare(self, edits: Edits) -> Snapshot:
        """The board that has taken in its Wi-Fi and run its first release, then `tamper`."""
        first, second = self._scenario.slots
        files = provision.board_files(self._who, trusts()[0], first.bundle, fleet.WIFI)
        files |= patched(edits)
        files["/app_slots/b/manifest"] = second.manifest
        for name, content in second.files.items():
            files[f"/app_slots/b/{name}"] = content
        self._board.format(files)
        write_record(
            self._board,
            Record(1, 0, _NONE, 0, *first.line, (first.digest, second.digest)),
        )
        self._live_until_steady("app ", 6)
        if self._scenario.tamper:
            self._scenario.tamper(self._board)
        for version in trusts()[1 : self._scenario.trusts]:
            self._fleet.post("/api/trust", version)
        for offered in self._scenario.offered:
            # Each cut is another board to the server, and one that goes back is to halt nothing.
            self._fleet.publish(offered.bundle, waves=[100], tolerated=0.99, strict=False)
        return self._board.save()

    def _live_until_steady(self, ends: str, most: int) -> None:
        for _ in range(most):
            if ends in self._board.life(until=ends, timeout=SECONDS).console:
                return
        raise Violated("converge", "the board does not even start")

    def _begin(self, who: board_file.Board, start: Snapshot) -> board_file.Board:
        """Put back the board `who`, as one that the server has not met: it remembers refusals."""
        new = replace(who, id=self._name())
        old_file, new_file = who.encode(), new.encode()
        count = sum(data.count(old_file) for data in start.flash.values())
        assert count >= 2, "the board file is not where it is looked for"
        flash = {path: data.replace(old_file, new_file) for path, data in start.flash.items()}
        self._board.restore(replace(start, flash=flash))
        self._fleet.enrol(new)
        if self._scenario.order:
            self._live_until_steady("steady", 6)
            self._fleet.post(f"/api/boards/{new.id}/orders", json={"order": "rollback"})
        return new

    def _life(self, watch: Watch, cut: Cut | None = None, gone: bool = False) -> tuple[str, str]:
        """One life under watch; its cause and console."""
        board = self._board
        at = len(board.console)
        ends = self._scenario.ends

        def until(_: VirtualBoard) -> bool:
            text = board.console[at:]
            if gone and ("app " in text or "recovery:" in text):
                board.radio(up=True)
            return ends in text

        board.radio(up=not gone)
        life = board.life(
            cut=cut.op if cut else None,
            torn=bool(cut and cut.torn),
            timeout=SECONDS,
            until=until,
        )
        self.tally.lives += 1
        self.tally.boots += "\napp " in "\n" + life.console
        watch.see(life.console, board.files(), board.segment)
        if life.cause == "killed" and ends not in life.console:
            raise Violated("converge", f"hangs after {life.console[-200:]!r}")
        return life.cause, life.console

    def _settle(self, watch: Watch, gone: bool = False) -> None:
        for _ in range(self._scenario.lives):
            _, console = self._life(watch, gone=gone)
            gone = gone and "app " not in console and "recovery:" not in console
            if self._scenario.ends in console:
                watch.end()
                return
        raise Violated("converge", f"not steady after {self._scenario.lives} lives")

    def course(self) -> list[int]:
        """Run it whole; the flash operations of each life. Raises Violated."""
        self.tally.runs += 1
        who = self._begin(self._who, self._start)
        watch = Watch(self._scenario, self._storage)
        watch.start(self._board.files(), self._board.segment)
        self.steps = []
        for _ in range(self._scenario.lives):
            start, before = self._board.save(), copy.deepcopy(watch)
            _, console = self._life(watch)
            self.steps.append(_Step(who, start, self._board.lives[-1].ops, before))
            if self._scenario.ends in console:
                watch.end()
                if (
                    missing := {r.seq for r in self._scenario.offered}
                    - {r.seq for r in self._scenario.slots}
                    - watch.ran
                ):
                    raise Violated("converge", f"{missing} never ran")
                return [step.ops for step in self.steps]
        raise Violated("converge", f"not steady after {self._scenario.lives} lives")

    def cuts(self) -> Iterator[Cut]:
        """Every cut that there is in the course."""
        if not self._scenario.cut:
            return
        for life, step in enumerate(self.steps):
            for op in range(1, step.ops + 1):
                yield Cut(life, op)
                yield Cut(life, op, torn=True)
                if self._scenario.gone and op % _GONE == 1:
                    yield Cut(life, op, torn=op % (2 * _GONE) == 1, gone=True)

    def run(self, cut: Cut) -> None:
        """The course with that cut. Raises Violated."""
        self.tally.runs += 1
        # Orders are the server's memory of this very board, so that course begins anew.
        first = 0 if self._scenario.order else cut.life
        step = self.steps[first]
        self._begin(step.who, step.start)
        watch = copy.deepcopy(step.watch)
        for _ in range(first, cut.life):
            self._life(watch)
        cause, console = self._life(watch, cut)
        if not self._count_cut(cause, cut):
            self.tally.missed += 1
        if self._scenario.ends in console:
            watch.end()
            return
        self._settle(watch, cut.gone)

    def random_life(self, seed: int) -> None:
        """Some releases one after the other, good and bad, up to three cuts in each's course."""
        self.tally.runs += 1
        chance = random.Random(seed)
        self._begin(self._who, self._start)
        watch = Watch(self._scenario, self._storage, again=True)
        watch.start(self._board.files(), self._board.segment)
        for n in range(chance.randint(2, 4)):
            former = self._scenario.final
            offered = release(1002 + n, 1001 + n, chance.choice((GOOD, GOOD, CRASHES)))
            # Each cut is another board to the server, and one that goes back is to halt nothing.
            self._fleet.publish(offered.bundle, waves=[100], tolerated=0.99, strict=False)
            self._scenario = replace(self._scenario, offered=(offered,))
            if offered.behaviour is GOOD:
                lines = (*self._scenario.lines, offered.line)
                self._scenario = replace(self._scenario, final=offered, lines=lines)
            watch.aim(self._scenario)
            struck = False
            for _ in range(chance.randint(1, 3)):
                # Cuts fall where the flash is written, mostly: in the install.
                cut = Cut(0, chance.randint(1, chance.choice((2, 10, 100))), chance.random() < 0.5)
                for _ in range(chance.randint(1, 4)):
                    struck = self._count_cut(self._life(watch, cut)[0], cut)
                    if struck:
                        break
            # Only after a cut: an install that finds no network is put off, rightly.
            self._settle(watch, gone=struck and chance.random() < 0.3)
            if watch.postponed:
                self._scenario = replace(self._scenario, final=former)

    def _count_cut(self, cause: str, cut: Cut) -> bool:
        if cause != "cut":
            return False
        if cut.torn:
            self.tally.torn += 1
        else:
            self.tally.clean += 1
        return True


# --- sweeps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A share of a scenario's cuts: every `parts`th, or a sample of them; or one random life."""

    scenario: str
    storage: Storage
    part: int = 0
    parts: int = 1
    sample: int | None = None
    seed: int = 0
    edits: Edits = ()
    first: bool = False
    """Stop at the first failure."""


RANDOM = "random lives"


def work(job: Job) -> tuple[Job, Tally]:
    """Do a job; what it counts, failures included."""
    try:
        return job, _random_life(job) if job.scenario == RANDOM else _sweep(job)
    except Violated as violated:
        return job, Tally(
            failures=[(violated.invariant, f"{job.scenario}, first life: {violated}")]
        )


def _sweep(job: Job) -> Tally:
    with Bench(scenario(job.scenario), job.storage, job.edits) as bench:
        try:
            ops = bench.course()
            if job.part == 0 and not job.edits and bench.course() != ops:
                raise Violated("course", f"{ops} operations, then {bench.steps}")
        except Violated as violated:
            bench.tally.failures.append((violated.invariant, f"{job.scenario}, uncut: {violated}"))
            return bench.tally
        cuts = list(bench.cuts())[job.part :: job.parts]
        if job.sample is not None:
            chance = random.Random(f"{job.scenario} {job.storage} {job.seed}")
            cuts = chance.sample(cuts, min(job.sample, len(cuts)))
        for cut in cuts:
            try:
                bench.run(cut)
            except Violated as violated:
                where = f"{job.scenario}, {job.storage}, {cut}: {violated}"
                bench.tally.failures.append((violated.invariant, where))
                if job.first:
                    break
        return bench.tally


def _random_life(job: Job) -> Tally:
    home = release(1001, 950)
    start = Scenario(RANDOM, (home, release(1000, 900)), (), home, (home.line,), lives=40)
    with Bench(start, job.storage) as bench:
        try:
            bench.random_life(job.seed)
        except Violated as violated:
            where = f"{RANDOM}, {job.storage}, seed {job.seed}: {violated}"
            bench.tally.failures.append((violated.invariant, where))
        return bench.tally


def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, Tally]]:
    """Do the jobs, in two processes, as they come."""
    for name in ("root", "release", "release2"):
        fleet.key(name)
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        yield from pool.imap_unordered(work, jobs)


Row = dict[tuple[str, str], Tally]


def collect(done: Iterable[tuple[Job, Tally]]) -> Row:
    """Sums by scenario and storage."""
    rows: Row = {}
    for job, tally in done:
        name = "record rots" if job.scenario.startswith("record rots") else job.scenario
        row = rows.setdefault((name, job.storage), Tally())
        row += tally
    return rows


def table(rows: Row) -> str:
    """The counts for people, failures below."""
    head = ("scenario", "storage", "runs", "clean", "torn", "lives", "boots", "missed", "failures")
    lines = ["{:41}{:15}{:>7}{:>7}{:>7}{:>8}{:>8}{:>8}{:>9}".format(*head)]
    total = Tally()
    for (name, storage), tally in sorted(rows.items()):
        lines.append(_line(name, storage, tally))
        total += tally
    lines.append(_line("all", "", total))
    lines += [f"{invariant}: {where}" for invariant, where in total.failures]
    return "\n".join(lines)


def _line(name: str, storage: str, t: Tally) -> str:
    return (
        f"{name:41}{storage:15}{t.runs:7}{t.clean:7}{t.torn:7}{t.lives:8}{t.boots:8}"
        f"{t.missed:8}{len(t.failures):9}"
    )


_PARTS_EACH = 4
_RANDOM_LIVES = 200


def random_jobs(seeds: Iterable[int]) -> list[Job]:
    """Random lives, on each storage in turn."""
    return [Job(RANDOM, STORAGES[seed % len(STORAGES)], seed=seed) for seed in seeds]


def storages(name: str) -> tuple[Storage, ...]:
    """Where the scenario of that name is run."""
    its = scenario(name)
    return its.storages if its.cut else its.storages[:1]


def everything() -> list[Job]:
    """Every cut of every scenario on each storage, and random lives."""
    jobs = [
        Job(name, storage, part, parts)
        for name in names()
        for storage in storages(name)
        for parts in (_PARTS_EACH if scenario(name).cut else 1,)
        for part in range(parts)
    ]
    return jobs + random_jobs(range(_RANDOM_LIVES))


def main(words: Sequence[str]) -> int:
    """Cut everywhere; 1 when an invariant failed."""
    parser = argparse.ArgumentParser(prog="powercut", description=main.__doc__)
    parser.add_argument("--scenario", action="append", help="only this one (several times)")
    parser.add_argument("--storage", action="append", choices=STORAGES, help="likewise")
    parser.add_argument("--json", type=Path, help="also write the counts there")
    given = parser.parse_args(words)
    jobs = [
        job
        for job in everything()
        if (not given.scenario or job.scenario in given.scenario)
        and (not given.storage or job.storage in given.storage)
    ]
    began = time.monotonic()
    done = []
    for n, (job, tally) in enumerate(run(jobs), 1):
        done.append((job, tally))
        seconds = time.monotonic() - began
        done_so_far = f"{seconds:6.0f} s  {n}/{len(jobs)}"
        print(f"{done_so_far}  {job.scenario}, {job.storage}: {tally.runs} runs", flush=True)
        for invariant, where in tally.failures:
            print(f"FAILED {invariant}: {where}", flush=True)
    rows = collect(done)
    print(table(rows))
    print(f"{time.monotonic() - began:.0f} s")
    if given.json:
        given.json.write_text(
            json.dumps([{"scenario": s, "storage": k, **vars(t)} for (s, k), t in rows.items()])
        )
    return int(any(tally.failures for tally in rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
