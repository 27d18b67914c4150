"""Asks NTP servers as the words say, `port:number:time of the OTA server`, with real time."""

import asyncio
import time

import fake


class RTC:
    def datetime(self, fields):
        pass


fake.machine.RTC = RTC
import config  # noqa: E402

config.NTP = ""
config.TIMEZONE = "UTC0"
from runtime import log  # noqa: E402
from runtime.scheduler import Scheduler  # noqa: E402
from utilities import clock  # noqa: E402

fake.ota.seq = 1
said = []


def warning(text, *args):
    said.append(text % args)


log.warning = warning


class App(Scheduler):
    class updater:
        time = None

    class wifi:
        up = True


class WLAN(fake.WLAN):
    def ifconfig(self):
        return ("127.0.0.1",) * 4


fake.network.WLAN = WLAN


async def names(port):
    """By a name server at `port`, which knows one of three."""
    from utilities import ntp

    ntp.name_port = port
    for name in ("time.example.org", "alias.example.org", "none.example.org", "bad.example.org"):
        try:
            print("name", name, await ntp._address(name))
        except (OSError, ValueError, IndexError) as e:
            print("name", name, repr(e))


async def main(words):
    app = App()
    clock.start(app)
    beats = []

    async def beat():
        while True:
            before = time.ticks_ms()
            await asyncio.sleep_ms(10)
            beats.append(time.ticks_diff(time.ticks_ms(), before))

    task = asyncio.create_task(beat())
    await names(int(words[0]))
    for word in words[1:]:
        port, number, server = word.split(":")
        clock._host = "127.0.0.1:" + port
        clock.source = ""
        clock._server = int(server) if server else None
        clock._fails = 0
        await clock._question()
        seen = clock.source or said[-1].replace(" ", "-")
        print(port, number, "|", seen, clock.now(), clock._left)
    task.cancel()
    print("beats", len(beats))


asyncio.run(main(fake.args))
