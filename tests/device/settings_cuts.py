"""Settings: types, trial, and a power cut at every write and removal: clean, torn, just after."""

import os

import fake  # first: the rest lies on its disk
from loglines import tail

import config
import runtime
from runtime import health, log, settings

store = settings.store

ota = fake.ota
log.level = 9
DEFAULTS = {"NAME": config.NAME, "HEARTBEAT": config.HEARTBEAT, "SERVER": "", "LED_ON": 0}


class Cut(BaseException):
    pass


class Storage:
    """Counts operations and ends the life in the one with number `at`, in the way `how`."""

    def __init__(self, at=-1, how=""):
        self.at = at
        self.how = how
        self.n = 0

    def _now(self):
        self.n += 1
        return self.n - 1 == self.at

    def open(self, path, mode="r"):
        return Torn(self, path) if "w" in mode else open(path, mode)

    def remove(self, path):
        cut = self._now()
        if cut and self.how != "after":
            raise Cut
        os.remove(path)
        if cut:
            raise Cut

    def mkdir(self, path):
        os.mkdir(path)


class Torn:
    """A file that is written at its close(), whole, by half or not at all."""

    def __init__(self, storage, path):
        self._storage = storage
        self._path = path

    def write(self, b):
        self._b = b

    def close(self):
        how = self._storage.how
        cut = self._storage._now()
        if cut and how == "clean":
            raise Cut
        with open(self._path, "wb") as f:
            f.write(self._b[: len(self._b) // 2] if cut and how == "torn" else self._b)
        if cut:
            raise Cut


class Os:
    pass


def use(storage):
    store.open = storage.open
    store.os = Os()
    store.os.stat = os.stat
    store.os.remove = storage.remove
    store.os.mkdir = storage.mkdir


def boot():
    """A start of the board: defaults, then what is stored; return what the app sees."""
    for key, value in DEFAULTS.items():
        setattr(config, key, value)
    runtime.settings_trial = False
    settings.load()
    return config.NAME, config.HEARTBEAT


def clear():
    for n in "01":
        try:
            os.remove("/data/settings/" + n)
        except OSError:
            pass


def base():
    """Two changes, both confirmed: NAME one, HEARTBEAT 1."""
    clear()
    use(Storage())
    boot()
    for key, value in (("NAME", "one"), ("HEARTBEAT", 1)):
        settings.set(key, value)
        boot()
        store.confirm()
    assert boot() == ("one", 1) and not runtime.settings_trial


def good_life():
    settings.set("NAME", "two")
    boot()
    boot()
    store.confirm()
    boot()


def bad_life():
    settings.set("NAME", "two")
    for _ in range(5):
        boot()


def ordered_back():
    settings.set("NAME", "two")
    boot()
    store.rollback()
    boot()


def looked_at():
    settings.set("NAME", "two")
    for _ in range(4):
        boot()
        store.give_back_try()
    boot()
    store.confirm()
    boot()


def both():
    settings.change({"NAME": "two", "HEARTBEAT": 2})
    boot()
    store.confirm()
    boot()


LIVES = (
    (good_life, ("two", 1), ("two", 1)),
    (bad_life, ("two", 1), ("one", 1)),
    (ordered_back, ("two", 1), ("one", 1)),
    (looked_at, ("two", 1), ("two", 1)),
    (both, ("two", 2), ("two", 2)),
)


def cuts():
    runs = 0
    for life, new, ends in LIVES:
        base()
        use(Storage())
        life()
        assert boot() == ends, (life, boot())
        for how in ("clean", "torn", "after"):
            at = 0
            while True:
                base()
                storage = Storage(at, how)
                use(storage)
                try:
                    life()
                    break
                except Cut:
                    pass
                use(Storage())
                seen = boot()
                assert seen in (("one", 1), new), (life, how, at, seen)
                if at % 2:  # then all is well
                    store.confirm()
                    assert boot() == seen
                else:  # or it crashes on
                    trying = runtime.settings_trial
                    for _ in range(4):
                        seen_later = boot()
                    assert seen_later == (("one", 1) if trying else seen), (life, how, at)
                assert not runtime.settings_trial
                settings.change({"NAME": "three", "HEARTBEAT": 1})
                assert boot() == ("three", 1)
                at += 1
                runs += 1
    print("cuts", runs)


def rejected(key, value):
    try:
        settings.set(key, value)
    except ValueError:
        return
    raise AssertionError((key, value))


def types():
    clear()
    use(Storage())
    boot()
    rejected("NO_SUCH", 1)
    rejected("HEARTBEAT", "often")
    rejected("NAME", "two\nlines")
    rejected("NAME", "x" * 3000)
    settings.set("HEARTBEAT", "25")
    settings.set("NAME", "kitchen  table ")
    assert boot() == ("kitchen  table ", 25)
    settings.change({"NAME": None, "HEARTBEAT": 26})
    assert boot() == ("demo", 26)
    rejected("__name__", "x")
    try:
        settings.change({"NAME": "half", "HEARTBEAT": "x"})
    except ValueError:
        assert boot() == ("demo", 26)
    settings.set("NAME", "")
    assert boot() == ("", 26)


def wrong_on_flash():
    """A release may declare another type than the one that the value was stored under."""
    base()
    log.level = 1
    DEFAULTS["NAME"] = 5
    assert boot() == (5, 1)
    assert "NAME is of type int" in tail() and "one" not in tail()
    DEFAULTS["NAME"] = "demo"
    log.level = 9


CONFIG = """\
# A comment #: 1..2
NAME = "demo"  #: demo | kitchen
HEARTBEAT = 10  #: 1..60
SERVER = ""  #: url
LED_ON = 0  #: ..1
"""


def by_the_rules():
    """Bounds and choices are those of config.py, where it is there as source."""
    base()
    settings.change({"HEARTBEAT": 99, "NAME": "shed"})
    try:
        os.mkdir("/app_slots/a")
    except OSError:
        pass
    with open("/app_slots/a/config.py", "w") as f:
        f.write(CONFIG)
    log.level = 1
    assert boot() == ("demo", 10)
    log.level = 9
    for key, value in (("HEARTBEAT", 0), ("HEARTBEAT", 61), ("NAME", "x"), ("LED_ON", 2)):
        rejected(key, value)
    settings.change({"HEARTBEAT": 60, "NAME": "kitchen", "LED_ON": -5, "SERVER": "http://x"})
    assert boot() == ("kitchen", 60) and config.LED_ON == -5
    os.remove("/app_slots/a/config.py")


def garbage():
    base()
    for b in (b"", b"x" * 4000, b"settings 1 9 0\nNAME x\nend 00000000\n", b"\xff" * 40):
        for n in "01":
            with open("/data/settings/" + n, "wb") as f:
                f.write(b)
        assert boot() == ("demo", 10)


class App:
    """As much of one as settings and health look at."""

    class updater:
        answered = ""

    jobs = []

    def __init__(self):
        self.checks = []
        self.tallies = {}
        self.up = 0

    def tick(self, up, answered, sleeping=False):
        self.up = up
        self.updater.answered = answered
        health.settings(self, sleeping)


def restarts(app, up, answered):
    try:
        app.tick(up, answered)
    except SystemExit:
        return True
    return False


def in_time():
    """Confirmed after 60 s with an answer; without one the board starts again, then goes back."""
    app = App()
    base()
    settings.set("NAME", "two")
    app.tick(400, "x")  # what runs now is no try
    boot()
    app.tick(59, "x")
    app.tick(100, "")
    assert runtime.settings_trial
    app.tick(61, "x")
    assert not runtime.settings_trial and boot() == ("two", 1)
    settings.set("NAME", "three")
    for _ in range(3):
        assert boot() == ("three", 1)
        assert restarts(app, 300, "")
    assert boot() == ("two", 1)
    ota.trial = True
    try:
        settings.set("NAME", "four")
    except OSError:
        ota.trial = False
        return
    raise AssertionError("a change while a release is on trial")


def held():
    """What would hold back a release holds a change: a job that worked before, a check."""
    app = App()
    with open("/data/jobs", "w") as f:
        f.write("00\nsensor")
    base()
    log.level = 1
    settings.set("NAME", "two")
    boot()
    app.tallies["sensor"] = [0, 3, 3]
    app.tick(60, "x")
    assert runtime.settings_trial and restarts(app, 300, "x") and "job sensor" in tail()
    boot()
    app.tallies["sensor"] = [1, 3, 0]
    app.checks.append(lambda: False)
    app.tick(60, "x")
    assert runtime.settings_trial
    app.checks.clear()
    app.tick(75, "x")
    assert not runtime.settings_trial and boot() == ("two", 1)
    log.level = 9


def new_server():
    """A changed SERVER has to answer itself; an old one need not."""
    app = App()
    base()
    settings.set("SERVER", "http://new")
    boot()
    app.tick(60, "http://old")
    assert runtime.settings_trial and restarts(app, 300, "http://old")
    boot()
    app.tick(60, "http://new")
    assert not runtime.settings_trial
    boot()
    assert config.SERVER == "http://new"
    settings.set("HEARTBEAT", 2)
    boot()
    app.tick(60, "http://old")
    assert not runtime.settings_trial


def sleepers():
    """Before a deep sleep an answer is enough; none costs the try, and no reset."""
    app = App()
    base()
    settings.set("NAME", "two")
    boot()
    app.tick(5, "", True)
    assert runtime.settings_trial
    app.tick(5, "x", True)
    assert not runtime.settings_trial and boot() == ("two", 1)


def stopped():
    """A start that a person ends costs no try."""
    base()
    settings.set("NAME", "two")
    for _ in range(9):
        assert boot() == ("two", 1)
        store.give_back_try()
    for _ in range(3):
        assert boot() == ("two", 1)
    assert boot() == ("one", 1)
    store.give_back_try()
    assert boot() == ("one", 1)


def alone():
    """A board that names no server: ten minutes of running."""
    app = App()
    ota.has_server = False
    base()
    settings.set("NAME", "two")
    boot()
    app.tick(300, "")
    assert runtime.settings_trial
    app.tick(600, "")
    assert not runtime.settings_trial
    ota.has_server = True


def on_flash():
    """What is found there and does not fit."""
    wrong_on_flash()
    by_the_rules()
    garbage()


for test in (cuts, types, on_flash, in_time, held, new_server, sleepers, stopped, alone):
    test()
    print("passed", test.__name__)
