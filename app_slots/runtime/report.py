"""What every poll says (docs/protocol.md); loaded for each. `u` is the Updater."""

import gc
from binascii import hexlify
from micropython import const

import ota

_REPORTED = const(4)  # failing jobs


def make(u, nonce):
    """Return the message as a dict, and the failures that it tells of."""
    app = u.app
    message = {
        "id": u.board["id"],
        "n": nonce,
        "k": u.ticket,
        "seq": ota.seq,
        "m": hexlify(ota.digest).decode(),
        "state": "trial" if ota.trial else "ok",
        "heap": gc.mem_free(),
        "up": app.up,
    }
    if u.unknown:
        message["unk"] = u.unknown
    if app.held:
        message["held"] = 1
    failing = failures(app.tallies)
    if app.held or failing != u.sent:
        message["jobs"] = failing
    message.update(ota.more)
    return message, failing


def failures(tallies):
    """Return {name: [failed runs, good runs]} of the jobs that failed most."""
    worst = sorted(((t[1], n) for n, t in tallies.items() if t[1]), reverse=True)
    return {n[:24]: [bad, tallies[n][0]] for bad, n in worst[:_REPORTED]}
