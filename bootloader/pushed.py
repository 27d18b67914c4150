"""A release that a developer's computer pushes here (docs/webrepl.md, "mipy push").

The computer has stopped the app and put the manifest to /state/incoming. begin() checks it as an
install would and names the files that are missing; when they lie in the slot, end() opens the
trial. Nothing here is believed by the next boot, which verifies the release like every trial.
"""

import ota

_INCOMING = "/state/incoming"
_PUSHED = "/state/pushed"  # first 16 bytes of the manifest digest of what was pushed last
_digest = None


def is_running():
    """Whether what runs was pushed: then the server's offers have to wait."""
    try:
        f = open(_PUSHED, "rb")
    except OSError:
        return False
    try:
        return f.read(16) == ota.digest16
    finally:
        f.close()


def begin():
    """Make the other slot ready, and print the name of each file that is on neither slot.

    Raises Rejected as verify_manifest.verify() does, and "busy" when a trial is open.
    """
    global _digest
    from bootloader import board, record, slots
    from bootloader.manifest import PREFIX, Manifest, Rejected, signed

    r = record.load()
    if r.trial != record.NONE:
        raise Rejected("busy")
    with open(_INCOMING, "rb") as f:
        _digest = signed(f, PREFIX)[0]
    # What failed before may be tried again: a person wishes it.
    ota.retry(_digest[:16])
    r = record.load()
    verified = True
    try:
        ota.stage("verify_manifest").verify(_INCOMING, r, board.load())
    except MemoryError:
        verified = False
    if not verified:
        # The app has left the heap in pieces. The next boot, which has it whole, decides.
        # Not in the handler, which holds on to what was loaded.
        with open(_INCOMING, "rb") as f:
            ota.stage("manifest_syntax").check_manifest(f)
    slot = ota.stage("install_slot").choose(r)
    ota.stage("install_slot").make_room(slot)
    make_folders = ota.stage("install_files").make_folders
    buf = bytearray(256)
    with open(_INCOMING, "rb") as f:
        for name, _, sha in Manifest(f).files():
            make_folders(slots.path(slot) + "/" + name)
            if not _here(slots, slots.path(slot), slots.path(1 - slot), name, sha, buf):
                print(name)


def end():
    """Check all files and open the trial, which begins with the next reset.

    Raises Rejected as slots.check_files() does.
    """
    from bootloader import record, slots

    r = record.load()
    slot = ota.stage("install_slot").choose(r)
    slots.check_files(slot, _INCOMING)
    f = open(_PUSHED, "wb")
    try:
        f.write(_digest[:16])
    finally:
        f.close()
    ota.stage("install_slot").start_trial(r, slot, _digest)


def _here(slots, root, other, name, sha, buf):
    """Whether the file lies under `root`, by now: one that `other` has is copied."""
    from bootloader.manifest import hexa

    h = slots.file_hash(root + "/" + name, buf)
    if h and hexa(h) == sha:
        return True
    h = slots.file_hash(other + "/" + name, buf)
    if not h or hexa(h) != sha:
        return False
    f = open(other + "/" + name, "rb")
    out = open(root + "/" + name, "wb")
    try:
        while True:
            n = f.readinto(buf)
            if not n:
                return True
            out.write(memoryview(buf)[:n])
    finally:
        out.close()
        f.close()
