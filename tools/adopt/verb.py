"""`mipy adopt`: a board with a MicroPython program of its own becomes a board of the fleet.

The program's code becomes the first release, signed and recorded confirmed in slot a; its other
files are copied to /data, where a release finds them by relative names; everything else stays
where it is (docs/adopt.md). The order of writing keeps the board able to start at any moment:

1. the backup, on this computer;
2. what the old program does not know of: boot stage, trust, board file, slot a, /data;
3. /main.py, then /boot.py, each put in place in one step: from here on the new program starts;
4. the old program's code is removed, since it would hide modules from the boot stage.

A run that was broken off is taken up again by the next one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from ...signing import board_file, envelope
from ...signing.manifest import stem
from ...signing.reasons import Refused
from .. import console, places
from ..app import build, modules
from ..board.remote import Facts, Remote, show
from ..board.repl import Raised, Repl, Stream
from ..board.target import find
from ..console import Failure
from ..flash import provision
from ..fleet import enrol
from ..keys import store as keys
from . import backup
from .backup import Backup

OLDEST = (1, 22, 0)
SEQ = 1
"""Of the release that adoption makes: every one that the fleet publishes is newer."""

BOOT, MAIN = b"/boot.py", b"/main.py"
OURS = (b"/bootloader", b"/trust", b"/state", b"/app_slots")
"""Folders that the boot stage keeps for itself."""
DATA = b"/data"
MARK = b"/state/adopt"
"""Here while an adoption is under way; holds the name of its backup."""
_FRESH = b"/state/new"
_SECRET = ("webrepl_cfg.py",)
_AS_SCRIPT = re.compile(rb"__name__\s*==\s*([\"'])__main__\1")
_BLOCK = 4096
Tree = Mapping[bytes, bytes | None]


@dataclass(frozen=True)
class Plan:
    """What becomes of each file of a board.

    Attributes:
        files: the release's, by name in the slot, compiled.
        code: paths that the release takes the place of; removed at the end.
        data: path -> path of its copy.
        left: path -> why nothing happens to it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    code: list[bytes] = field(default_factory=list)
    data: dict[bytes, bytes] = field(default_factory=dict)
    left: dict[bytes, str] = field(default_factory=dict)


def plan(tree: Tree, cls: str) -> Plan:
    """Sort a board's files (path -> content, None for a folder).

    Raises:
        Failure: the board cannot be adopted as it is; says which file stands in the way.
    """
    _check_free(tree)
    made = Plan()
    for path, content in sorted(tree.items()):
        name = _slot_name(path)
        if content is None or path in (BOOT, MAIN):
            continue
        if path.startswith(DATA + b"/"):
            made.left[path] = "it is in /data already"
        elif name is None:
            _take_data(made, path, tree)
        elif name.endswith(".mpy") and path[:-3] + b"py" in tree:
            made.code.append(path)  # MicroPython never looked at it beside the source
        elif path[: -len(Path(name).suffix)] in tree:
            made.code.append(path)  # nor at a module beside a package of its name
        else:
            _take_code(made, path, name, content, cls)
    if MAIN in tree:
        made.files["main.py"] = _as_module(tree[MAIN] or b"")
        _compiled("main.py", made.files["main.py"], cls)
    return made


def _check_free(tree: Tree) -> None:
    taken = [path for path in OURS if path in tree or path + b".py" in tree]
    if DATA in tree and tree[DATA] is not None:
        taken.append(DATA)
    if taken:
        raise Failure(
            f"the board has a {show(taken[0])} of its own, where the boot stage keeps its files",
            "rename it there and in the program, and run it again",
        )
    for path in tree:
        if path.count(b"/") == 1 and stem(show(path[1:])) in firmware_modules():
            raise Failure(
                f"{show(path)} would hide a module of the firmware from the boot stage",
                "move it to /lib, or rename it, and run it again",
            )


@cache
def firmware_modules() -> frozenset[str]:
    """The modules of the firmware that the boot stage imports."""
    names: set[str] = set()
    for source in places.sources("bootloader").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return frozenset(names - {"bootloader", "ota"})


def _slot_name(path: bytes) -> str | None:
    """The path in a release, of what can be imported; None for everything else."""
    try:
        name = envelope.name(path[1:].decode("ascii"))
    except (UnicodeDecodeError, Refused):
        return None
    if stem(name) == name or name in _SECRET or "-" in name:
        return None
    return name


