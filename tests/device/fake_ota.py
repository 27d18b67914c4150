"""Stands for the boot stage's resident face: keeps what the app asked for, resets nothing."""

import sys

slot = "a"
seq = 7
digest16 = bytes(range(16))
trial = False
raise_to = (7, 0)
rejection = None
install_failures = 0
has_server = True
version = 1
can_confirm = True  # a trial may be confirmed
server_seen_at = False
portal_rounds = 0
poll_extra = {}
alarms = []
events = []
board = {"id": "sim-01", "app": "demo", "class": "unix", "key": "11" * 32, "server": []}


class Board:
    @staticmethod
    def load():
        return board.copy()


class TwoCopies:
    @staticmethod
    def store(name, content):
        events.append((name, content))


def feed():
    pass


def watch():
    events.append("watch")


def answered():
    global server_seen_at
    server_seen_at = True


def confirm_if_due():
    global trial
    if trial and can_confirm and server_seen_at:
        trial = False
        events.append("confirmed")
    return not trial


def retry(d):
    global rejection
    rejection = None
    events.append("retry")


def _leave(what):
    events.append(what)
    raise SystemExit(what)


def exit(want):
    _leave({1: "install", 2: "rollback", 8: "portal"}[want])  # of rtc.WANT


def rescue_in(ticks):
    events.append(("rescue", ticks))


def mark(i, value):
    events.append(("mark", i, value))


def reset():
    _leave("reset")


def sleep(ms):
    _leave("sleep")


def veto(text):
    _leave("veto")


def stage(name):
    if name == "board":
        return Board
    if name == "wifi":
        # Fresh each time, because the runtime empties it.
        sys.modules.pop("fake_wifi", None)
        return __import__("fake_wifi")
    if name == "two_copies":
        return TwoCopies
    from bootloader import hmac256

    return hmac256
