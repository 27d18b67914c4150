"""What a board does with apps that misbehave, and what its server learns of them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from mipy_ota.signing import bundle
from mipy_ota.tools.flash import firmware, plan
from mipy_ota.tools.keys import store as keys
from tests.support import apps, fleet, stock
from tests.support.apps import BAD, BEGIN, GOOD, LOOP, Story, story, with_runtime
from tests.support.powercut import newest_record, patched, write_record

# --- bad apps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_bad_release_on_trial(tmp_path: Path, name: str) -> None:
    """Three tries at most; the old release runs, the server knows why, the next one is taken."""
    bad = BAD[name]
    first = apps.TIDY if name == "fills" else GOOD
    speed = 20 if name == "fills" else 100  # filling the flash must not outlast a trial
    with story(tmp_path, first, speed=speed, blocks=128) as it:
        it.board.start()
        it.polls(1)
        source = BEGIN + bad.source
        digest = it.publish(source)
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == (bad.reason, bad.soft)
        if name == "memory":  # there is none for a traceback
            return
        assert bad.text in told["trace"]
        if name != "fills":  # where there is no room for a traceback
            assert apps.line_of(source) in told["trace"]
        it.polls(3)
        assert it.begun(1001) == bad.tries
        it.confirmed(it.publish(GOOD))
        assert it.begun(1001) == bad.tries


@pytest.mark.parametrize(
    "name", [name for name in BAD if name not in ("import", "exits", "sleeps")]
)
def test_confirmed_release_turns_bad(tmp_path: Path, name: str) -> None:
    """Five short lives, then the other slot, for good."""
    bad = BAD[name]
    first = apps.TIDY if name == "fills" else GOOD
    speed = 100 if name == "hangs" else 20
    with story(tmp_path, first, speed=speed, blocks=128) as it:
        it.board.start()
        it.polls(1)
        source = apps.turning(bad.source)
        digest = it.publish(source)
        it.confirmed(digest)
        before = it.begun(1001)
        it.turn()
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == (bad.later, bad.later == "verify")
        if name == "memory":  # there is none for a traceback
            return
        assert bad.text in told["trace"]
        if name != "fills":
            assert apps.line_of(source) in told["trace"]
        it.polls(3)
        assert it.begun(1001) - before == (1 if bad.later == "verify" else 5)
        it.confirmed(it.publish(GOOD))


@pytest.mark.parametrize("name", apps.BAD_ON_RUNTIME)
def test_bad_release_on_the_runtime(tmp_path: Path, name: str) -> None:
    """It ends on a confirmed release, and the server knows why."""
    bad = apps.BAD_ON_RUNTIME[name]
    speed = 100 if name in ("memory", "hangs") else 20  # 15 minutes of a trial pass
    with story(tmp_path, apps.TIDY, speed=speed, blocks=160) as it:
        it.boot(1000)
        digest = it.publish(with_runtime(bad.source))
        it.install()
        it.board.start()
        ended = it.rejected(digest)
        expected = [(bad.reason, bad.soft)]
        if name == "memory":  # whether the loop finds enough to go on is a matter of bytes,
            # and whether there is enough to say whose time was up
            expected += [("timeout", True), ("watchdog", False)]
            assert it.board.age < 2 * 3600  # three tries of a quarter of an hour
        assert (ended["reason"], ended["soft"]) in expected
        assert bad.text in ended["trace"]
        assert it.begun(1001) <= bad.tries
        it.confirmed(it.publish(GOOD))


def test_a_full_flash_ends_no_app_on_the_runtime(tmp_path: Path) -> None:
    """What fills it is told as a job that fails; the release is good for the rest."""
    with story(tmp_path, apps.TIDY, speed=20, blocks=160) as it:
        it.boot(1000)
        digest = it.publish(with_runtime(apps.FILLS))
        it.install()
        it.board.start()
        it.confirmed(digest)
        it.until(lambda record: record["jobs"].get("bad"))
        assert "OSError: 28" in it.board.console


BRIM = """\
from runtime.logfile import LogFile
LogFile(app)
def fill():
    size = 4096
    n = 0
    while size > 16:
        n += 1
        ota.feed()
        f = open('/data/junk%d' % n, 'wb')
        try:
            f.write(bytes(size))
        except OSError:
            size //= 2
        try:
            f.close()
        except OSError:
            size //= 2
