"""Both copies of the record are lost: judge the slots by their signatures."""

import ota
from bootloader import board, record, slots, verify_manifest
from bootloader.manifest import Rejected


def rebuild():
    """Return a new, stored Record: the lower release active, the higher one on trial.

    The floor is the highest of the valid manifests. Nothing valid gives a record without a
    confirmed slot, which leads to recovery.
    """
    r = record.Record()
    b = board.load()
    found = []
    for slot in (0, 1):
        try:
            digest, _ = verify_manifest.verify_signature(slots.manifest_path(slot), b)
            m = slots.check_files(slot, slots.manifest_path(slot))
            verify_manifest.check_compatible(m, b)
        except (OSError, ValueError, Rejected) as e:
            print("slot", "ab"[slot], repr(e))
            continue
        found.append((m.seq, slot, digest[:16]))
        r.floor = max(r.floor, m.floor)
    found.sort()
    if found:
        r.seq, r.active, digest = found[0]
        r.digests[r.active] = digest
    if len(found) == 2:
        _, r.trial, digest = found[1]
        r.digests[r.trial] = digest
        r.tries_left = record.TRIES
    for copy in (0, 1):
        ota.stage("install_files").make_folders(record.path(copy))
    record.store(r)
    return r
