"""Where the file system is, against stock firmware and documented values."""

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mipy_ota.tools.flash import firmware, image, layout
from mipy_ota.tools.flash.firmware import BadFirmware
from mipy_ota.tools.flash.layout import BLOCK, BadLayout, Place
from tests.support import stock

KB, MB = 1024, 1024 * 1024
FILES = {"/boot.py": b"print(1)\n", "/app_slots/a/main.mpy": bytes(range(256)) * 40}

# As documented for the stock builds: variant, flash -> first byte, blocks.
ESP8266 = [
    ("", 4 * MB, 0x100000, 763),
    ("", 2 * MB, 0x100000, 251),
    ("", 16 * MB, 0x100000, 3835),
    ("FLASH_2M_ROMFS", 4 * MB, 0x100000, 763),
    ("FLASH_2M_ROMFS", 2 * MB, 0x100000, 251),
    ("FLASH_1M", 1 * MB, 0x99000, 98),
    ("FLASH_1M", 4 * MB, 0x99000, 866),
]
ESP32 = [
    ("esp32", 4 * MB, 0x200000, 512),
    ("esp32", 8 * MB, 0x200000, 1536),
    ("esp32", 16 * MB, 0x200000, 3584),
    ("esp32c3", 4 * MB, 0x200000, 512),
    ("esp32c6", 4 * MB, 0x200000, 512),
    ("esp32s2", 4 * MB, 0x200000, 512),
    ("esp32s3", 8 * MB, 0x200000, 1536),
    # Before 1.26 the table has a row of fixed size, whatever the chip has.
    ("esp32s3 1.24.1", 4 * MB, 0x200000, 512),
    ("esp32s3 1.24.1", 8 * MB, 0x200000, 512),
]


def table(*rows: tuple[int, int, int, int, str], md5: bool = True) -> bytes:
    """A partition table of (type, subtype, offset, size, label)."""
    raw = b"".join(
        struct.pack("<2sBBII16sI", b"\xaa\x50", kind, sub, at, size, label.encode(), 0)
        for kind, sub, at, size, label in rows
    )
    if md5:
        raw += b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(raw).digest()
    return raw.ljust(0xC00, b"\xff")


NVS = (1, 2, 0x9000, 0x6000, "nvs")
APP = (0, 0, 0x10000, 0x1F0000, "factory")
VFS = (1, 0x81, 0x200000, 0x200000, "vfs")


# --- ESP8266


@pytest.mark.parametrize(("variant", "flash", "offset", "blocks"), ESP8266)
@pytest.mark.parametrize("named", [True, False])
def test_esp8266(variant: str, flash: int, offset: int, blocks: int, named: bool) -> None:
    found = firmware.parse(stock.esp8266(variant, named=named))
    assert (found.chip, found.variant) == ("esp8266", variant)
    assert found.place(flash) == Place(offset, blocks)
    assert found.place(flash).offset + found.place(flash).size <= flash - 20 * KB


@pytest.mark.parametrize(("flash", "nibble"), [(1 * MB, 2), (2 * MB, 3), (4 * MB, 4), (16 * MB, 9)])
def test_esp8266_header_tells_the_flash_size(flash: int, nibble: int) -> None:
    raw = stock.esp8266("FLASH_1M")
    written = firmware.parse(raw).on(flash)
    assert written.data[3] == nibble << 4
    assert (written.data[:3], written.data[4:]) == (raw[:3], raw[4:])
    assert firmware.parse(written.data) == written, "its MD5 does not cover the header"


@pytest.mark.parametrize(
    ("variant", "flash"), [("", 1 * MB), ("", 512 * KB), ("FLASH_512K", 4 * MB), ("FLASH_1M", KB)]
)
def test_esp8266_without_room(variant: str, flash: int) -> None:
    with pytest.raises(BadLayout):
        firmware.parse(stock.esp8266(variant)).place(flash)


def test_size_of_a_file_system_by_its_first_blocks() -> None:
    """Also where one of the two copies is torn."""
    head = image.build({"/main.py": b"x" * 5000}, 251)[: 2 * image.BLOCK]
    gone = b"\xff" * image.BLOCK
    assert image.blocks(head) == 251
    assert image.blocks(gone + head[image.BLOCK :]) == 251
    assert image.blocks(head[: image.BLOCK] + gone) == 251
    assert image.blocks(2 * gone) is None
    other = head[:24] + (512).to_bytes(4, "little") + head[28:]
    assert image.blocks(other) is None, "no chip mounts blocks of 512 bytes"