app.after(2000, fill)
"""


def test_a_log_on_a_full_flash_keeps_no_update_off(tmp_path: Path) -> None:
    """Its file cannot be written then, neither at a start nor before an update."""
    with story(tmp_path, apps.TIDY, speed=5, blocks=160) as it:
        it.boot(1000)
        digest = it.publish(with_runtime(BRIM))
        it.install()
        it.board.start()
        it.confirmed(digest)
        it.until(lambda record: record["jobs"].get("log file"))
        it.board.power_cut()
        it.publish(with_runtime("pass\n"))
        it.says("ota: b 1001 /install")
        said = it.board.console
        assert "a driver did not stop" in said[: said.index("ota: b 1001 /install")]


FULL = """\
import gc, sys
had = list(sys.modules)
taken = [None] * 800  # once: a list that grows finds no room in one piece
fit = n = 0
for room in range(300, 9000, 150):
    gc.collect()
    try:
        while gc.mem_free() > room:
            taken[n] = bytearray(48)
            n += 1
        ota.stage("wifi")
        fit += 1
    except MemoryError:
        pass
    while n:
        n -= 1
        taken[n] = None
    assert len(sys.modules) == len(had), (room, list(sys.modules))
    for k in sys.modules:
        assert k in had, (room, k)
print("it fits", 0 < fit < 58)
"""


@pytest.mark.parametrize("shift", (0, 25, 73, 145))
def test_what_finds_no_room_does_not_stay(tmp_path: Path, shift: int) -> None:
    """A part of the boot stage that is loaded into too little heap, wherever that ends.

    `shift` bytes move all that follows them on the heap: MicroPython may have room for a module's
    name among the loaded ones, and none for the module.
    """
    with story(tmp_path, BEGIN + f"shift = bytes({shift})\n" + FULL + LOOP) as it:
        it.board.start()
        it.says("it fits True")


TASK = """\
import asyncio
async def bad():
    await asyncio.sleep(2)
    raise ValueError('dust')
asyncio.create_task(bad())
"""


def test_a_task_that_fails_is_told(tmp_path: Path) -> None:
    """As a job's failures are."""
    with story(tmp_path, with_runtime(TASK)) as it:
        it.board.start()
        assert it.until(lambda record: record["jobs"], 25)["jobs"] == {"task": [1, 0]}
        assert "ValueError: dust" in it.board.console


def test_hang_without_a_watchdog(tmp_path: Path) -> None:
    """The boot stage's 15 minutes end each try, where no server vouches for the release."""
    with story(tmp_path, speed=200) as it:
        it.boot(1000)
        digest = it.publish(BEGIN + "while True:\n    pass\n")
        it.install()
        it.board.radio(up=False)
        it.board.speed = 1000
        assert it.tries() == [1001, 1001, 1001, 1000]
        it.board.speed = 200
        it.board.radio(up=True)
        it.board.start()
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == ("timeout", True)


# --- orders that cannot be followed ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "runtime"])
@pytest.mark.parametrize("why", ["empty", "floor"])
def test_rollback_that_cannot_be(tmp_path: Path, why: str, kind: str) -> None:
    """The other slot is empty, or below the floor: five resets, then the order is over.

    A plain app's release polls before it starts, in a life that ends with a reset of its own.
    """
    app = {"main.py": GOOD} if kind == "plain" else with_runtime(STEADY)
    with story(tmp_path, app) as it:
        it.board.start()
        it.polls(1)
        if why == "floor":
            made = fleet.release(dict(app), 1001, floor=1001)
            it.confirmed(it.fleet.publish(made)[:32])
        it.polls(2)  # the second one is the app's, after that reset
        runs, lives = it.record()["seq"], len(it.board.lives)
        it.fleet.post("/api/boards/b1/orders", json={"order": "rollback"})
        it.until(lambda record: not record["orders"])
        it.polls(3)
        assert (it.record()["seq"], it.record()["rejected"]) == (runs, [])
        assert len(it.board.lives) - lives == (6 if kind == "plain" else 5)
        ended = it.fleet.get("/api/boards/b1/events")[-1]
        assert (ended["kind"], ended["reason"]) == ("order-ended", "the board did not follow")


# --- good ones ------------------------------------------------------------------------------------

