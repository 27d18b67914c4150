"""What every poll says (docs/protocol.md); loaded for each. `u` is the Updater.

Written as text: as keys of a dictionary all these words would stay in the chip's memory for good,
as every short text does (tools/app/compile/names.py).
"""

import gc
import json
from binascii import hexlify
from micropython import const

import ota
from runtime import log

_REPORTED = const(4)  # failing jobs
_JOB = const(60)  # characters: which job failed
_JOB_TRACE = const(180)  # of its traceback's end


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
    caught = log.__dict__.get("caught")
    never = ""
    for name, tally in app.tallies.items():
        if tally[1] and not tally[0]:
            never = name
    if u.trust is not None and (caught or (never and caught is None)):
        text += _never_succeeds(u, never)
    if ota.poll_extra:
        text += "," + json.dumps(ota.poll_extra)[1:-1]
    return text, failing


def failures(tallies):
    """Return {name: [failed runs, good runs]} of the jobs that failed most."""
    worst = sorted(((t[1], n) for n, t in tallies.items() if t[1]), reverse=True)
    return {n[:24]: [bad, tallies[n][0]] for bad, n in worst[:_REPORTED]}


def _never_succeeds(u, name):
    """Return the traceback of the job `name`, which never succeeded, as JSON to go on with.

    Exceptions of jobs are not kept: that would cost every board the heap. A sink of the log waits
    for the job's next one that the log tells, the 2nd, 4th, 8th ... in a row. One in a life of the
    board: `log.caught` has the sink, then the text, and is empty once that has been answered, or
    when `name` is "" because none fails any more.
    """
    caught = log.__dict__.get("caught")
    if caught is None:
        caught = log.caught = []  # pyright: ignore
        caught.append(_sink(caught, " %s failed, " % name))
        log.sinks.append(caught[0])
    elif len(caught) == 1 and name:
        pass  # nothing has come yet
    elif len(caught) == 2:
        caught.append(True)
    elif len(caught) == 1 or not u.fails:
        log.sinks.remove(caught[0])
        caught.clear()
    return ',"job":' + json.dumps(caught[1]) if len(caught) > 1 else ""


def _sink(caught, mark):
    # No name of this module is in here: they are gone when it is called.
    def sink(_, line):
        i = line.find(mark)
        if i >= 0 and len(caught) == 1:
            caught.append(mark[1:-2][:_JOB] + line[line.find("\n") :][-_JOB_TRACE:])

    return sink