# --- ESP32 and relatives, stock files


@pytest.mark.parametrize(("name", "flash", "offset", "blocks"), ESP32)
def test_stock_esp32(name: str, flash: int, offset: int, blocks: int) -> None:
    found = firmware.load(stock.path(name))
    assert found.chip == name.split()[0]
    assert found.place(flash) == Place(offset, blocks)
    assert found.on(flash) is found


def test_stock_versions() -> None:
    assert firmware.load(stock.path("esp32")).version == (1, 27, 0)
    assert firmware.load(stock.path("esp32s3 1.24.1")).version == (1, 24, 1)
    assert firmware.load(stock.path("esp32")).offset == 0x1000
    assert firmware.load(stock.path("esp32c3")).offset == 0
    with pytest.raises(BadFirmware, match=r"1\.21\.0 is too old"):
        firmware.parse(stock.path("esp32 1.21.0").read_bytes())


@pytest.mark.parametrize("at", [0x8000, 0x12345, -40])
def test_one_wrong_byte_is_found(at: int) -> None:
    for name in ("esp32", "esp32c3"):
        raw = bytearray(stock.path(name).read_bytes())
        raw[at] ^= 0x10
        if at == 0x8000:
            if name == "esp32":
                continue  # there its table lies at 0x7000
            with pytest.raises(BadLayout):
                firmware.parse(bytes(raw)).place(4 * MB)
        else:
            with pytest.raises(BadFirmware, match="damaged"):
                firmware.parse(bytes(raw))
    raw = bytearray(stock.esp8266())
    raw[at % 0x90000] ^= 1
    with pytest.raises(BadFirmware, match="damaged"):
        firmware.parse(bytes(raw))


@pytest.mark.parametrize("size", [0x7000, 0x20000, 0x100000, 1759455])
def test_a_cut_image_is_found(size: int) -> None:
    with pytest.raises(BadFirmware):
        firmware.parse(stock.path("esp32").read_bytes()[:size])


@given(st.binary(max_size=3000))
def test_anything_else_is_no_firmware(data: bytes) -> None:
    with pytest.raises(BadFirmware):
        firmware.parse(b"\xe9" + data * 40)


# --- partition tables


def test_rows() -> None:
    assert [row.label for row in layout.partitions(table(NVS, APP, VFS))] == [
        "nvs",
        "factory",
        "vfs",
    ]
    assert layout.esp32(table(NVS, APP, VFS), 4 * MB, grows=False) == Place(0x200000, 512)
    assert layout.esp32(table(NVS, APP, VFS, md5=False), 4 * MB, grows=True).blocks == 512
    d2wd = (1, 0x81, 0x170000, 0x90000, "vfs")
    app = (0, 0, 0x10000, 0x160000, "factory")
    assert layout.esp32(table(NVS, app, d2wd), 2 * MB, grows=False) == Place(0x170000, 144)


@pytest.mark.parametrize("grows", [False, True])
def test_firmware_with_fat_is_refused(grows: bool) -> None:
    """Its blocks have 512 bytes, and no LittleFS of ours would ever mount there."""
    fat = (1, 0x81, 0x200000, 0x200000, "ffat")
    with pytest.raises(BadLayout, match="FAT"):
        layout.esp32(table(NVS, APP, fat), 4 * MB, grows=grows)
    assert layout.esp32(table(NVS, APP, (*VFS[:2], 0x200000, 0x100000, "vfs"),
                              (*VFS[:2], 0x300000, 0x100000, "ffat")), 4 * MB, grows=grows) == (
        Place(0x200000, 256)
    )  # fmt: skip


def test_two_app_slots_end_where_the_last_one_ends() -> None:
    ota = [(0, 0x10, 0x10000, 0x180000, "ota_0"), (0, 0x11, 0x190000, 0x180000, "ota_1")]
    assert layout.esp32(table(NVS, *ota), 4 * MB, grows=True) == Place(0x310000, 240)
    assert layout.esp32(table(NVS, *reversed(ota)), 4 * MB, grows=True) == Place(0x310000, 240)


