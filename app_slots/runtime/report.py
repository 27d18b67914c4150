"""What every poll says (docs/protocol.md); loaded for each. `u` is the Updater.

Written as text: as keys of a dictionary all these words would stay in the chip's memory for good,
as every short text does (tools/app/compile/names.py).
"""

import gc
import json
from binascii import hexlify
from micropython import const

import ota
import runtime
from runtime import log

_REPORTED = const(4)  # failing jobs


def make(u, nonce):
    """Return the message as JSON without its last brace, and the failures that it tells of."""
    app = u.app
    text = '{"id":"%s","n":"%s","k":%s,"seq":%d,"m":"%s","state":"%s","heap":%d,"up":%d' % (
        u.board["id"],
        nonce,
        json.dumps(u.ticket),
        ota.seq,
        hexlify(ota.digest16).decode(),
        "trial" if ota.trial else "ok",
        gc.mem_free(),
        app.up,
    )
    if u.unknown:
        text = '%s,"unk":%s' % (text, json.dumps(u.unknown))
    failing = failures(app.tallies)
    if app.blocked_by:
        text += ',"held":1,"jobs":' + json.dumps(failing)
    elif failing != u.sent:
        text = '%s,"jobs":%s' % (text, json.dumps(failing))
    caught = log.__dict__.get("caught")  # see describe.py
    never = ""
    for name, tally in app.tallies.items():
        if tally[1] and not tally[0]:
            never = name
    if u.trust is not None and (caught or (never and caught is None)):
        part = runtime.lend("describe")
        text += part.failing_job(u, never)
        part.__dict__.clear()
    if ota.poll_extra:
        text += "," + json.dumps(ota.poll_extra)[1:-1]
    return text, failing


def failures(tallies):
    """Return {name: [failed runs, good runs]} of the jobs that failed most."""
    worst = sorted(((t[1], n) for n, t in tallies.items() if t[1]), reverse=True)
    return {n[:24]: [bad, tallies[n][0]] for bad, n in worst[:_REPORTED]}
