"""`make offline`: what it collects sets the project up without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.tools import console, offline, places
from mipy_ota.tools.console import Failure
from mipy_ota.tools.flash import download
from tests.support import stock
from tests.usb.test_flash import loader

NOWHERE = "http://127.0.0.1:9"
PINS = download.pins()._replace(source=f"{NOWHERE}/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is collected where one firmware was put into the cache, and no other can be had."""
    made = tmp_path_factory.mktemp("stick") / "classroom"
    home = tmp_path_factory.mktemp("cache")
    shutil.copytree(places.cache(), home / "mipy-ota", ignore=offline._NOT_KEPT, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setattr(download, "pins", lambda: PINS)
        kept = download.cached("ESP32_GENERIC")
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(stock.path("esp32"), kept)
        offline.collect(made)
    yield made


def cut_off(home: Path) -> dict[str, str]:
    """An environment whose every way to a package leads nowhere, with an empty cache."""
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "PYENV_ROOT") if name in os.environ}
    return keep | {
        "HOME": str(home),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NOWHERE,
        "PIP_RETRIES": "0",
        "PIP_COMPILE": "0",  # most of what is installed is never run
        "npm_config_registry": NOWHERE,
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
    }


def without_network() -> list[str]:
    """Words before a command that leave it no network at all, where the system allows that."""
    words = ["unshare", "--map-root-user", "--net", "--"]
    tried = (
        subprocess.run([*words, "true"], capture_output=True) if shutil.which("unshare") else None
    )
    return words if tried and not tried.returncode else []


@pytest.mark.timeout(900)
def test_set_up_and_build_without_a_network(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved, symlinks=True)
    home = tmp_path / "home"
    home.mkdir()
    environment = cut_off(home)

    def run(*command: str) -> str:
        done = subprocess.run(
            [*without_network(), *command],
            cwd=moved, env=environment, capture_output=True, text=True, timeout=800,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "MicroPython" in run("make", "setup", f"PYTHON={sys.executable}")
    mipy = str(moved / ".venv" / "bin" / "mipy")
    assert ".ota" in run(mipy, "build", "app_slots", "--class", "esp8266-generic")
    run(str(moved / ".venv" / "bin" / "python"), "-m", "esptool", "version")
    assert (moved / offline.STATIC / "esptool.js").exists()
    assert next((home / ".cache" / "mipy-ota").glob("micropython-*")).is_dir()

    # A board's chip is asked, its firmware comes from the folder, and the whole flash is made.
    run(mipy, "keys", "new")
    run(mipy, "build", "app_slots", "--class", "esp32-generic")
    (bundle,) = (moved / "build").glob("*esp32-generic*.ota")
    run(mipy, "sign", str(bundle))
    words = ("--name", "desk", "--server", "http://192.0.2.7:8266", "--release", str(bundle))
    with loader(tmp_path / "rom", "esp32") as board:
        said = run(mipy, "flash", board.port, *words, "--image", str(tmp_path / "whole.bin"))
    assert "the whole flash of desk" in said
    whole = (tmp_path / "whole.bin").read_bytes()
    assert whole[0x1000:].startswith(stock.path("esp32").read_bytes())


def test_firmware_that_cannot_be_fetched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "pins", lambda: PINS)
    kept = download.cached("ESP32_GENERIC_C3")
    kept.parent.mkdir(parents=True)
    shutil.copy(stock.path("esp32c3"), kept)
    shutil.copy(stock.path("esp32c3"), download.cached("ESP32_GENERIC"))
    console._consoles.clear()
    offline._firmware()
    said = capsys.readouterr().err
    for build in offline.FIRMWARE:
        named = f"without the firmware {build}:" in said
        assert named == (build != "ESP32_GENERIC_C3"), said
        assert (str(download.cached(build)) in said) == named
    assert download.fetch("ESP32_GENERIC_C3").chip == "esp32c3"


def test_folder_holds_the_project_and_no_secret(folder: Path) -> None:
    assert (folder / "Makefile").exists() and not (folder / ".git").exists()
    names = {path.name for path in folder.rglob("*")}
    assert not {name for name in names if name.endswith(".pem") and "cacert" not in name}
    assert not {".venv", "token"} & names


def test_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(Failure, match="exists"):
        offline.collect(tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


def test_no_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cut_off(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setattr(offline, "LOCKS", ("requirements-stubs.lock",))
    with pytest.raises(Failure, match="cannot be fetched"):
        offline.collect(tmp_path / "new")
    assert not (tmp_path / "new").exists() and not (tmp_path / ".new.part").exists()


@pytest.mark.parametrize(
    ("pyproject", "wanted"),
    [
        (b'[build-system]\nrequires = ["hatchling"]\n', ["hatchling"]),
        (b"[tool.x]\n", ["setuptools", "wheel"]),
        (None, ["setuptools", "wheel"]),
    ],
)
def test_what_a_source_package_is_built_with(
    tmp_path: Path, pyproject: bytes | None, wanted: list[str]
) -> None:
    inside = tmp_path / "x-1"
    inside.mkdir()
    (inside / "setup.cfg").write_bytes(b"")
    if pyproject is not None:
        (inside / "pyproject.toml").write_bytes(pyproject)
    sdist = tmp_path / "x-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as packed:
        packed.add(inside, "x-1")
    assert offline._builds_with(sdist) == wanted


def test_make_asks_for_a_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mipy_ota.tools.offline", ""], capture_output=True, text=True
    )
    assert done.returncode == 2 and "make offline DIR=" in done.stderr
