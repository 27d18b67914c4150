"""What is rare: Wi-Fi comes or goes, the network or the server has moved. Loaded for the moment."""

# config: PORTAL = 30  #: 0..

from asyncio import sleep_ms
from micropython import const

import config
import ota
import runtime
from runtime import log

_STEP = const(15)  # s, as in wifi.py
_LONGEST = const(20)  # steps between two new beginnings
_AT_START = const(60)  # s without Wi-Fi after a start before the portal opens
_PORTAL = const(8)  # bootloader/rtc.py's WANT, and an index there
_PORTALS = const(7)
_SERVERS = const(6)  # addresses at most
_HEARS = const(1000)  # ms in which an answer to a call is expected


def changed(wifi):
    """Wi-Fi came or went: tell everybody."""
    log.info("wifi: %s", wifi.address() if wifi.up else "lost")
    wifi.been = True
    if ota.portal_rounds:
        ota.mark(_PORTALS, 0)
        ota.portal_rounds = 0
    for fn in wifi.app.on_wifi:
        wifi.app.once(fn)


def down(wifi):
    """Called every 15 s without Wi-Fi; return the turn of a new beginning when one is due, else 0.

    It is due after 15, 45, 105 s ..., then every 5 minutes.
    """
    app = wifi.app
    patience = _patience(wifi)
    busy = ota.trial or runtime.settings_trial or app.busy and app.busy()
    if patience and wifi.down >= patience and not busy:
        log.warning("wifi: none for %d s, opening the portal", wifi.down)
        app.stop()
        ota.exit(_PORTAL)
    step = wifi.down // _STEP
    if not step & (step + 1) or not step % _LONGEST:
        log.info("wifi: trying again")
        return step
    return 0


def _patience(wifi):
    """Return the s until the portal opens, the more the more often it was of no use; 0: never."""
    if "portal" not in wifi.board:
        return 0
    later = 60 * getattr(config, "PORTAL", 30)
    if ota.portal_rounds:
        return later << min(ota.portal_rounds - 1, 5)
    return later if wifi.been else min(_AT_START, later)


def learn(board, servers, url, moved):
    """`url` has proved itself: ask it first from the next start on. Return whom to ask next."""
    known = board["server"]
    if url not in known:
        known.append(url)
        try:
            ota.stage("two_copies").store("s", url.encode())
        except OSError as e:
            log.error("updater: %s is not kept: %r", url, e)
    if moved and moved not in servers:
        servers.insert(0, moved)
        del servers[_SERVERS:]
        return 0
    return servers.index(url) if url in servers else 0


async def search(servers):
    """Call for the server in the local network; what answers is tried in its turn."""
    called = ota.stage("server_discovery").broadcast(ota.stage("board").load())
    try:
        await sleep_ms(_HEARS)
        url = ota.stage("server_discovery").answer(*called)
    finally:
        called[0].close()
    if url and url not in servers and len(servers) < _SERVERS:
        log.info("updater: found %s", url)
        servers.append(url)
