"""Stands for the boot stage's resident face: keeps what the app asked for, resets nothing."""

import sys

slot = "a"
seq = 7
digest = bytes(range(16))
trial = False
raises = (7, 0)
bad = None
fails = 0
server = True
version = 1
ripe = True  # a trial may be confirmed
heard = False
offline = 0
more = {}
alarms = []
events = []
board = {"id": "sim-01", "app": "demo", "class": "unix", "key": "11" * 32, "server": []}


class Board:
    @staticmethod
    def load():
        return board.copy()


class Pair:
    @staticmethod
    def store(name, content):
        events.append((name, content))


def feed():
    pass


def watch():
    events.append("watch")


def answered():
    global heard
    heard = True


def settle():
    global trial
    if trial and ripe and heard:
        trial = False
        events.append("confirmed")
    return not trial


def forget(d):
    global bad
    bad = None
    events.append("forget")


def _leave(what):
    events.append(what)
    raise SystemExit(what)


def install():
    _leave("install")


def portal():
    _leave("portal")


def mark(i, value):
    events.append(("mark", i, value))


def rollback():
    _leave("rollback")


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
    if name == "pair":
        return Pair
    from bootloader import wire

    return wire
