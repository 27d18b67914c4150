"""The one loop: jobs, drivers, Wi-Fi, updates, on asyncio.

A job or driver that raises is logged and counted and disturbs nobody else. An exception of the
loop itself leaves it and is a crash; Ctrl-C leaves it too and is none.
"""

# config: LOG_LEVEL = 1  #: 0..3
# config: SERVER = ""  #: url

import asyncio
import gc
import machine
from micropython import const
from time import ticks_add, ticks_diff, ticks_ms

import config
import ota
import runtime
from runtime import log
from runtime.driver import Runner
from runtime.scheduler import Scheduler
from runtime.updater import Updater
from runtime.wifi import Wifi

_REMEMBER = const(60)  # s after which a confirmed release's jobs have shown what they can do
_LOOK = const(15)  # s between two looks at settings on trial
_ENDS = const(1200)  # s after which that trial is over, even if the heap was too full to judge it
_LONGEST_SLEEP = const(4294967)  # ms, of an ESP8266, as in app_api.py


class App(Scheduler):
    """What `setup` gets: the scheduler, and the places to hang drivers, checks and hooks on."""

    def __init__(self):
        super().__init__()
        self.checks = []
        self.busy = None  # a function; while it returns true, updates wait, an hour at most
        self.blocked_by = ""  # what holds the confirmation of a trial back
        self.updater = None  # type: Updater  # pyright: ignore # set by run()
        self.wifi = None  # type: Wifi  # pyright: ignore
        self.on_wifi = []  # functions that run as jobs when Wi-Fi came or went: wifi.up tells
        self.drivers = []  # what stop() stops
        self._remembered = False

    def driver(self, driver, name=None):
        """Run `driver` (see runtime.driver) as a job called `name`, else like its class."""
        runner = Runner(driver)
        self.drivers.append(runner)
        return self.every(driver.period, runner, name or type(driver).__name__)

    def check(self, fn):
        """Do not confirm a release on trial before `fn()` returns true; return `fn`."""
        self.checks.append(fn)
        return fn

    def stop(self):
        """Stop all drivers, before a reset. One that fails keeps no other from it."""
        for runner in self.drivers:
            try:
                runner.stop()
            except Exception as e:
                log.error("a driver did not stop\n%s", log.trace(e))

    def sleep(self, ms):
        """Sleep deeply for `ms`. A trial is confirmed first when the server has answered."""
        self.stop()
        try:
            if runtime.settings_trial:
                runtime.lend("health").settings(self, True)
            ota.sleep(ms)
        except MemoryError:  # app_api.py does not fit: the same by what is here already
            if ota.trial and (ota.server_seen_at or not ota.has_server):
                ota.mark(0, 6)  # rtc.END is rtc.HEALTHY: the next boot has the heap to confirm it
                machine.reset()
            ota.mark(0, 6 if ota.server_seen_at else 4)  # rtc.HEALTHY, rtc.SLEEP
            machine.deepsleep(min(ms, _LONGEST_SLEEP))

    def second(self):
        """What the loop looks after each second."""
        log.up = self.up
        if runtime.settings_trial and self.up > _ENDS:
            ota.reset()
        if self.updater.busy or self.updater.waits:
            return  # what a poll or a connection has lent leaves no room for the judge
        if ota.trial:
            if _confirmed(self):
                self.updater.soon()
            runtime.wipe()  # what the judge has left would be missing until the next second
        elif ota.confirm_if_due() and not self._remembered and self.up >= _REMEMBER:
            part = runtime.lend("health")
            self._remembered = True  # also where the flash is full, which takes seconds to tell
            part.remember(self)
        if runtime.settings_trial and not self.up % _LOOK:
            runtime.lend("health").settings(self, False)


async def _main(app):
    def lost(_, context):
        """A task of the app's own ended by an exception that nobody waits for."""
        app.tallies.setdefault("task", [0, 0, 0])[1] += 1  # told like a job that fails
        log.error("a task failed\n%s", log.trace(context["exception"]))

    asyncio.get_event_loop().set_exception_handler(lost)
    while True:
        ota.feed()
        wait = app.step()
        due = ticks_add(ticks_ms(), wait)
        await asyncio.sleep_ms(wait)
        app.check_late(ticks_diff(ticks_ms(), due))


def _confirmed(app):
    # In a frame of its own, which wipe() reaches.
    return runtime.lend("health").confirmed(app)


def _board():
    """What the loop needs of the board file."""
    board = ota.stage("board").load()
    board.pop("webrepl", None)
    if "portal" in board:
        board["portal"] = ""  # whether there is one is all that counts here
    return board


def run(setup):
    """Call `setup(app)` with an App, then run the loop until Ctrl-C or its own failure."""
    log.level = config.LOG_LEVEL
    app = App()
    board = _board()
    app.wifi = wifi = Wifi(app, board)
    app.updater = Updater(app, wifi, board, config.SERVER)
    if not app.updater.servers:
        # The boot stage, which has not looked, shall not poll in its stead.
        ota.has_server = False
        ota.rescue_at = 1 << 29  # ticks that never come
    app.every(1000, wifi.tick, "wifi")
    app.every(1000, app.updater.tick, "updater")
    app.every(1000, app.second, "second")
    gc.collect()
    setup(app)
    runtime.wipe()
    try:
        asyncio.run(_main(app))
    finally:
        app.stop()