FOLDERS = {
    "main.py": BEGIN + "import helper\nfrom sensors import dust\nprint(dust.read(helper.ONE))\n",
    "sensors/__init__.py": "",
    "sensors/dust.py": "def read(n):\n    return 'dust %d' % (42 // n)\n",
    "lib/helper.py": "ONE = 1\n",
}
WAITS = "while True:\n    time.sleep(1)\n"


@pytest.mark.parametrize("rest", ["", WAITS, LOOP], ids=["returns", "never asks", "asks"])
def test_app_with_folders_of_its_own(tmp_path: Path, rest: str) -> None:
    """A blocking main.py is confirmed, and rolled back, with or without a word to `ota`."""
    good = {**FOLDERS, "main.py": FOLDERS["main.py"] + rest}
    with story(tmp_path) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(good)
        it.confirmed(digest)
        it.says("dust 42")
        assert not it.record()["rejected"]
        if rest == LOOP:
            bad = it.publish({**good, "lib/helper.py": "ONE = 0\n"})
            told = it.rejected(bad)
            assert (told["reason"], told["soft"]) == ("exception", False)
            assert 'File "sensors.dust", line 2' in told["trace"]
            assert it.record()["digest"] == digest


# On trial orderly, later as people do it who have never heard of `ota.sleep`.
SLEEPERS = {
    "plain": BEGIN + "time.sleep(2)\n(ota.sleep if ota.trial else machine.deepsleep)(20000)\n",
    "runtime": with_runtime(
        """\
def doze():
    if app.updater.answered:
        (app.sleep if ota.trial else machine.deepsleep)(20000)
app.every(1000, doze)
"""
    ),
}


@pytest.mark.parametrize("name", SLEEPERS)
def test_sleeper(tmp_path: Path, name: str) -> None:
    """Confirmed before its first sleep; that it wakes from one is no crash."""
    with story(tmp_path) as it:
        it.boot(1000)
        digest = it.publish(SLEEPERS[name])
        it.install()
        naps = 0
        while naps < 7:
            life = it.board.life(timeout=apps.HOURS)
            assert life.cause in ("reset", "deepsleep"), life
            naps += life.cause == "deepsleep"
        assert it.begun(1001) == naps  # none was a second try
        assert it.board.rtc[apps.CRASHES] == 0
        it.confirmed(digest)
        assert not it.record()["rejected"]


def interrupted(it: Story) -> None:
    """Live until the app says that it is calm, press Ctrl-C; then somebody presses reset."""
    before = it.board.console.count("calm")
    pressed = False

    def press(_: object) -> bool:
        nonlocal pressed
        if not pressed and it.board.console.count("calm") > before:
            pressed = True
            it.board.ctrl_c()
        return False

    for _ in range(3):
        life = it.board.life(until=press, timeout=apps.HOURS)
        if pressed:
            assert life.cause == "repl", life.console
            return
    raise AssertionError(it.board.console[-6000:])


CALM = BEGIN + "print('calm')\ntime.sleep(5)\n" + LOOP


def test_ctrl_c_and_the_reset_button_are_no_crash(tmp_path: Path) -> None:
    """Neither of a confirmed app, six times each in a row."""
    with story(tmp_path, CALM, speed=10) as it:
        for _ in range(6):
            interrupted(it)
        for _ in range(6):
            interrupted(it)
            it.remember(apps.END, apps.RUNNING)  # the button alone
        it.boot(1000)
        assert it.begun(1000) == 13, it.board.console[-6000:]
        it.board.start()
        record = it.until(lambda record: record["state"] == "ok")
        assert (record["seq"], record["rejected"]) == (1000, [])


def test_ctrl_c_costs_no_try(tmp_path: Path) -> None:
    """A release on trial is stopped six times, and confirmed for all that."""
    with story(tmp_path, speed=10) as it:
        it.boot(1000)
        digest = it.publish(CALM)
        it.install()
        for _ in range(6):
            interrupted(it)
        it.board.start()
        it.confirmed(digest)
        assert it.begun(1001) == 7
        assert not it.record()["rejected"]


# Where Ctrl-C strikes: an edit of the boot stage, as in powercut.py.
STRIKES = {
    "the record is read": ("record.py", "    best = None\n", ""),
    "files are hashed": ("slots.py", "        for name, size, sha in m.files():\n", "    "),
    "signatures are verified": ("verify_manifest.py", '    return ota.stage("trust")', ""),
    "the app is next": ("start.py", "    if resident.plain:\n        resident.poll_at", ""),
    "all is handed over": ("start.py", '    print("ota:", resident.slot', ""),
}


