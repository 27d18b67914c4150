"""Stands for the boot stage's resident face: keeps what the app asked for, resets nothing."""

slot = "a"
seq = 7
digest = bytes(range(16))
trial = False
bad = None
fails = 0
server = True
version = 1
ripe = True  # a trial may be confirmed
heard = False
events = []
board = {"id": "sim-01", "app": "demo", "class": "unix", "key": "11" * 32, "server": []}


class Board:
    @staticmethod
    def load():
        return board


class Wifi:
    @staticmethod
    def start():
        events.append("wifi")


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
        return Wifi
    from bootloader import wire

    return wire