def _take_data(made: Plan, path: bytes, tree: Tree) -> None:
    target = DATA + path
    if path.rpartition(b"/")[2].decode("ascii", "replace") in _SECRET:
        made.left[path] = "passwords are in the board file from now on"
    elif target in tree or path.startswith(b"/settings"):
        made.left[path] = f"{show(target)} has another meaning"
    else:
        made.data[path] = target


def _take_code(made: Plan, path: bytes, name: str, content: bytes, cls: str) -> None:
    try:
        target, compiled = _compiled(name, content, cls)
    except Failure as failure:
        made.left[path] = failure.text
        return
    made.code.append(path)
    made.files[target] = compiled


def _compiled(name: str, content: bytes, cls: str) -> tuple[str, bytes]:
    if name.endswith(".mpy"):
        return name, content
    return f"{stem(name)}.mpy", modules.compile_module(content, name, cls)


def _as_module(source: bytes) -> bytes:
    """main.py as a release's entry, which is imported and hence called "main"."""
    return _AS_SCRIPT.sub(rb'__name__ in ("__main__", "main")', source)


# --- the verb ------------------------------------------------------------------------------------


def adopt(
    board: Annotated[
        str | None,
        typer.Argument(
            metavar="[BOARD]", help="Its serial port, if there are several, or WebREPL's address."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What people call it.")] = None,
    app: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Build the first release from here, not from the board."),
    ] = None,
    cls: Annotated[
        str | None, typer.Option("--class", metavar="CLASS", help="Its class, if not the chip's.")
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Where the board finds the server; up to three."),
    ] = None,
    wifi: Annotated[
        str | None,
        typer.Option(metavar="SSID", help="Its network; asks for the password."),
    ] = None,
    wifi_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the network's password from a file.")
    ] = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="A board to develop on: dev key, WebREPL on.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would become of each file, and stop.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back the files as they were before.")
    ] = False,
) -> None:
    """Take a board that runs a MicroPython program of its own into the fleet.

    Everything on it is backed up first. Its program becomes the first release; files go to /data.
    """
    from ..flash import port as ports
    from ..flash import verb

    if not undo:
        keys.trust()
    servers, networks = verb.reachable(server), verb.networks(wifi, wifi_password_file)
    found = find(board)
    with connected(found.open(), found.name, soft_reset=found.port is not None) as remote:
        facts = remote.facts()
        if undo:
            give_back(remote, facts)
            return
        wishes = Wishes(app, cls, name, servers, dev, networks)
        if dry_run:
            survey(remote, facts, wishes)
            console.say("nothing was written")
            return
        join(remote, facts, wishes)
    if found.port is None:
        console.say("the board starts its program as a release of the fleet: see `mipy boards`")
        return
    with console.busy("waiting for the board to start its program"):
        ports.follow(found.port, lambda line: None)
    console.say("the board runs its program as a release of the fleet")
    console.note("`mipy adopt --undo` brings the old files back")


class connected:
    """The files of the board behind `stream`; it is reset at the end, however that comes.

    A boot stage that runs already feeds the watchdog by a timer, which a soft reset would stop.
    Otherwise the program's memory is freed by one, but over WebREPL, which would end with it.
    """

    def __init__(self, stream: Stream, name: str, soft_reset: bool = True) -> None:
        self._repl = Repl(stream, name)
        self._soft_reset = soft_reset

    def __enter__(self) -> Remote:
        try:
            self._repl.enter(soft_reset=False)
            ours = self._repl.evaluate("'ota' in __import__('sys').modules")
            if self._soft_reset and not ours:
                self._repl.enter()
            return Remote(self._repl)
        except BaseException:
            self._repl.close()
            raise

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        try:
            self._repl.reset()
        except Failure:
            if value is None:
                raise
        finally:
            self._repl.close()


# --- there ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wishes:
    """What the command line says.

    Attributes:
        app: folder of the app for the first release; None takes the board's own program.
        cls, name, servers: of the board file; None takes what fits.
        dev: give it the fleet's dev key.
        wifi: networks to know, SSID -> password.
    """

    app: Path | None = None
    cls: str | None = None
    name: str | None = None
    servers: tuple[str, ...] = ()
    dev: bool = False
    wifi: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Found:
    """All that is to be known before anything is written.

    Attributes:
        kept: the backup; of an adoption that was broken off (`begun`) it is on disk already.
        files: what is to be written: path -> content.
    """

    begun: bool
    kept: Backup
    plan: Plan
    record: enrol.Record
    files: dict[bytes, bytes]


