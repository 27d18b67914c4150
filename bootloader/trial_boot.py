"""The next try of a release on trial: counted first, then verified."""

import ota
from bootloader import board, crash_report, decide, record, rollback, rtc, slots, verify_manifest
from bootloader.manifest import Manifest, Rejected


def next_try(r, end, want):
    """Return the trial's Manifest if it is to run; otherwise the trial has ended in the record.

    Args:
        r: the record, with a trial open.
        end: how the last life ended, want: what it asked for (rtc.py).
    """
    # The app may have deleted its manifest; the rejection must name it all the same.
    digest16 = slots.digest16(r.trial) or r.digests[r.trial]
    if want == rtc.ROLLBACK:
        rollback.reject(r, digest16, record.ORDER, True)
        record.store(r)
        return None
    todo = decide.trial(r, end, digest16)
    if todo == decide.CONFIRM:
        _confirm(r, digest16)
        return None
    if todo != decide.AGAIN:
        # Before the trial is verified: were that to hang, it would cost a try.
        record.store(r)
        ota.end_if_stopped = rtc.STOPPED  # pyright: ignore
    if todo == decide.ROLLBACK:
        return None
    try:
        verify_manifest.verify(slots.manifest_path(r.trial), r, board.load())
        return slots.check_files(r.trial, slots.manifest_path(r.trial))
    except (OSError, ValueError, Rejected) as e:
        print("trial:", repr(e))
        crash_report.save(repr(e))
        rollback.reject(r, digest16, record.VERIFY, True)
        record.store(r)
        return None


def _confirm(r, digest16):
    with open(slots.manifest_path(r.trial), "rb") as f:
        m = Manifest(f)
    # What a dev key signed raises neither, or a push would lock out the next release.
    _, dev = verify_manifest.verify_signature(slots.manifest_path(r.trial), board.load())
    record.confirm(r, digest16, (0, 0) if dev else (m.seq, m.floor))
    record.store(r)
    print("ota: confirmed", m.seq)
