"""The A/B record: which slot runs, what is on trial, what was rejected.

Two copies in two directories; always the older one is overwritten, so that a cut in the middle
leaves the newer. One transition is one write. 76 bytes keep LittleFS from using a block of its
own (files of up to 128 bytes live inside their directory).
"""

import struct
from hashlib import sha256
from micropython import const

_FORMAT = "<4sIBBBBBBBBII16s16s16s"
_SIZE = const(72)
_MAGIC = b"OTA1"
NONE = const(255)  # no slot
TRIES = const(3)
ZERO = bytes(16)

# flags
HARD = const(1)  # the rejection is for good
REACHED = const(2)  # since the last soft rejection the old release has reached the server

# Codes of `reason`, as they go over the air.
REASONS = (
    "", "exception", "watchdog", "veto", "verify", "timeout", "power", "sleep", "crashes", "order",
)  # fmt: skip
EXCEPTION = const(1)
WATCHDOG = const(2)
VETO = const(3)
VERIFY = const(4)
TIMEOUT = const(5)
POWER = const(6)
SLEEP = const(7)
CRASHES = const(8)
ORDER = const(9)


class Record:
    """Fields as in docs/architecture.md; slots are 0 (a) and 1 (b), digests are halves."""

    def __init__(self):
        self.number = 0
        self.active = 0
        self.trial = NONE
        self.tries_left = 0
        self.soft_count = 0  # soft rejections of `rejected` so far; its next trial waits the longer
        self.reached = 0  # after how many of them the old release then reached the server
        self.flags = 0
        self.reason = 0  # why `rejected` was rejected
        self.last_failure = 0  # how the open trial's tries have ended so far
        self.seq = 0
        self.floor = 0
        # Digest of the manifest of slot a and of slot b, that was confirmed or is on trial.
        self.digests = [ZERO, ZERO]
        self.rejected = ZERO  # digest of the last rejected release
        self.copy = 1  # which copy holds this record: the other one is written next


def pack(r):
    b = struct.pack(
        _FORMAT, _MAGIC, r.number, r.active, r.trial, r.tries_left, r.soft_count, r.flags, r.reason,
        r.reached, r.last_failure, r.seq, r.floor, r.digests[0], r.digests[1], r.rejected,
    )  # fmt: skip
    return b + sha256(b).digest()[:4]


def unpack(b):
    """Return the Record in the bytes `b`, or None when they are not a whole one."""
    if len(b) != _SIZE + 4 or b[:4] != _MAGIC or sha256(b[:_SIZE]).digest()[:4] != b[_SIZE:]:
        return None
    r = Record()
    good = r.digests
    (
        _, r.number, r.active, r.trial, r.tries_left, r.soft_count, r.flags, r.reason,
        r.reached, r.last_failure, r.seq, r.floor, good[0], good[1], r.rejected,
    ) = struct.unpack(_FORMAT, b)  # fmt: skip
    return r


def path(copy):
    return "/state/%d/r" % copy


def load():
    """Return the newest whole copy, or None when both are lost."""
    best = None
    for copy in (0, 1):
        try:
            with open(path(copy), "rb") as f:
                r = unpack(f.read(_SIZE + 5))
        except OSError:
            continue
        if r and (not best or r.number > best.number):
            best = r
            r.copy = copy
    return best


def store(r):
    """Write `r` over the older copy."""
    r.number += 1
    b = pack(r)
    f = open(path(1 - r.copy), "wb")
    try:
        f.write(b)
    finally:
        f.close()
    r.copy = 1 - r.copy


def confirm(r, digest16, raise_to):
    """Make the trial the confirmed release; `raise_to` is (seq, floor). The caller stores it."""
    r.digests[r.trial] = digest16
    r.active = r.trial
    r.trial = NONE
    r.tries_left = 0
    r.seq = max(r.seq, raise_to[0])
    r.floor = max(r.floor, raise_to[1])


def rejection(r):
    """(digest, reason, soft rejections so far; 0 when it is for good), or None."""
    if r.rejected == ZERO:
        return None
    return r.rejected, REASONS[r.reason], 0 if r.flags & HARD else r.soft_count
