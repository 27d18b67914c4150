"""Whether a release on trial may be confirmed, judged by its jobs and the app's own checks; and
whether changed settings are to stay, for which the same holds.

A job that succeeded under the former release and never does in the trial holds the confirmation
back, and so does a failing check. Neither ends the trial: the boot stage's 15 minutes do.
"""

from binascii import hexlify
from micropython import const

import config
import ota
import runtime
from runtime import log

_PATH = "/data/jobs"  # digest of the release that wrote it, then the names of what succeeded in it
_SOON = const(600)  # s of a trial in which a first run is waited for
_LASTS = const(60)  # s until changed settings are confirmed, once the server has answered
_LASTS_ALONE = const(600)  # on a board that names no server
_TIMEOUT = const(300)  # s until a trial of settings that is not good costs a try


def _former():
    """Return (digest as text, names) as the file has them."""
    try:
        with open(_PATH) as f:
            return f.readline().strip(), f.read().split("\n")
    except (OSError, ValueError):
        return "", []


def remember(app):
    """Write down what has succeeded under this release, once in its life."""
    digest = hexlify(ota.digest16).decode()
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


def confirmed(app):
    """Confirm the trial when it is time; return whether that is done."""
    why = blocked_by(app)
    if why != app.blocked_by:
        if why:
            log.info("trial: blocked by %s", why)
        else:
            log.info("trial: nothing blocks it")
        app.blocked_by = why
    if why or not ota.confirm_if_due():
        return False
    log.info("trial: confirmed")
    return True


def blocked_by(app):
    """Return what blocks the confirmation, "" when nothing does."""
    # Who pushes a release with a dev key, which raises no seq, does not wait for every job.
    # What MQTT calls for a topic, with its "/", depends on what others send.
    for name in _former()[1] if not ota.trial or ota.raise_to[0] else ():
        tally = app.tallies.get(name)
        if tally and "/" not in name and not tally[0] and (tally[1] or _runs_soon(app, name)):
            return "unproven job " + name
    for check in app.checks:
        try:
            good = check()
        except Exception as e:
            log.warning("check failed: %r", e)
            good = False
        if not good:
            return "failing check " + getattr(check, "__name__", "")
    return ""


def _runs_soon(app, name):
    for job in app.jobs:
        if job.name == name and app.up * 1000 + job.left < _SOON * 1000:
            return True
    return False


def settings(app, sleeping):
    """Confirm or end the trial of settings when it is time; called until it is over.

    It is good when the server has answered (a changed SERVER: at that address) and nothing that
    would hold back the confirmation of a release is wrong.
    """
    if app.up < _LASTS and not sleeping:
        return
    url = app.updater.answered
    new = config.SERVER and _server_is_new()
    lasts = _TIMEOUT if ota.has_server or new else _LASTS_ALONE
    if url == config.SERVER if new else url or not ota.has_server and (sleeping or app.up >= lasts):
        why = blocked_by(app)
        if not why:
            runtime.lend("settings_store").confirm()
            return
    else:
        why = "no answer from the server"
    if app.up >= lasts and not sleeping:
        log.error("settings: the change has not proved itself (%s), starting again", why)
        ota.reset()


def _server_is_new():
    store = runtime.lend("settings_store")
    copy = store.newest()
    former = store.read(store.other(copy))
    return _server(copy) != (_server(former) if former else None)


def _server(copy):
    for line in copy.values.split(b"\n"):
        if line.startswith(b"SERVER "):
            return line
    return None