def struck(when: str) -> dict[str, bytes]:
    """The files of the boot stage with that strike in them."""
    file, line, inside = STRIKES[when]
    return patched(((file, line, f"{inside}    raise KeyboardInterrupt\n{line}"),))


@pytest.mark.parametrize("when", STRIKES)
def test_ctrl_c_in_the_boot_stage_costs_no_try(tmp_path: Path, when: str) -> None:
    """Six times in a row, while a release is on trial."""
    with story(tmp_path) as it:
        it.boot(1000)
        digest = it.publish(GOOD)
        it.install()
        strike = struck(when)
        before = {path: it.board.read(path) for path in strike}
        for path, content in strike.items():
            it.board.write(path, content)
        for _ in range(6):
            while (life := it.board.life(timeout=apps.HOURS)).cause == "reset":
                assert "/prepare" in life.console, life.console
            assert life.cause == "repl", life.console
        for path, content in before.items():
            it.board.write(path, content)
        it.board.start()
        it.confirmed(digest)
        assert (it.begun(1001), it.record()["rejected"]) == (1, [])


def test_ctrl_c_in_the_boot_stage_keeps_what_the_life_before_said(tmp_path: Path) -> None:
    """How a try has ended is not forgotten either."""
    with story(tmp_path) as it:
        it.boot(1000)
        it.publish(GOOD)
        it.install()
        for path, content in struck("the record is read").items():
            it.board.write(path, content)
        it.remember(apps.END, 2)  # EXCEPTION
        assert it.board.life(timeout=apps.HOURS).cause == "repl"
        assert it.board.rtc[apps.END] == 2


def test_ctrl_c_in_boot_py(tmp_path: Path) -> None:
    """It is ignored: main.py would not run any more."""
    with story(tmp_path) as it:
        boot = it.board.read("/boot.py")
        assert b"    pins.hold()\n" in boot
        it.board.write("/boot.py", boot.replace(b"pins.hold()", b"raise KeyboardInterrupt"))
        it.boot(1000)


def test_dev_release(tmp_path: Path) -> None:
    """On a board that has its key: three seconds and an answer are enough."""
    source = (
        BEGIN
        + """\
while ota.trial:
    ota.check()
    time.sleep_ms(200)
print('confirmed after', ota.ticks // 2)
"""
        + LOOP
    )
    pushed = fleet.release({"main.py": source}, 900, signer="dev")
    digest = fleet.digest(pushed)[:32]
    with story(tmp_path, dev="dev") as it:
        it.boot(1000)
        it.publish(GOOD)
        it.install()
        # In place of what has just come into the slot, and been put on trial.
        raw, files = bundle.read(pushed)
        for name, content in {**files, "manifest": raw}.items():
            it.board.write(f"/app_slots/b/{name}", content)
        record = newest_record(it.board.files())
        assert record
        good = record.good[0], bytes.fromhex(digest)
        write_record(it.board, dataclasses.replace(record, good=good))
        told = ""
        while "confirmed" not in told:
            # It leaves for the newest release that is published.
            told = it.board.life(timeout=apps.HOURS).console
        it.confirmed(digest)
        assert not it.record()["rejected"]
        assert 3 <= int(told.partition("confirmed after ")[2].split()[0]) < 60


# --- a name server that does not answer -----------------------------------------------------------


@pytest.mark.parametrize("chip", ("esp8266", "esp32"))
def test_dead_dns_is_no_hang(tmp_path: Path, chip: Any) -> None:
    """An ESP32 runs nothing at all for those seconds: its watchdog waits for them.

    An ESP8266 runs its timers meanwhile, which feed its own.
    """
    named = {"through": lambda _: "http://server.example:8266", "cls": f"{chip}-generic"}
    app = with_runtime("app.every(1000, lambda: app.up < 90 or print('late'), 'tell')\n")
    with story(tmp_path, app, **named, chip=chip, speed=10) as it:
        it.board.radio(dns=20)
        it.board.start()
        it.says("late\n")
        assert it.begun(1000) == 1
        assert it.board.console.count("no answer") > 1


# --- little flash ---------------------------------------------------------------------------------


