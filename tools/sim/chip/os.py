from collections import namedtuple

import usys
from uos import *  # noqa: F403

from _page import CHIP
from _term import dupterm, dupterm_notify

_release = "%d.%d.%d" % usys.implementation.version[:3]
_uname = namedtuple("uname", ("sysname", "nodename", "release", "version", "machine"))(
    CHIP, CHIP, _release, _release, "virtual " + CHIP
)


def uname():
    return _uname


def sync():
    pass


del system, getenv, putenv, unsetenv