def join(remote: Remote, facts: Facts, wishes: Wishes) -> None:
    """Adopt the board, or go on where a former run was broken off.

    Raises:
        Failure: it cannot be adopted, or the connection broke.
    """
    found = survey(remote, facts, wishes)
    if not found.begun:
        found.kept.save()
    console.say(f"backup: {found.kept.path}")
    enrol.tell_server(enrol.keep(found.record))
    _work(_steps(remote, found.plan, found.kept, found.files))


def survey(remote: Remote, facts: Facts, wishes: Wishes) -> Found:
    """Look at the board and show what would become of it; nothing is written, here or there.

    Raises:
        Failure: it cannot be adopted, or the connection broke.
    """
    _check_firmware(facts)
    kept = _begun(remote)
    begun = kept is not None
    if begun:
        console.note("going on with the adoption that was broken off")
    kept = kept or _taken(remote, facts)
    _check_file_system(remote, kept.tree)
    prepared = prepare(kept.tree, facts, wishes.app, wishes.cls)
    show_plan(prepared)
    record = _identity(facts, prepared.cls, wishes)
    files = _files(record.board, prepared.release(wishes.dev), wishes.wifi)
    if not begun:
        _check_space(facts, prepared.plan, kept.tree, files)
    return Found(begun, kept, prepared.plan, record, files)


def _taken(remote: Remote, facts: Facts) -> Backup:
    """A backup, without the folder that a run which was broken off at its start has made."""
    kept = backup.take(remote, facts)
    state = OURS[2]
    if state in kept.tree and kept.tree[state] is None and _bare(state, kept.tree):
        del kept.tree[state]
    return kept


@dataclass(frozen=True)
class Prepared:
    """A plan, and the release that it makes for boards of class `cls`."""

    plan: Plan
    cls: str
    built: build.Built

    def release(self, dev: bool) -> bytes:
        """The release, signed."""
        from ..keys import sign

        try:
            if dev:
                return sign.sign_bundle(self.built.bundle, keys.private(keys.find(None, ("dev",))))
            return sign.sign_for_fleet(self.built.bundle)
        except Refused as refused:
            raise Failure(f"the release is not signed: {refused}", "see `mipy keys list`") from None


def prepare(tree: Tree, facts: Facts, app: Path | None, cls: str | None) -> Prepared:
    """Plan, and build the release, from the board's files or from the folder `app`.

    Raises:
        Failure: there is nothing to make a release of.
    """
    cls = cls or class_of(facts)
    made = plan(tree, cls)
    if app is not None:
        return Prepared(made, cls, build.assemble(app, cls, SEQ))
    if "main.py" not in made.files:
        raise Failure(
            "the board has no main.py, so there is no program to adopt",
            "name the folder of an app with --app DIR, or use `mipy flash`",
        )
    name = keys.trust().app
    return Prepared(made, cls, build.packed(name, cls, SEQ, made.files, note="adopted"))


def class_of(facts: Facts) -> str:
    """The class of boards, as MicroPython names its builds."""
    if facts.build:
        return facts.build.lower().replace("_", "-")
    chip = facts.machine.rpartition(" ")[2].lower()
    kind = chip.removeprefix(facts.platform)
    return f"{facts.platform}-generic" + (f"-{kind}" if chip != kind and kind else "")


def _check_firmware(facts: Facts) -> None:
    if facts.version < OLDEST or facts.mpy != modules.BYTECODE_MAJOR:
        version = ".".join(map(str, facts.version))
        raise Failure(
            f"the board runs MicroPython {version}, 1.22 or newer is needed",
            "`mipy fs cp` brings its files here; `mipy flash` erases it and writes a newer one",
        )


def _check_file_system(remote: Remote, tree: Tree) -> None:
    """FAT loses files when the power goes; it is known by taking `/BOOT.PY` for `/boot.py`."""
    named = (path for path, content in tree.items() if content is not None)
    for path, other in ((path, path.swapcase()) for path in named):
        if path == other or other in tree or not path.isascii():
            continue
        try:
            remote.size(other)
        except Raised:
            return
        raise Failure(
            "the board has a FAT file system, which does not survive a power cut while it writes",
            "`mipy fs cp` brings its files here; `mipy flash` erases it and makes a LittleFS",
        )


