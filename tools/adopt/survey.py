"""What adopting a board would do: look at it, plan, build the release; nothing is written.

Every reason not to adopt a board is found here, before anything changes (docs/adopt.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...signing import board_file
from ...signing.reasons import Refused
from .. import console
from ..app import build
from ..app.compile import modules
from ..board.remote import Facts, Remote, show
from ..board.repl import Raised
from ..console import Failure
from ..flash import builds, provision
from ..flash import plan as plans
from ..fleet import address, enrol
from ..keys import sign
from ..keys import store as keys
from . import backup
from .backup import Backup
from .plan import OURS, Plan, Tree, plan
from .steps import MARK, bare

OLDEST = (1, 22, 0)
SEQ = 1
"""Of the release that adoption makes: every one that the fleet publishes is newer."""

_BLOCK = 4096


@dataclass(frozen=True)
class Wishes:
    """What the command line says.

    Attributes:
        app: folder of the app for the first release; None takes the board's own program, as the
            first release of the app of the current folder.
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


def survey(remote: Remote, facts: Facts, wishes: Wishes) -> Found:
    """Look at the board and show what would become of it; nothing is written, here or there.

    Raises:
        Failure: it cannot be adopted, or the connection broke.
    """
    _check_firmware(facts)
    _warn_of_heap(facts)
    kept = _begun(remote)
    begun = kept is not None
    if begun:
        console.note("going on with the adoption that was broken off")
    kept = kept or _taken(remote, facts)
    _check_file_system(remote, kept.tree)
    prepared = prepare(kept.tree, facts, wishes.app, wishes.cls)
    show_plan(prepared)
    record = _identity(facts, prepared.app, prepared.cls, wishes)
    files = _files(record.board, prepared.release(wishes.dev), wishes.wifi)
    if not begun:
        _check_space(facts, prepared.plan, kept.tree, files)
    return Found(begun, kept, prepared.plan, record, files)


def _taken(remote: Remote, facts: Facts) -> Backup:
    """A backup, without the folder that a run which was broken off at its start has made."""
    kept = backup.take(remote, facts)
    state = OURS[2]
    if state in kept.tree and kept.tree[state] is None and bare(state, kept.tree):
        del kept.tree[state]
    return kept


@dataclass(frozen=True)
class Prepared:
    """A plan, and the release that it makes for boards of class `cls`."""

    plan: Plan
    cls: str
    built: build.Built

    @property
    def app(self) -> str:
        """The app that the release is one of."""
        return self.built.manifest.app

    def release(self, dev: bool) -> bytes:
        """The release, signed."""
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
    name = enrol.app_of_new(None)
    return Prepared(made, cls, build.packed(name, cls, SEQ, made.files, note="adopted"))


def class_of(facts: Facts) -> str:
    """The class of boards, as MicroPython names its builds."""
    if facts.build:
        return builds.class_of(facts.build)
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


def _warn_of_heap(facts: Facts) -> None:
    variant = facts.build.partition("-")[2]
    lacks = builds.lacks(facts.platform, variant, facts.version)
    if lacks and variant != builds.SMALL:
        console.note(
            f"its firmware, {facts.build or 'a build without a name'}, does without something: "
            f"{lacks}. `mipy flash --firmware-only` changes that, before or after adoption; every "
            "file stays"
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


def _identity(facts: Facts, app: str, cls: str, wishes: Wishes) -> enrol.Record:
    """Who the board will be; a chip that the fleet knows stays the board it is."""
    name, servers = wishes.name, wishes.servers
    dev_key = plans.dev_key() if wishes.dev else None
    known = enrol.known(facts.mac)
    if known is None:
        chip = cls.replace("-generic", "").replace("-", "")
        made = enrol.make(
            f"{chip}-{facts.mac.replace(':', '')}",
            app,
            cls,
            name=name,
            servers=servers or (address.proposed_server(),),
            dev=dev_key,
        )
        return enrol.Record(made, facts.mac, chip)
    record = enrol.renewed(known, app=app, cls=cls, name=name, servers=servers or None)
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


def show_plan(prepared: Prepared) -> None:
    made = prepared.plan
    rows = [(show(path), "release", "becomes code of the release") for path in made.code]
    rows += [(show(path), "data", f"copied to {show(to)}") for path, to in made.data.items()]
    rows += [(show(path), "left alone", why) for path, why in made.left.items()]
    rows.append(("/main.py", "release", "becomes the entry of the release; the boot stage's then"))
    rows.append(("/boot.py", "replaced", "the boot stage's; what it did is in the backup only"))
    title = f"for boards of {prepared.app}, class {prepared.cls}"
    console.table(title, ("file", "becomes", ""), sorted(rows))
    for warning in prepared.built.warnings:
        console.warn(warning)
