"""What follows from a poll; loaded for each. `u` is the Updater.

What an answer asks for is done by the boot stage, after a reset.
"""

import machine
from binascii import unhexlify
from micropython import const

import ota
import runtime
from runtime import log
from runtime.scheduler import rand

_LONGEST = const(600)  # s between two polls of a server that does not answer
_LONGEST_TRIAL = const(60)
_ADDRESS = const(100)  # characters, as in server_address.py
_RESCUE = const(2400)  # ticks, as in scheduler.py
_BUSY = const(3600)  # s an app may put an update off
# Of bootloader/rtc.py's WANT. ota.install() and its like take heap that may not be there.
_INSTALL = const(1)
_ROLLBACK = const(2)


def missed(u, url, e):
    """No answer came from `url`: the next one has its turn, after a pause."""
    if isinstance(e, MemoryError):
        ota.rescue_in(_RESCUE)
    servers = u.servers
    u.index = (u.index + 1) % len(servers)
    # The pause doubles when all addresses had their turn.
    pause = min(4 << min(u.fails // len(servers), 9), _LONGEST_TRIAL if ota.trial else _LONGEST)
    u.fails += 1
    u.unknown = []  # what the server does not take is not said again
    if not u.fails % (4 * len(servers)):
        u.app.once(lambda: runtime.lend("network_changes").search(servers), "search")
    u.left = pause // 2 + rand(pause)
    log.warning("updater: no answer from %s (%r), again in %d s", url, e, u.left)


def obey(u, url, reply):
    """Do what the reply from `url` says."""
    u.fails = 0
    moved = reply.get("moved")
    if moved and (moved[:7] != "http://" or len(moved) > _ADDRESS):
        moved = None  # poll.py could not ask there
    if moved or url not in u.board["server"]:
        u.index = runtime.lend("network_changes").learn(u.board, u.servers, url, moved)
    elif not rand(16 if u.index else 1024):
        # Of many polls some go to others: an address that was learned, by whatever means, does not
        # keep the board from them for good; and from them it comes back.
        u.index = 0 if u.index else 1 % len(u.servers)
    u.ticket = str(reply.get("k", ""))[:16]
    if reply.get("stale") or u.trust is None:
        # Only a message with the ticket of the last reply counts: all of it again, with this.
        u.trust = None
        u.left = 0
        return
    every = min(max(int(reply.get("every", 300)), 1), 86400)
    u.left = every - every // 10 + rand(every // 5)
    u.answered = url
    u.time = reply.get("t"), u.app.up
    ota.answered()
    _obey(u, reply)


def _obey(u, reply):
    u.unknown = []
    for order in reply.get("do", ()):
        if order == "rollback":
            _leave(u, ota.exit, _ROLLBACK)
        elif order[:6] == "retry ":
            ota.retry(unhexlify(order[6:38]))
        elif order[:13] == "ota-unlock 1\n":
            if not ota.trial and ota.life_id in order:
                _leave(u, ota.unlock, order)
        else:
            u.unknown.append(order[:40])
    del u.unknown[4:]
    wanted = reply.get("m", "")
    if not ota.trial and (wanted or int(reply.get("trust", 0)) > u.trust):
        _install(u, unhexlify(wanted)[:16])
    else:
        u.since = None


def _install(u, digest):
    """Hand over to the boot stage's installer, unless it is too early for that."""
    up = u.app.up
    bad = ota.rejection
    if bad and digest == bad[0]:
        # Rejected for good, or softly: then again after 1, 2, 4 ... 24 h.
        if not bad[2] or _early(up, 3600 * min(1 << (bad[2] - 1), 24)):
            return
    # After an install that failed, the pause grows from half a minute to an hour.
    failures = ota.install_failures
    if runtime.settings_trial or failures and _early(up, min(15 << min(failures, 8), 3600)):
        return
    busy = u.app.busy
    if busy and busy():
        if u.since is None:
            u.since = up
        if up - u.since < _BUSY:
            log.info("updater: the app is busy, an update waits")
            return
    _leave(u, ota.exit, _INSTALL)


def _early(up, wait):
    """Whether `wait` s are not over; by lot where deep sleep makes each life shorter than that."""
    if machine.reset_cause() == machine.DEEPSLEEP_RESET:
        return rand(min(wait // 60, 64) + 1) > 0
    return up < wait


def _leave(u, how, *args):
    log.info("updater: leaving for the boot stage")
    u.app.stop()
    how(*args)