def _begun(remote: Remote) -> Backup | None:
    """The backup of an adoption that was broken off; None when none was begun."""
    tree = remote.tree()
    if MARK in tree:
        return backup.load(remote.read(MARK, tree[MARK] or 0).decode())
    if tree.get(b"/state/0/r") or tree.get(b"/state/1/r"):
        raise Failure("this is a board of a fleet already", "`mipy adopt --undo` ends that")
    return None


def _identity(facts: Facts, cls: str, wishes: Wishes) -> enrol.Record:
    """Who the board will be; a chip that the fleet knows stays the board it is."""
    from ..flash import plan as plans
    from ..flash import verb

    name, servers = wishes.name, wishes.servers
    dev_key = plans.dev_key() if wishes.dev else None
    known = enrol.known(facts.mac)
    if known is None:
        chip = cls.replace("-generic", "").replace("-", "")
        made = enrol.make(
            f"{chip}-{facts.mac.replace(':', '')}",
            keys.trust().app,
            cls,
            name=name,
            servers=servers or (verb.proposed_server(),),
            dev=dev_key,
        )
        return enrol.Record(made, facts.mac, chip)
    record = enrol.renewed(known, cls=cls, name=name, servers=servers or None)
    return replace(record, board=replace(record.board, dev=dev_key))


def _files(
    who: board_file.Board, release: bytes, wifi: Mapping[str, str] | None
) -> dict[bytes, bytes]:
    every = keys.trust_files()
    made = provision.board_files(who, every[0], release, wifi)
    for copy in "01":
        # The boot stage carries version 1; what has been revoked since counts from the start.
        made[f"/trust/{copy}/trust"] = every[-1]
    return {path.encode(): content for path, content in made.items()}