@pytest.mark.parametrize(
    ("raw", "flash", "why"),
    [
        (b"", 4 * MB, "no partition table"),
        (b"\xff" * 0xC00, 4 * MB, "no partition table"),
        (bytes(0xC00), 4 * MB, "no partition table"),
        (table(NVS, APP).replace(b"nvs", b"nvx"), 4 * MB, "MD5"),
        (table(NVS, (0, 0, 0xE000, 0x1000, "factory")), 4 * MB, "overlap"),
        (table(NVS, APP), 2 * MB, "ends at 0x200000"),
        (table(NVS, APP, VFS), 2 * MB, "ends at 0x200000"),
        (table(NVS, APP), 2 * MB + BLOCK, "ends at"),
    ],
)
def test_tables_without_a_place(raw: bytes, flash: int, why: str) -> None:
    with pytest.raises(BadLayout, match=why):
        layout.esp32(raw, flash, grows=True)


def test_firmware_that_makes_no_partition_needs_a_row() -> None:
    with pytest.raises(BadLayout, match="no row"):
        layout.esp32(table(NVS, APP), 4 * MB, grows=False)


# --- what has to be written


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 9))
def test_runs_hold_everything_that_is_not_blank(used: list[bool], gap: int) -> None:
    blank = b"\xff" * BLOCK
    raw = b"".join(bytes([at]) * BLOCK if one else blank for at, one in enumerate(used))
    flash = bytearray(b"\xff" * len(raw))
    last = -BLOCK * 99
    for at, part in layout.runs(raw, gap):
        assert at - last > gap * BLOCK
        assert part[:BLOCK] != blank
        assert part[-BLOCK:] != blank
        flash[at : at + len(part)] = part
        last = at + len(part)
    assert flash == raw


# --- as the firmware mounts it

MOUNT = """
import os, sys, vfs
class Flash:
    def __init__(self, path, offset, blocks):
        self.file, self.offset, self.blocks = open(path, "rb"), offset, blocks
    def readblocks(self, n, buf, off=0):
        self.file.seek(self.offset + n * 4096 + off)
        self.file.readinto(buf)
    def writeblocks(self, n, buf, off=None):
        return -5
    def ioctl(self, op, arg):
        return self.blocks if op == 4 else 4096 if op == 5 else 0
path, offset, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for wrong in (-1, 1):
    try:
        vfs.mount(Flash(path, offset, blocks + wrong), "/wrong")
        print("mounts", wrong)
    except OSError:
        print("refused", wrong)
vfs.mount(Flash(path, offset, blocks), "/flash")
print(os.statvfs("/flash")[:3], len(open("/flash/app_slots/a/main.mpy", "rb").read()))
"""


@pytest.mark.parametrize(
    ("raw", "flash"),
    [
        ("FLASH_1M", 1 * MB),
        ("", 4 * MB),
        ("esp32", 4 * MB),
        ("esp32c3", 4 * MB),
        ("esp32s3", 8 * MB),
        ("esp32s3 1.24.1", 8 * MB),
    ],
)
def test_micropython_mounts_it(mpy: list[str], tmp_path: Path, raw: str, flash: int) -> None:
    """And at one block more or less it does not, which on a board would be for ever."""
    stocked = raw in stock.SUMS
    found = firmware.load(stock.path(raw)) if stocked else firmware.parse(stock.esp8266(raw))
    place = found.place(flash)
    whole = bytearray(b"\xff" * flash)
    whole[place.offset : place.offset + place.size] = image.build(FILES, place.blocks)
    (tmp_path / "flash").write_bytes(whole)
    (tmp_path / "mount.py").write_text(MOUNT)
    words = [str(tmp_path / "mount.py"), str(tmp_path / "flash"), str(place.offset)]
    done = subprocess.run(
        [*mpy, *words, str(place.blocks)], capture_output=True, text=True, timeout=60
    )
    mounted = f"(4096, 4096, {place.blocks}) {len(FILES['/app_slots/a/main.mpy'])}"
    assert done.stdout.splitlines() == ["refused -1", "refused 1", mounted], done.stderr