def refused(it: Story, digest: str) -> str:
    """Wait until the board has told that it does not take this release; why."""

    def bad(record: Any) -> list[str]:
        return [bad["reason"] for bad in record["rejected"] if bad["digest"] == digest]

    return bad(it.until(lambda record: bool(bad(record)) and record["state"] == "ok"))[0]


def test_a_release_that_does_not_fit_costs_nothing(tmp_path: Path) -> None:
    """It is refused before the other slot, which stays to go back to, has lost anything."""
    with story(tmp_path, blocks=128) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(GOOD)
        it.confirmed(digest)
        big = random.Random(1).randbytes(600_000)
        assert refused(it, it.publish({"main.py": GOOD, "big.bin": big})) == "space"
        it.fleet.post("/api/boards/b1/orders", json={"order": "rollback"})
        assert it.rejected(digest)["reason"] == "order"
        assert it.record()["seq"] == 1000


def test_one_megabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is flashed: 98 blocks. Updates go on and on, and what does not fit is refused."""
    monkeypatch.setenv("MIPY_HOME", str(tmp_path / "home"))
    keys.write(keys.places.keys_dir() / "trust.1", fleet.first_trust(), 0o600)
    cls = "esp8266-generic-1m"
    image = firmware.parse(stock.esp8266("FLASH_1M"))
    with story(tmp_path, cls=cls, blocks=98) as it:
        first = apps.release(GOOD, 1000, cls)
        made = plan.make(it.who, image, 1 << 20, first, wifi=fleet.WIFI)
        assert made.place.blocks == 98
        (it.board.folder / "flash.img").write_bytes(made.system)
        it.board.start()
        it.polls(1)
        random_ = random.Random(1)
        for count in (0, 3, 1, 4, 2):
            parts = {f"part{n}.bin": random_.randbytes(3000) for n in range(count)}
            it.confirmed(it.publish({"main.py": GOOD, **parts}))
        assert not it.record()["rejected"]
        big = {"main.py": GOOD, "big.bin": random_.randbytes(100_000)}
        assert refused(it, it.publish(big)) == "space"
        it.confirmed(it.publish(GOOD))


# --- jobs -----------------------------------------------------------------------------------------

STEADY = "app.every(5000, lambda: None, 'measure')\n"
FLAKY = """\
runs = []
def measure():
    runs.append(1)
    if len(runs) % 2:
        raise OSError('now and then')
app.every(5000, measure)
"""
# Its 15 minutes pass quickly: thirty seconds with each failure.
NEVER = """\
def measure():
    ota.ticks += 58
    raise OSError('never')
app.every(1000, measure)
"""


def test_job_that_fails_now_and_then(tmp_path: Path) -> None:
    """It is told, and costs nothing."""
    with story(tmp_path, with_runtime(STEADY)) as it:
        it.board.start()
        it.until(lambda record: record["up"] >= 70)  # it is known what succeeds
        it.confirmed(it.publish(with_runtime(FLAKY)))
        failed, good = it.until(lambda record: "measure" in record["jobs"])["jobs"]["measure"]
        assert failed and good
        assert it.begun(1001) == 1
        assert not it.record()["rejected"]


OFTEN = """\
def measure():
    pass
app.every(5000, measure, "mipy/b1/set")
"""


def test_what_others_send_holds_no_trial_back(tmp_path: Path) -> None:
    """A function for MQTT messages: a job by the name of a topic, which a stranger makes fail."""
    with story(tmp_path, with_runtime(OFTEN)) as it:
        it.board.start()
        it.until(lambda record: record["up"] >= 70)
        it.confirmed(it.publish(with_runtime(OFTEN.replace("pass", "raise ValueError('on')"))))
        assert it.record()["jobs"]["mipy/b1/set"][0]


def test_job_that_never_succeeds(tmp_path: Path) -> None:
    """It did under the former release: no confirmation, and after 15 minutes the try is over."""
    with story(tmp_path, with_runtime(STEADY)) as it:
        it.board.start()
        it.until(lambda record: record["up"] >= 70)
        it.board.stop()
        digest = it.publish(with_runtime(NEVER))
        it.install()
        assert it.tries() == [1001, 1001, 1001, 1000]
        assert "trial: blocked by unproven job measure" in it.board.console
        it.board.start()
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == ("timeout", True)
