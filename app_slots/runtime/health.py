"""Whether a release on trial may be confirmed, judged by its jobs and the app's own checks.

A job that succeeded under the former release and never does in the trial holds the confirmation
back, and so does a failing check. Neither ends the trial: the boot stage's 15 minutes do.
"""

from binascii import hexlify
from micropython import const

import ota
from runtime import log

_PATH = "/data/jobs"  # digest of the release that wrote it, then the names of what succeeded in it
_SOON = const(600)  # s of a trial in which a first run is waited for


def _former():
    """Return (digest as text, names) as the file has them."""
    try:
        with open(_PATH) as f:
            return f.readline().strip(), f.read().split("\n")
    except (OSError, ValueError):
        return "", []


def remember(app):
    """Write down what has succeeded under this release, once in its life."""
    digest = hexlify(ota.digest).decode()
    if _former()[0] == digest:
        return
    f = open(_PATH, "w")
    try:
        f.write(digest)
        for name, tally in app.tallies.items():
            if tally[0]:
                f.write("\n" + name)
    finally:
        f.close()


class Health:
    """Judge of a trial."""

    def __init__(self, app):
        self._app = app
        # Who pushes a release with a dev key, which raises no seq, does not wait for every job.
        self._names = _former()[1] if not ota.trial or ota.raises[0] else []

    def held(self):
        """Return what holds the confirmation back, "" when nothing does."""
        app = self._app
        for name in self._names:
            tally = app.tallies.get(name)
            if tally and not tally[0] and (tally[1] or self._soon(name)):
                return "job " + name
        for check in app.checks:
            try:
                good = check()
            except Exception as e:
                log.warning("check failed: %r", e)
                good = False
            if not good:
                return "check " + getattr(check, "__name__", "")
        return ""

    def _soon(self, name):
        for job in self._app.jobs:
            if job.name == name and self._app.up * 1000 + job.left < _SOON * 1000:
                return True
        return False
