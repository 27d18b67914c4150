"""`make offline DIR=...`: the project and all that it needs from the network, in one folder.

For a classroom, or a workshop without a line: on a computer of the same kind, with the same
Python, `make setup` in that folder needs no network, and neither do building and flashing after
it. Makefile takes what lies in `offline/`: wheels, and what goes into the cache folder (a
MicroPython to run on, firmware for the usual boards).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from . import console, places
from .console import Failure
from .flash import builds, download
from .sim import micropython, umqtt

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements-dev.lock", "requirements-stubs.lock")
STATIC = "ota_server/static"
_CHIPS = (("esp8266", 4), ("esp8266", 1), ("esp32", 4), ("esp32c3", 4), ("esp32s3", 8))
FIRMWARE = tuple(builds.for_chip(chip, megabytes << 20) for chip, megabytes in _CHIPS)
"""The builds that `mipy flash` takes for what boards in a classroom have."""
_NOT_KEPT = shutil.ignore_patterns("lock", ".*", "sim", "build")
"""Of the cache: what holds only while a process runs, and what is made again in a second."""


def collect(target: Path) -> None:
    """Fill the folder `target`, which is made.

    Raises:
        Failure: it exists, this is not a checkout, or something cannot be fetched.
    """
    if target.exists():
        raise Failure(f"{target} exists", "name a folder that does not")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with console.busy("copying the project"):
            _project(part)
        with console.busy("fetching the locked packages"):
            _wheels(part / "offline" / "wheels")
        micropython.interpreter()
        if umqtt.source() is None:
            raise Failure("umqtt.simple cannot be fetched", "check the network and run it again")
        _firmware()
        _cache(part / "offline" / "cache")
        part.rename(target)
    except OSError as problem:
        raise Failure(f"cannot fill {target}: {problem}", "name another folder") from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _project(target: Path) -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{ROOT} is no git checkout", "run it in one")
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    if (ROOT / STATIC / ".ready").exists():
        shutil.copytree(ROOT / STATIC, target / STATIC)
    else:
        console.warn("the server's pages lack flasher and terminal: install npm, `make setup`")


def _wheels(target: Path) -> None:
    """Packages as the locks have them, and what those that come as sources are built with."""
    for lock in LOCKS:
        _pip(target, "--require-hashes", "-r", str(ROOT / lock), *_no_deps(lock))
    needed = sorted({one for sdist in target.glob("*.tar.gz") for one in _builds_with(sdist)})
    if needed:
        _pip(target, "--only-binary=:all:", *needed)


def _no_deps(lock: str) -> list[str]:
    return ["--no-deps"] if "stubs" in lock else []


def _builds_with(sdist: Path) -> list[str]:
    """What a source package asks for in its pyproject.toml (PEP 518)."""
    with tarfile.open(sdist) as packed:
        found = [one for one in packed.getnames() if one.count("/") == 1]
        name = next((one for one in found if one.endswith("/pyproject.toml")), None)
        file = packed.extractfile(name) if name else None
        table = tomllib.loads(file.read().decode()) if file else {}
    return table.get("build-system", {}).get("requires", ["setuptools", "wheel"])


def _pip(target: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    done = subprocess.run([*command, "--dest", str(target), *words], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Failure(
            f"packages cannot be fetched: {(lines or [done.stderr.strip()[-200:]])[0]}",
            "check the network and run it again",
        )


def _firmware() -> None:
    """Have the stock firmware of the usual chips in the cache; say which is not to be had."""
    for build in FIRMWARE:
        try:
            download.fetch(build)
        except Failure as failure:
            console.warn(f"without the firmware {build}: {failure.text}")
            console.note(f"download it elsewhere, put it at {download.cached(build)}, run it again")


def _cache(target: Path) -> None:
    shutil.copytree(places.cache(), target, ignore=_NOT_KEPT, symlinks=True)


def main() -> int:
    """Collect into the folder that the command line names."""
    if len(sys.argv) != 2 or not sys.argv[1]:
        console.error("into which folder?", "make offline DIR=/path/to/folder")
        return 2
    target = Path(sys.argv[1]).expanduser().absolute()
    try:
        collect(target)
    except Failure as failure:
        console.error(failure.text, failure.hint)
        return failure.code
    except KeyboardInterrupt:
        console.note("stopped")
        return 130
    console.say(f"{target}: copy it to another computer and run `make setup` there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
