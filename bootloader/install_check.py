"""What the server offers, and telling it when that is refused."""

import ota
from bootloader.manifest import MAX, PREFIX, Rejected, hexa, signed
from bootloader.poll import Poll, trust_version


def download(b, r, state, name):
    """Poll and save the next trust file, else the offered manifest, as the file `name`.

    Returns (server's url, digest as hex or "", the trust file's version or 0). The manifest is the
    one that the reply named, whoever may have signed it: nothing else is judged. Raises Rejected
    with the code and that digest.
    """
    version = trust_version() + 1
    poll = Poll(b, r, state)
    poll.close()
    reply = poll.reply
    wanted = reply.get("m", "")
    for order in reply.get("do", ()):
        if order.startswith("ota-unlock 1\n"):
            ota.unlock(order)
    if reply["trust"] < version:
        version = 0
        if not wanted:
            return poll.url, wanted, version
    connection = ota.stage("http_download").Downloads(poll.url)
    try:
        if version:
            connection.save("/d/v1/trust/%d" % version, name, MAX)
            return poll.url, wanted, version
        connection.save("/d/v1/manifests/" + wanted, name, MAX)
        with open(name, "rb") as f:
            if hexa(signed(f, PREFIX)[0]) != wanted:
                raise Rejected("hash")
        return poll.url, wanted, version
    except Rejected as e:
        raise Rejected(e.args[0], wanted)
    finally:
        connection.close()


def report_rejection(b, r, state, wanted, code):
    """Tell the server that what it offered is refused, and why."""
    report(b, r, state, {"bad": {"m": wanted[:32], "why": code, "soft": 0, "trace": ""}})


def report(b, r, state, more):
    """Report `more`, if the server can be reached."""
    try:
        Poll(b, r, state, more).close()
    except OSError as e:
        print("report:", repr(e))
