"""What a first flash costs: in one go, and file by file over the REPL as people do it by hand.

Counted are the bytes that cross the cable, both ways, and from them the time they take there (ten
bits a byte). Erasing and programming the flash comes on top, for both alike.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from mipy_ota.tools import places
from mipy_ota.tools.app import build
from mipy_ota.tools.board.remote import Remote
from mipy_ota.tools.board.repl import BAUD, Repl, Serial
from mipy_ota.tools.flash import chip, firmware, plan, provision
from mipy_ota.tools.keys import sign
from mipy_ota.tools.sim.port import Port
from tests.support import fleet, stock
from tests.support.boards import Board

BITS = 10


class Counted:
    """A serial port that counts."""

    def __init__(self, stream: Serial) -> None:
        self._stream = stream
        self.up = self.down = self.turns = 0

    def read(self, timeout: float) -> bytes:
        """See `repl.Stream`."""
        data = self._stream.read(timeout)
        self.down += len(data)
        return data

    def write(self, data: bytes) -> None:
        """See `repl.Stream`."""
        self.up += len(data)
        self.turns += 1
        self._stream.write(data)

    def fileno(self) -> int:
        """See `repl.Stream`."""
        return self._stream.fileno()

    def close(self) -> None:
        """See `repl.Stream`."""
        self._stream.close()


def files_of(release: bytes) -> dict[str, bytes]:
    """Everything that is on a new ESP32's file system."""
    who = fleet.identity(servers=("http://192.0.2.7:8266",))
    return provision.board_files(who, fleet.first_trust(), release, {"home": secrets.token_hex(8)})


def in_one_go(folder: Path, parts: list[tuple[int, bytes]]) -> tuple[int, int]:
    """Bytes up and down of esptool, for `parts`."""
    words = ["-m", "tests.support.rom", "esp32", "4", str(folder)]
    with subprocess.Popen([sys.executable, *words]) as process:
        try:
            while not (folder / "port").is_symlink():
                time.sleep(0.05)
            chip.write(str(folder / "port"), parts, lambda done: None)
            while not (folder / "flash.bin").exists():
                time.sleep(0.05)
        finally:
            process.kill()
    up, down = (folder / "wire").read_text().split()
    return int(up), int(down)


def one_by_one(folder: Path, files: dict[str, bytes]) -> tuple[int, int, int]:
    """Bytes up and down, and commands, of writing `files` over the REPL."""
    with Board(folder, "esp32") as board, Port(board) as port:
        board.format({})
        board.start(port.hear)
        with closing(Counted(Serial(port.path))) as line:
            repl = Repl(line, "the board")
            repl.enter()
            remote = Remote(repl)
            for path, content in files.items():
                folder_of = path.rpartition("/")[0]
                if folder_of:
                    remote.folder(folder_of.encode())
                remote.write(path.encode(), content)
        board.stop()
        assert board.files() == files
    return line.up, line.down, line.turns


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    made = build.assemble(places.sources("app_slots"), "esp32-generic", 5)
    files = files_of(sign.sign_bundle(made.bundle, fleet.key("release")))
    image = firmware.load(stock.path("esp32"))
    place = image.place(4 << 20)
    system = plan._system(files, place)
    whole = plan.Plan(fleet.identity(), image, 4 << 20, place, files, system)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        for what, parts in (
            ("firmware and files in one go", whole.parts),
            ("firmware alone", whole.parts[:1]),
        ):
            (folder / what).mkdir()
            up, down = in_one_go(folder / what, parts)
            rows.append((what, chip.FAST, up, down, "-"))
        up, down, turns = one_by_one(folder / "repl", files)
        rows.append(("files one by one over the REPL", BAUD, up, down, turns))
    print(
        f"{len(files)} files of {sum(map(len, files.values()))} bytes; firmware {len(image.data)}"
    )
    print(f"{'':32}{'bit/s':>8}{'bytes up':>10}{'down':>8}{'writes':>8}{'s on the cable':>16}")
    for what, baud, up, down, turns in rows:
        seconds = (up + down) * BITS / baud
        print(f"{what:32}{baud:>8}{up:>10}{down:>8}{turns:>8}{seconds:>16.1f}")


if __name__ == "__main__":
    main()
