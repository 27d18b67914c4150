"""Third-party modules in an app's `lib/`: mip's packages, and the lock that names their hashes.

What mpremote copies onto a board goes into the app's folder here, as source, and travels with the
next release. `mip.lock` beside it says of each file which package brought it and its SHA-256, and
of each package what it needs; `mipy build` takes nothing else for it. Format of packages and of the
index: "Package management" in MicroPython's documentation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from ...signing import envelope
from ...signing.reasons import Refused
from ..console import Failure
from ..files import failed, write
from .project import facts

LOCK = "mip.lock"
INDEX = "https://micropython.org/pi/v2"
# Where the files of a repository are: owner, repository, branch or tag, path.
HOSTS = {
    "github": "https://raw.githubusercontent.com/{}/{}/{}/{}",
    "gitlab": "https://gitlab.com/{}/{}/-/raw/{}/{}",
}
FILE_BYTES = 256 * 1024  # of one file; the flash of a small board has a megabyte
PACKAGES = 32  # with all that they depend on
SECONDS = 20.0  # of silence

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_URL = re.compile(r"https?://|(github|gitlab):")
_PATH = re.compile(r"/|\.(py|mpy|json)$|^[.~]")
# Whose line ends git may change between two computers; they are LF here and in the hashes.
_TEXT = (".py", ".json", ".txt", ".md", ".html", ".css", ".js")


@dataclass
class Package:
    """What a lock says of a package.

    Attributes:
        source: where it was taken from.
        version: which one came.
        files: SHA-256 by name in lib/.
        needs: the packages that it depends on -> the version it insists on, "" for any.
        asked: the version that a person asked for, "" for the newest; None: another one needs it.
    """

    source: str
    version: str
    files: dict[str, str] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)
    asked: str | None = None


Lock = dict[str, Package]


def read_lock(app_dir: Path) -> Lock:
    """Packages by name.

    Raises:
        Failure: there is a lock that says nothing.
    """
    path = app_dir / LOCK
    try:
        table = json.loads(path.read_text("utf-8"))
        lock = {
            name: Package(
                entry["source"],
                entry["version"],
                dict(entry["files"]),
                dict(entry.get("needs", {})),
                entry.get("asked", ""),
            )
            for name, entry in table.items()
        }
        for package in lock.values():
            for name in package.files:
                _inside(name, path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise Failure(
            f"cannot read {path}: {problem}", "bring it back from version control, or delete it"
        ) from problem
    return lock


def write_lock(app_dir: Path, lock: Lock) -> None:
    if not lock:
        (app_dir / LOCK).unlink(missing_ok=True)
        return
    table = {name: vars(package) for name, package in lock.items()}
    text = json.dumps(table, indent=2, sort_keys=True) + "\n"
    write(app_dir / LOCK, text.encode())


def _as_text(name: str, content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n") if name.endswith(_TEXT) else content


def sha(name: str, content: bytes) -> str:
    return hashlib.sha256(_as_text(name, content)).hexdigest()


def reached(lock: Lock, roots: Iterable[str]) -> set[str]:
    """`roots` and all that they need, in turn."""
    reached: set[str] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name in lock and name not in reached:
            reached.add(name)
            left += lock[name].needs
    return reached


def wanted(lock: Lock) -> list[str]:
    return [name for name, package in lock.items() if package.asked is not None]


def check(app_dir: Path) -> None:
    """See that the files in lib/ which packages brought are as they came.

    Raises:
        Failure: one is not.
    """
    for package, entry in read_lock(app_dir).items():
        for name, came in entry.files.items():
            path = app_dir / "lib" / name
            try:
                found = sha(name, path.read_bytes())
            except OSError:
                found = ""
            if found != came:
                raise Failure(
                    f"lib/{name} is {'not as it came' if found else 'gone'}, with {package}",
                    f"`mipy mip install {package}` brings it back, `mipy mip rm {package}` "
                    "leaves changed files to you",
                )


# --- getting packages --------------------------------------------------------------------------


def _inside(name: str, source: object) -> str:
    """`name` as it may stand in lib/. Raises Failure for one that leads out of it."""
    try:
        return envelope.name(f"lib/{name}").removeprefix("lib/")
    except Refused as refused:
        raise Failure(
            f"{source} has a file {name!r}, which no release can hold", "tell its author"
        ) from refused


class _Pinned(Exception):
    """A package was taken at its newest before somebody insisted on a version."""


class Fetcher:
    """Collects packages with all that they need; nothing is written meanwhile.

    Args:
        index: where names are looked up.
        standing: packages that stay as they are; what they insist on counts.
    """

    def __init__(self, index: str, standing: Lock) -> None:
        self.index = index.rstrip("/")
        self.lock: Lock = {}
        self.contents: dict[str, bytes] = {}
        # Package -> (version, who insists on it)
        self._pins: dict[str, tuple[str, str]] = {}
        for name, package in standing.items():
            if package.asked:
                self._pin(name, package.asked, "you once")
            for needed, version in package.needs.items():
                self._pin(needed, version, name)

    def take(self, wanted: list[str]) -> None:
        """Get packages, each NAME[@VERSION], a URL, github:..., gitlab:..., or a path.

        Raises:
            Failure: one is unavailable or not a package, or two insist on different versions.
        """
        while True:
            self.lock, self.contents = {}, {}
            try:
                for package in wanted:
                    self._take(package)
                return
            except _Pinned:
                continue  # each time with one pin more

    def _take(self, wanted: str) -> None:
        if not _URL.match(wanted) and _PATH.search(wanted):
            name, version = wanted, ""
            self._local(wanted)
        else:
            name, _, version = wanted.partition("@")
            name = self._remote(name, version, "you")
        self.lock[name].asked = version

    def _pin(self, name: str, version: str, who: str) -> None:
        if not version:
            return
        pinned, other = self._pins.setdefault(name, (version, who))
        if pinned != version:
            raise Failure(
                f"{who} {_wants(who)} {name} {version}, {other} {_wants(other)} {pinned}",
                "install versions that agree, or remove one of the two",
            )
        if name in self.lock and self.lock[name].version != version:
            raise _Pinned

    def _entry(self, name: str, source: str, version: str) -> Package | None:
        if name in self.lock:
            return None
        if len(self.lock) == PACKAGES:
            raise Failure(f"{name} would be package number {PACKAGES + 1}", "install fewer")
        self.lock[name] = Package(source, version)
        return self.lock[name]

    def _add(self, package: Package, name: str, content: bytes) -> None:
        name = _inside(name, package.source)
        if len(content) > FILE_BYTES:
            raise Failure(
                f"{package.source}: {name} has more than {FILE_BYTES} bytes", "it is not for boards"
            )
        content = _as_text(name, content)
        if self.contents.setdefault(name, content) != content:
            raise Failure(f"two packages have different files {name}", "install only one of them")
        package.files[name] = sha(name, content)

    # --- from this computer

    def _local(self, wanted: str) -> None:
        path = Path(wanted).expanduser()
        facts = path / "package.json" if path.is_dir() else path
        if facts.suffix == ".json" and facts.is_file():
            if package := self._entry(wanted, wanted, ""):
                self._local_json(package, facts)
        elif path.suffix in (".py", ".mpy") and path.is_file():
            self._single(wanted, path.name, _file(path))
        elif (path / "__init__.py").is_file():
            if package := self._entry(wanted, wanted, ""):
                for file in sorted(path.resolve().rglob("*.py")):
                    inner = file.relative_to(path.resolve().parent).as_posix()
                    self._add(package, inner, _file(file))
        else:
            raise Failure(
                f"{wanted} is no package",
                "name a .py file, or a folder with a package.json or an __init__.py",
            )

    def _local_json(self, package: Package, facts: Path) -> None:
        table = _parsed(facts, _file(facts))
        package.version = str(table.get("version", ""))
        for name, place in _pairs(table, "urls", facts):
            if _URL.match(place):
                self._add(package, name, self._get(_rewritten(place, "")))
                continue
            path = (facts.parent / place).resolve()
            if not path.is_relative_to(facts.parent.resolve()):
                raise Failure(f"{facts} names {place}, outside its folder", "tell its author")
            self._add(package, name, _file(path))
        self._needs(package, str(facts), table, facts)

    def _single(self, wanted: str, name: str, content: bytes) -> None:
        if package := self._entry(wanted, wanted, ""):
            self._add(package, name, content)

    # --- over the network

    def _remote(self, name: str, version: str, who: str) -> str:
        """Take a package that is not on this computer; returns what the lock calls it."""
        label = f"{name}@{version}" if version and _URL.match(name) else name
        if not _URL.match(name):
            if not _NAME.fullmatch(name):
                raise Failure(f"{name!r} is no package's name", "see `mipy mip install --help`")
            self._pin(name, version, who)
            version = version or self._pins.get(name, ("", ""))[0]
            where = f"{self.index}/package/py/{name}/{version or 'latest'}.json"
            package = self._entry(name, self.index, version)
        elif name.endswith((".py", ".mpy")):
            self._single(
                label, PurePosixPath(name.split("?")[0]).name, self._get(_rewritten(name, version))
            )
            return label
        else:
            where = name if name.endswith(".json") else name.rstrip("/") + "/package.json"
            package = self._entry(label, where, version)
        if not package:
            return label
        table = _parsed(where, self._get(_rewritten(where, version)))
        package.version = version or str(table.get("version", ""))
        for target, short in _pairs(table, "hashes", where):
            content = self._get(f"{self.index}/file/{short[:2]}/{short}")
            if len(short) < 8 or not hashlib.sha256(content).hexdigest().startswith(short):
                raise Failure(f"{self.index} gives another {target} than it lists", "try later")
            self._add(package, target, content)
        for target, place in _pairs(table, "urls", where):
            near = place if _URL.match(place) else _joined(where, place)
            self._add(package, target, self._get(_rewritten(near, version)))
        self._needs(package, label, table, where)
        return label

    def _needs(self, package: Package, label: str, table: dict[str, Any], where: object) -> None:
        for name, version in _pairs(table, "deps", where):
            if name.startswith((".", "/", "~")):
                raise Failure(f"{where} depends on the path {name}", "tell its author")
            version = "" if version == "latest" else version
            package.needs[self._remote(name, version, label)] = version

    def _get(self, url: str) -> bytes:
        import requests

        try:
            with requests.get(url, timeout=SECONDS, stream=True) as answer:
                if answer.status_code == 404:
                    raise Failure(f"there is no {url}", "check name, version and --index")
                if not answer.ok:
                    raise Failure(f"{url} answers {answer.status_code}", "try later")
                content = b""
                for part in answer.iter_content(16 * 1024):
                    content += part
                    if len(content) > FILE_BYTES:
                        raise Failure(
                            f"{url} has more than {FILE_BYTES} bytes", "it is not for boards"
                        )
                return content
        except (requests.RequestException, ValueError) as problem:
            raise Failure(f"cannot get {url}: {_short(problem)}", "check the network") from problem


def _wants(who: str) -> str:
    return "want" if who == "you" else "wanted" if who.startswith("you ") else "wants"


def _short(problem: Exception) -> str:
    return type(problem).__name__ if len(str(problem)) > 80 else str(problem)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise failed(f"cannot read {path}", problem, "name another one") from problem


def _parsed(where: object, content: bytes) -> dict[str, Any]:
    try:
        table = json.loads(content)
    except ValueError as problem:
        raise Failure(f"{where} is no JSON", "name a package") from problem
    if not isinstance(table, dict):
        raise Failure(f"{where} is no package", "name another one")
    return table


def _pairs(table: dict[str, Any], key: str, where: object) -> Iterator[tuple[str, str]]:
    pairs = table.get(key, [])
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise Failure(f"{where}: {key} holds {pair!r}, no pair of texts", "tell its author")
        yield pair[0], pair[1]


def _joined(where: str, place: str) -> str:
    """`place`, as a package at `where` names it, in full; it stays on the same server."""
    base = where.rpartition("/")[0] + "/"
    if where.startswith("http"):
        full = urljoin(base, place)
        if not full.startswith(base):
            raise Failure(f"{where} names {place}, outside its folder", "tell its author")
        return full
    if ".." in place.split("/") or place.startswith("/"):
        raise Failure(f"{where} names {place}, outside its folder", "tell its author")
    return base + place


def _rewritten(url: str, version: str) -> str:
    host, _, rest = url.partition(":")
    if host not in HOSTS:
        return url
    parts = rest.split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise Failure(f"{url} is no repository", f"write {host}:OWNER/REPOSITORY[/PATH][@BRANCH]")
    owner, repository, path = parts
    return HOSTS[host].format(owner, repository, version or "HEAD", path)


# --- into the app ------------------------------------------------------------------------------


def add(app_dir: Path, packages: list[str], index: str = INDEX) -> Lock:
    """Put `packages` and what they need into the app's lib/; return what came.

    Raises:
        Failure: one cannot be had or would overwrite something; nothing has changed then.
    """
    facts(app_dir)
    lock = read_lock(app_dir)
    asked = {package.partition("@")[0] for package in packages} | set(packages)
    standing = reached(lock, [name for name in wanted(lock) if name not in asked])
    fetcher = Fetcher(index, {name: lock[name] for name in standing - asked})
    fetcher.take(packages)
    kept = {name: lock[name] for name in standing if name not in fetcher.lock}
    _check_room(app_dir, fetcher, lock, kept)
    made = kept | fetcher.lock
    for name in fetcher.lock:
        if made[name].asked is None and name in lock:
            made[name].asked = lock[name].asked
    made = {name: made[name] for name in reached(made, wanted(made))}
    try:
        for name in names(lock) - names(made):
            (app_dir / "lib" / name).unlink(missing_ok=True)
        for name, content in fetcher.contents.items():
            path = app_dir / "lib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
        write_lock(app_dir, made)
    except OSError as problem:
        raise failed(f"cannot write {app_dir}", problem) from problem
    return fetcher.lock


def names(lock: Lock) -> set[str]:
    return {name for package in lock.values() for name in package.files}


def _check_room(app_dir: Path, fetcher: Fetcher, lock: Lock, kept: Lock) -> None:
    """Nothing that a person wrote, and nothing of another package, is overwritten."""
    owners = {name: package for package, entry in kept.items() for name in entry.files}
    for name, content in fetcher.contents.items():
        path = app_dir / "lib" / name
        digest = sha(name, content)
        if name in owners and lock[owners[name]].files[name] != digest:
            raise Failure(
                f"lib/{name} belongs to {owners[name]}", f"`mipy mip rm {owners[name]}` first"
            )
        if name in names(lock) or not path.exists():
            continue
        if sha(name, path.read_bytes()) != digest:
            raise Failure(f"lib/{name} is there already, with other content", "move it away")
