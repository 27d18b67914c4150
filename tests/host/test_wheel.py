"""The wheel takes one name in site-packages, carries the device sources, and works elsewhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

PARTS = ("mipy_ota", "signing", "tools", "ota_server", "bootloader", "app_slots", "examples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves nothing in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(source)],
        check=True,
        timeout=120,
    )
    return next(folder.glob("mipy_ota-*.whl"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_one_name_at_top_level(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mipy_ota"}


def test_every_source_is_inside(wheel: Path) -> None:
    inside = set(names(wheel))
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", *PARTS],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    wanted = {
        path if path.startswith("mipy_ota/") else f"mipy_ota/{path}"
        for path in tracked
        if path and (ROOT / path).exists() and not (ROOT / path).is_symlink()
    }
    assert wanted - inside == set()
    assert "mipy_ota/bootloader/main.py" in inside
    assert "mipy_ota/app_slots/main.py" in inside


def test_no_secret_and_no_cache_inside(wheel: Path) -> None:
    for name in names(wheel):
        assert not name.endswith((".pem", ".pyc", "wifi.json", "webrepl_cfg.py")), name


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Dependencies come from here (they are locked, and need no network); mipy_ota does not."""
    venv = tmp_path / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60
    )
    python = venv / "bin" / "python"
    site = next((venv / "lib").glob("python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python),
         "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True, timeout=120,
    )  # fmt: skip
    # A .pth line adds the path but does not read the .pth files there, so not the checkout's.
    (site / "dependencies.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "from mipy_ota.tools import places; print(places.sources('bootloader'))"
    assert Path(run(str(python), "-c", where).strip()) == site / "mipy_ota" / "bootloader"
    shown = run(str(venv / "bin" / "mipy"), "--help")
    for verb in ("new", "keys", "build", "sign", "release", "serve", "sim", "boards", "status"):
        assert f"\n  {verb} " in shown
    assert list(elsewhere.iterdir()) == []