def _check_space(facts: Facts, made: Plan, tree: Tree, files: Mapping[bytes, bytes]) -> None:
    """Room for what is written, and for the second slot of the next release.

    What MicroPython gives as free is too little: its count takes the two blocks of every folder
    twice.
    """
    slot = [len(content) for path, content in files.items() if path.startswith(b"/app_slots/")]
    copies = [len(tree[path] or b"") for path in made.data]
    sizes = [*map(len, files.values()), *slot, *copies]
    folders = {path.rpartition(b"/")[0] for path in [*files, *made.data.values()]}
    needed = _BLOCK * (sum(-(-size // _BLOCK) for size in sizes) + 2 * len(folders))
    free = facts.free + 2 * _BLOCK * sum(content is None for content in tree.values())
    if needed > free:
        raise Failure(
            f"{needed} bytes of flash are needed, {free} are free on the board",
            "remove what the program does not need, or use `mipy flash`",
        )


Step = tuple[str, Callable[[], None]]


def _steps(
    remote: Remote, made: Plan, kept: Backup, files: Mapping[bytes, bytes]
) -> Iterator[Step]:
    """All that is written, in the order that keeps the board able to start."""
    taken = [path for path in files if path in kept.tree and not path.startswith(DATA)]
    if not remote.holds(MAIN, files[MAIN]):
        yield "state", lambda: remote.folder(OURS[2])
        yield "state", lambda: remote.write(MARK, kept.path.name.encode())
        for path, content in files.items():
            if path not in (BOOT, MAIN) and path not in kept.tree:
                yield show(path), lambda p=path, c=content: _put(remote, p, c)
        for path, target in made.data.items():
            content = kept.tree[path] or b""
            yield show(target), lambda p=path, t=target, c=content: _copy(remote, p, t, c)
        yield "/main.py", lambda: _switch(remote, MAIN, files[MAIN])
    # Also what the old program has under the same name, like /wifi.json.
    for path in {BOOT: None, **dict.fromkeys(taken)}:
        if not remote.holds(path, files[path]):
            yield show(path), lambda p=path: _switch(remote, p, files[p])
    for path in made.code:
        yield f"removing {show(path)}", lambda p=path: _remove(remote, p)
    for path in _emptied(made, kept.tree):
        yield f"removing {show(path)}", lambda p=path: _remove(remote, p, folder=True)
    yield "done", lambda: _remove(remote, MARK)


def _work(steps: Iterator[Step]) -> None:
    with console.progress() as bar:
        task = bar.add_task("writing", total=None)
        for label, act in steps:
            bar.update(task, description=label)
            act()
            bar.advance(task)


def _put(remote: Remote, path: bytes, content: bytes) -> None:
    if not remote.holds(path, content):
        remote.folder(path.rpartition(b"/")[0])
        remote.write(path, content)


def _copy(remote: Remote, path: bytes, target: bytes, content: bytes) -> None:
    if not remote.holds(target, content):
        remote.folder(target.rpartition(b"/")[0])
        remote.copy(path, target, content)


def _switch(remote: Remote, path: bytes, content: bytes) -> None:
    """Put a file in the place of another in one step."""
    remote.write(_FRESH, content)
    remote.rename(_FRESH, path)


def _remove(remote: Remote, path: bytes, folder: bool = False) -> None:
    """Remove what a former run may have removed."""
    try:
        (remote.remove_folder if folder else remote.remove)(path)
    except Raised as raised:
        if raised.kind != "OSError":
            raise


def _emptied(made: Plan, tree: Tree) -> list[bytes]:
    """Folders in which nothing but code was, deepest first."""
    stay = {path for path in tree if path not in made.code and tree[path] is not None}
    stay |= {path for path, content in tree.items() if content is None and _bare(path, tree)}
    folders = {path for path, content in tree.items() if content is None and path not in stay}
    kept = {path for path in folders if any(other.startswith(path + b"/") for other in stay)}
    return sorted(folders - kept, key=lambda path: path.count(b"/"), reverse=True)


def _bare(folder: bytes, tree: Tree) -> bool:
    return not any(path.startswith(folder + b"/") for path in tree)


def show_plan(prepared: Prepared) -> None:
    made = prepared.plan
    rows = [(show(path), "release", "becomes code of the release") for path in made.code]
    rows += [(show(path), "data", f"copied to {show(to)}") for path, to in made.data.items()]
    rows += [(show(path), "left alone", why) for path, why in made.left.items()]
    rows.append(("/main.py", "release", "becomes the entry of the release; the boot stage's then"))
    rows.append(("/boot.py", "replaced", "the boot stage's; what it did is in the backup only"))
    console.table(f"for boards of class {prepared.cls}", ("file", "becomes", ""), sorted(rows))
    for warning in prepared.built.warnings:
        console.warn(warning)


# --- and back ------------------------------------------------------------------------------------


def give_back(remote: Remote, facts: Facts) -> None:
    """Bring the board back to its backup: every file equal, nothing else left.

    What is on it now is backed up first. A run that was broken off is simply run again.

    Raises:
        Failure: there is no backup of this board, or the connection broke.
    """
    wanted = backup.newest(facts.mac)
    now = backup.take(remote, facts, before_undo=True)
    now.save()
    console.say(f"what is on it now: {now.path}")
    _work(_steps_back(remote, wanted.tree, now.tree))
    if not _equal(remote, wanted.tree):
        raise Failure("the board differs from its backup", "run it again")
    console.say(f"the board is as it was: {wanted.path}")
    console.note("it stays on the server's list; it just does not answer any more")


def _steps_back(remote: Remote, wanted: Tree, now: Tree) -> Iterator[Step]:
    for path, content in sorted(wanted.items()):
        if path in (BOOT, MAIN) or (path in now and now[path] == content):
            continue
        if path in now and (now[path] is None) != (content is None):
            for other in _deepest_first(path, now):
                yield show(other), lambda p=other: _remove(remote, p, now[p] is None)
        if content is None:
            yield show(path), lambda p=path: remote.folder(p)
        else:
            yield show(path), lambda p=path, c=content: remote.write(p, c)
    yield "state", lambda: remote.folder(OURS[2])
    for path in (BOOT, MAIN):
        content = wanted.get(path)
        if content is not None and now.get(path) != content:
            yield show(path), lambda p=path, c=content: _switch(remote, p, c)
        elif content is None and path in now:
            yield show(path), lambda p=path: remote.remove(p)
    if OURS[2] not in now:
        now = {**now, OURS[2]: None}
    for path in sorted(now, key=lambda path: path.count(b"/"), reverse=True):
        if path not in wanted and path not in (BOOT, MAIN):
            yield f"removing {show(path)}", lambda p=path: _remove(remote, p, now[p] is None)


def _equal(remote: Remote, wanted: Tree) -> bool:
    sizes = {path: None if content is None else len(content) for path, content in wanted.items()}
    return remote.tree() == sizes and all(
        remote.holds(path, content) for path, content in wanted.items() if content is not None
    )


def _deepest_first(path: bytes, tree: Tree) -> list[bytes]:
    found = [other for other in tree if other == path or other.startswith(path + b"/")]
    return sorted(found, reverse=True)
