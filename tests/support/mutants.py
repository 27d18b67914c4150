"""Mistakes in the boot stage, made by hand: the power cuts must find each of them.

A mutant is compiled into the image of a board; the sources stay as they are. When one does not
apply any more because its old text has changed, write it anew against the code that is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.powercut import Edits, Storage

_INSTALL = "install, trial, confirm"
_BAD = "install, three tries, rollback"


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: what is wrong.
        scenario, storage: where it shows.
        breaks: the invariants of which one must be seen broken.
        edits: (file, old text, new text).
    """

    name: str
    scenario: str
    storage: Storage
    breaks: tuple[str, ...]
    edits: Edits


MUTANTS = (
    Mutant(
        "a try is not counted before the trial runs",
        _BAD,
        "model",
        ("tries",),
        (
            (
                "trial_boot.py",
                "    if todo != decide.AGAIN:\n"
                "        # Before the trial is verified: were that to hang, it would cost a try.\n"
                "        record.store(r)\n"
                "        ota.end_if_stopped = rtc.STOPPED  # pyright: ignore\n"
                "    if todo == decide.ROLLBACK:\n",
                "    if todo == decide.ROLLBACK:\n        record.store(r)\n",
            ),
        ),
    ),
    Mutant(
        "a trial once prepared is never counted again",
        _BAD,
        "model",
        ("tries",),
        (
            (
                "start.py",
                "    life[rtc.READY] &= _OPEN\n",
                "",
            ),
        ),
    ),
    Mutant(
        "the record is written before the files are there",
        _INSTALL,
        "littlefs",
        ("whole",),
        (
            (
                "install.py",
                '        of = ota.stage("install_slot").make_room(slot)\n',
                "        r.trial = slot\n"
                "        r.tries_left = record.TRIES\n"
                "        record.store(r)\n"
                '        of = ota.stage("install_slot").make_room(slot)\n',
            ),
        ),
    ),
    Mutant(
        "the floor rises at the install",
        _BAD,
        "littlefs",
        ("line",),
        (
            (
                "install_slot.py",
                "    r.tries_left = record.TRIES\n",
                "    r.tries_left = record.TRIES\n"
                '    with open(slots.manifest_path(slot), "rb") as f:\n'
                "        r.floor = Manifest(f).floor\n",
            ),
        ),
    ),
    Mutant(
        "seq does not rise at the confirmation",
        _INSTALL,
        "littlefs",
        ("line",),
        (("record.py", "    r.seq = max(r.seq, raise_to[0])\n", ""),),
    ),
    # LittleFS replaces a small file at once or not at all, so there this one survives.
    Mutant(
        "the newest copy of the record is overwritten",
        _INSTALL,
        "model",
        ("back", "lost"),
        (
            ("record.py", 'open(path(1 - r.copy), "wb")', 'open(path(r.copy), "wb")'),
            ("record.py", "    finally:\n        f.close()\n    r.copy = 1 - r.copy\n",
             "    finally:\n        f.close()\n"),
        ),
    ),
    Mutant(
        "the record has no check value",
        "record rots at byte 8",
        "littlefs",
        ("converge", "line"),
        (("record.py", " or sha256(b[:_SIZE]).digest()[:4] != b[_SIZE:]", ""),),
    ),
    Mutant(
        "the rejected release is forgotten",
        _BAD,
        "model",
        ("tries", "converge"),
        (("rollback.py", "    r.rejected = digest16\n", ""),),
    ),
    Mutant(
        "an install goes over the running slot",
        _INSTALL,
        "littlefs",
        ("whole",),
        (("install.py", '"installing", 1 - r.active,', '"installing", r.active,'),),
    ),
    Mutant(
        "an install goes ahead during a trial",
        "install asked for in a trial",
        "littlefs",
        ("whole",),
        (
            ("start.py", "want in (rtc.INSTALL, rtc.POLL) and not trial", "want == rtc.INSTALL"),
            ("app_api.py", "    if not ota.trial:\n        ota.exit(rtc.INSTALL)",
             "    ota.exit(rtc.INSTALL)"),
            ("install.py", '            raise Rejected("busy")\n', "            pass\n"),
        ),
    ),
    Mutant(
        "the manifest is put in its place before the files are checked",
        _INSTALL,
        "littlefs",
        ("whole",),
        (
            (
                "install.py",
                '        of = ota.stage("install_slot").make_room(slot)\n',
                '        of = ota.stage("install_slot").make_room(slot)\n'
                '        path = "/app_slots/%s/manifest" % "ab"[slot]\n'
                '        ota.stage("trust_update")._copy(_INCOMING, path)\n',
            ),
        ),
    ),
    Mutant(
        "the slot keeps its manifest while its files change",
        _INSTALL,
        "littlefs",
        ("whole",),
        (("install_slot.py", "os.remove(slots.manifest_path(slot))", "pass"),),
    ),
    Mutant(
        "nothing is hashed again after the install",
        "installer that errs",
        "model",
        ("whole",),
        (("install_files.py", "    slots.check_files(slot, _INCOMING)\n", ""),),
    ),
    Mutant(
        "a trial's files are not hashed",
        "trial is damaged",
        "littlefs",
        ("mix",),
        (
            ("trial_boot.py",
             "        return slots.check_files(r.trial, slots.manifest_path(r.trial))",
             '        return Manifest(open(slots.manifest_path(r.trial), "rb"))'),
            ("start.py", "        m = slots.check_files(slot, slots.manifest_path(slot))\n",
             '        m = slots.Manifest(open(slots.manifest_path(slot), "rb"))\n'),
        ),
    ),
    Mutant(
        "a trial's signature is not verified",
        "trial is forged",
        "littlefs",
        ("mix",),
        (("trial_boot.py",
          "        verify_manifest.verify(slots.manifest_path(r.trial), r, board.load())\n", ""),),
    ),
    Mutant(
        "a confirmed slot boots without its files being hashed",
        "confirmed is damaged",
        "littlefs",
        ("mix",),
        (("slots.py", "        return check_files(slot, manifest_path(slot))\n",
          '        return Manifest(open(manifest_path(slot), "rb"))\n'),),
    ),
    Mutant(
        "unlisted files stay in a slot",
        "file too many",
        "littlefs",
        ("mix",),
        (("slots.py", "        sweep(slot, names)\n    except", "        pass\n    except"),),
    ),
    # Half a file is on LittleFS only where the flash is full.
    Mutant(
        "the trust file is copied in its place",
        "trust copies differ",
        "model",
        ("trust",),
        (
            ("trust_update.py", 'open(path + ".new", "wb")', 'open(path, "wb")'),
            ("trust_update.py", '    os.rename(path + ".new", path)\n', ""),
        ),
    ),
    Mutant(
        "a trust file's reset comes after its copies",
        "trust, two steps with a reset",
        "model",
        ("line",),
        (
            ("trust_update.py", "    if reset and (r.seq, r.floor) != reset:\n"
             "        r.seq, r.floor = reset\n        record.store(r)\n", ""),
            ("trust_update.py", "    _copy(new, trust.path(1 - older))\n",
             "    _copy(new, trust.path(1 - older))\n"
             "    if reset:\n        r.seq, r.floor = reset\n        record.store(r)\n"),
        ),
    ),
    Mutant(
        "a rebuilt record has no floor",
        "both records lost",
        "littlefs",
        ("line",),
        (("record_rebuild.py", "        r.floor = max(r.floor, m.floor)\n", ""),),
    ),
)  # fmt: skip
