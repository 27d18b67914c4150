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
            ("start.py", "    elif ready:\n        m = slots.check_confirmed(r, slot)\n",
             "    elif ready:\n"
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
    # --- in place
    Mutant(
        "a slot's image is mounted without its hash",
        "image is damaged",
        "in place",
        ("mix",),
        (("in_place.py", "    return m if sha256(m).digest() == noted[20:] else None\n",
          "    return m\n"),),
    ),
    Mutant(
        "an image's first word is written first",
        "first boot in place",
        "in place",
        ("first",),
        (("image.py", "            esp.flash_write(self._at + 4, buf[4:n])\n",
          "            esp.flash_write(self._at, buf[:n])\n"),),
    ),
    Mutant(
        "an image is noted before it is verified",
        "first boot in place",
        "in place",
        ("note",),
        (
            ("image.py", "    noted = _write(region, root, files)\n",
             "    noted = _write(region, root, files, path, key)\n"),
            ("image.py", "def _write(region, root, files):\n",
             "def _write(region, root, files, path, key):\n"),
            ("image.py", "    digest = w.end()\n",
             "    w._digest = w._hash.digest()\n"
             '    _store(path, key + w.length.to_bytes(4, "little") + w._digest)\n'
             "    digest = w.end()\n"),
            ("image.py", "        digest = self._hash.digest()\n",
             "        digest = self._digest\n"),
        ),
    ),
    Mutant(
        "the note of the former image stays while another is made",
        "install asked for in a trial",
        "in place",
        ("note",),
        (("image.py", "        _store(path, key + bytes((tries + 1,)))\n", "        pass\n"),),
    ),
    Mutant(
        "an image is made over what runs",
        "normal boot",
        "in place, live",
        ("erased",),
        (("start.py", "_make_images(life, kept, slot, not m.image)",
          "_make_images(life, kept, slot, True)"),),
    ),
    Mutant(
        "an image is verified through the map",
        "first boot in place",
        "in place",
        ("in place",),
        (("image.py",
          "            esp.flash_read(at, memoryview(self._buf)[: len(buf) + 3 & ~3])\n",
          "            at -= _START\n"
          "            buf[:] = in_place.segment()[at : at + len(buf)]\n"
          "            at += _START\n"),),
    ),
    Mutant(
        "an image is mounted in the life that wrote it",
        "first boot in place",
        "in place",
        ("in place",),
        (
            ("start.py", "            _make_images(life, kept, slot, not m.image)\n",
             "            _make_images(life, kept, slot, not m.image)\n"
             "            m = slots.check_confirmed(r, slot)\n"
             "            if m.image:\n"
             "                resident.root = in_place.mount(m.image)\n"),
            ("start.py", "    life[rtc.WANT] = rtc.IMAGE\n    rtc.save(life)\n"
             "    machine.reset()\n", ""),
        ),
    ),
    Mutant(
        "the boot stage's image is chosen without its hash",
        "boot stage's image is damaged",
        "in place",
        ("mounted", "converge"),
        (("boot.py", "            if sha256(rom).digest() == f.read():\n", "            if n:\n"),),
    ),
    Mutant(
        "something is imported before the firmware's mount is gone",
        "somebody else's image",
        "in place",
        ("mix",),
        (
            ("boot.py", '        vfs.umount("/rom")\n        from hashlib import sha256\n',
             '        from hashlib import sha256\n\n        vfs.umount("/rom")\n'),
        ),
    ),
    Mutant(
        "the firmware's own mount stays",
        "somebody else's image",
        "in place",
        ("mix", "converge"),
        (("boot.py", '        vfs.umount("/rom")\n', ""),),
    ),
    Mutant(
        "the image of a slot's former release is mounted",
        "install asked for in a trial",
        "in place",
        ("mix",),
        (("in_place.py", "noted[:16] != digest16 or ", ""),),
    ),
)  # fmt: skip
