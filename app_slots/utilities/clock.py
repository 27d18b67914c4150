"""The time of day, from an NTP server (ntp.py), else from the answers of the OTA server.

It runs on the ticks between two answers, and nothing waits for it. What `machine.RTC` and `time`
say follows, in UTC. Jobs do not depend on any of this (runtime.scheduler); those at a time of day
are in daily.py.
"""

# config: NTP = "pool.ntp.org"
# config: TIMEZONE = "UTC0"  #: tz

import machine
import sys
from micropython import const
from time import ticks_diff, ticks_ms

import config
import ota
from runtime import log
from runtime.scheduler import rand
from utilities.tz import Zone

_EVERY = const(14400)  # s between two questions when they are answered
_LONGEST = const(3600)  # s between two that are not
_NEAR = const(300)  # s that NTP may be away from what the OTA server said, which is authentic
_SINCE_2020 = 1577836800

zone = Zone("UTC0")
source = ""  # "ntp", "server", or "": the time is not known
_app = None
_host = ""  # of the NTP server
_ms = 0  # milliseconds since 1970 at the ticks _at
_at = 0
_said = None  # what the updater had when it was last looked at
_server = None  # seconds that the OTA server's clock is ahead of app.up
_left = 0  # s to the next question
_fails = 0


def start(app):
    """Keep the time from now on, by config.NTP and TIMEZONE; done again, it does nothing."""
    global _app, _host, zone
    if _app is app:
        return
    _app = app
    _host = config.NTP  # pyright: ignore
    rule = config.TIMEZONE  # pyright: ignore
    try:
        zone = Zone(rule)
    except (ValueError, IndexError):
        log.error("clock: %s is no time zone, UTC it is", rule)
    app.every(1000, _tick, "clock")


def now():
    """Return the seconds since 1970 in UTC, 0 while the time is not known."""
    return (_ms + ticks_diff(ticks_ms(), _at)) // 1000 if source else 0


def local():
    """Return (year, month, day, hour, minute, second, weekday) here; Monday is 0."""
    return zone.local(now())


def text():
    """Return the local time as 2026-11-24 07:30:00, "" while it is not known."""
    return "%04d-%02d-%02d %02d:%02d:%02d" % local()[:6] if source else ""


def _tick():
    """Move the time on; return the coroutine of a question when one is due."""
    global _ms, _at, _left, _said, _server
    ticks = ticks_ms()
    _ms += ticks_diff(ticks, _at)
    _at = ticks
    said = _app.updater.time
    if said is not _said:
        _said = said
        if isinstance(said[0], int) and _plausible(said[0]):
            _server = said[0] - said[1]
            t = _server + _app.up
            if source != "ntp" or abs(t - now()) > _NEAR:
                _set(t * 1000, "server")
    _left -= 1
    if _left < 0 and _host and _app.wifi.up:
        _left = _LONGEST
        return _question()
    return None


def _plausible(t):
    """Whether `t` lies after this release was made, and before 2100."""
    return ota.seq * 60 + _SINCE_2020 - 86400 < t < 4102444800


async def _question():
    global _left, _fails
    try:
        __import__("utilities.ntp")
        ask = sys.modules.pop("utilities.ntp").ask
        sys.modules["utilities"].__dict__.pop("ntp")
        ms = await ask(_host)
        t = ms // 1000
        if not _plausible(t) or _server is not None and abs(_server + _app.up - t) > _NEAR:
            raise ValueError("it is wrong")
        _set(ms, "ntp")
        _fails = 0
        _left = _EVERY
    except (OSError, ValueError, IndexError, MemoryError) as e:
        _left = min(8 << min(_fails, 9), _LONGEST)
        _fails += 1
        log.warning("clock: no time from %s (%r), again in %d s", _host, e, _left)
    _left += rand(_left // 4)


def _set(ms, by):
    global _ms, _at, source
    was = now()
    known = source
    _ms = ms
    _at = ticks_ms()
    source = by
    t = now()
    y, m, d, hours, minutes, seconds, weekday = Zone("UTC0").local(t)
    machine.RTC().datetime((y, m, d, weekday, hours, minutes, seconds, 0))
    if not known:
        log.info("clock: %s by %s", text(), by)
    elif abs(t - was) > 1:
        log.warning("clock: %s by %s, %d s on", text(), by, t - was)
