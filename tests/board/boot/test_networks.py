"""What a board does when its network or server fails it: nothing is lost, all is tried again."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import apps, fleet
from tests.support.apps import BEGIN, GOOD, HASTY, LOOP, story, with_runtime

# --- between board and server ---------------------------------------------------------------------


class Between:
    """A TCP proxy that can fail in each way a network or a server can.

    Attributes:
        cut: end a connection that asks for files, or (`polls`) any, after so many bytes down.
        trickle: pass one byte at a time, and call this before each.
        answer: send this in place of the server's answer.
        deaf: take no connection.
        dies: be deaf from a cut on, as a server that has died is; else the next one is as good.
        asked: the paths asked for.
    """

    def __init__(self) -> None:
        self.cut: int | None = None
        self.polls = False
        self.trickle: Callable[[], None] | None = None
        self.answer = b""
        self.deaf = False
        self.dies = False
        self.asked: list[str] = []
        self._target = ("", 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def through(self, url: str) -> str:
        """Take the server's address, give the one that boards are to use."""
        host, port = url.removeprefix("http://").split(":")
        self._target = (host, int(port))
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def files(self) -> list[str]:
        """The files asked for since the last call."""
        found = [path for path in self.asked if path.startswith("/d/v1/files/")]
        self.asked.clear()
        return found

    def _accept(self) -> None:
        while True:
            try:
                board, _ = self._listener.accept()
            except OSError:
                return
            if self.deaf:
                board.close()
                continue
            self._open.append(board)
            threading.Thread(target=self._serve, args=(board,), daemon=True).start()

    def _serve(self, board: socket.socket) -> None:
        server = socket.create_connection(self._target)
        for end in (server, board):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as sim/clock.py wants it
        self._open.append(server)
        for_files = threading.Event()
        threading.Thread(target=self._down, args=(server, board, for_files), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := board.recv(4096):
                for path in re.findall(rb"(?:GET|POST) (\S+) HTTP/1.1\r\n", data):
                    self.asked.append(path.decode())
                    if b"/files/" in path:
                        for_files.set()
                server.sendall(data)
        self._end(server, board)

    def _down(self, server: socket.socket, board: socket.socket, files: threading.Event) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 if self.trickle else 4096):
                if self.answer:
                    board.sendall(self.answer)
                    break
                if self.trickle:
                    self.trickle()
                cut = self.cut if self.polls or files.is_set() else None
                if cut is not None:
                    data = data[: max(cut - passed, 0)]
                board.sendall(data)
                passed += len(data)
                if cut is not None and passed >= cut:
                    self.deaf = self.deaf or self.dies
                    break
        self._end(server, board)

    @staticmethod
    def _end(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def between() -> Iterator[Between]:
    proxy = Between()
    yield proxy
    proxy.close()


# Random, so that they are no smaller on the wire.
FILES = {
    "main.py": GOOD,
    "a.bin": random.Random(1).randbytes(500),
    "lib/b.bin": random.Random(2).randbytes(900),
    "lib/c.bin": random.Random(3).randbytes(300),
}


def test_server_dies_in_mid_transfer(tmp_path: Path, between: Between) -> None:
    """Cut every 300 bytes; the next attempt asks for what is not there yet, and for no more."""
    with story(tmp_path, through=between.through) as it:
        it.boot(1000)
        it.publish(FILES)
        before = it.board.save()
        finished = set()
        between.dies = True
        for cut in range(1, 3000, 300):
            it.board.restore(before)
            between.cut = cut
            between.files()
            console = it.install()
            done = console.count("loaded")
            asked = between.files()
            first = list(dict.fromkeys(asked))
            if "install:" not in console:
                break
            assert len(first) == done + 1, console
            assert asked == first, "a dead server is asked nothing"
            it.boot(1000)  # the old release is as it was
            between.cut, between.deaf = None, False
            console = it.install()
            assert "install:" not in console and console.count("kept") == done, console
            assert between.files()[0] == first[done]
            finished.add(done)
        else:
            raise AssertionError("the release is larger than the cuts reach")
        assert finished == {0, 1, 2}  # main.py is equal in the running slot
        it.board.start()
        it.until(lambda record: (record["seq"], record["state"]) == (1001, "ok"))
        # Of a broken transfer the server has heard, as of something that passes.
        assert {(bad["reason"], bad["soft"]) for bad in it.record()["rejected"]} <= {
            ("truncated", True)
        }


def test_server_dies_before_the_files(tmp_path: Path, between: Between) -> None:
    """Every 150 bytes of the polls and of the manifest."""
    with story(tmp_path, through=between.through) as it:
        it.boot(1000)
        it.publish(FILES)
        before = it.board.save()
        between.polls = True
        for cut in range(1, 3000, 150):
            it.board.restore(before)
            between.cut = cut
            console = it.install()
            if "file 1" in console:
                break
            assert "install:" in console
        else:
            raise AssertionError("never came as far as the files")
        between.cut = None
        assert "install:" not in it.install()
        it.board.start()
        it.until(lambda record: (record["seq"], record["state"]) == (1001, "ok"))
        # Of a broken transfer the server has heard, as of something that passes.
        assert {(bad["reason"], bad["soft"]) for bad in it.record()["rejected"]} <= {
            ("truncated", True)
        }


def pauses(console: str) -> list[int]:
    """The pauses that the console names, in seconds."""
    return [int(n) for n in re.findall(r"again in (\d+) s", console)]


def growing(found: list[int], first: int, last: int) -> bool:
    """Each pause is twice the one before, up to `last`, and a quarter more or less of that."""
    base = [min(first << n, last) for n in range(len(found))]
    return all(3 * b // 4 - 1 <= n <= 5 * b // 4 + 1 for n, b in zip(found, base, strict=True))


def deaf(proxy: Between) -> None:
    proxy.deaf = True


def error_500(proxy: Between) -> None:
    proxy.answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"


def portal(proxy: Between) -> None:
    proxy.answer = b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n"


def forged(proxy: Between) -> None:
    body = b'{"k":"0","t":1,"every":5,"trust":1,"m":"' + 64 * b"a" + b'"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nota-mac: %s\r\n\r\n" % (len(body), 64 * b"0")
    proxy.answer = head + body


TROUBLES = {
    deaf: "OSError",
    error_500: "http b' 500'",
    portal: "http b' 302'",
    forged: "Rejected('mac',)",
}


def test_no_answer(tmp_path: Path, between: Between) -> None:
    """The app runs on, the polls grow rarer by chance and by rule, and then all is well again."""
    with story(tmp_path, HASTY, through=between.through) as it:
        it.board.start()
        it.polls(1)
        for count, (trouble, words) in enumerate(TROUBLES.items(), 1):
            between.deaf, between.answer = False, b""
            trouble(between)
            heard = len(it.board.console)
            enough = lambda board, count=count: len(pauses(board.console)) >= count  # noqa: E731
            assert it.board.wait(enough, apps.HOURS), it.board.console
            assert words in it.board.console[heard:]
        found = pauses(it.board.console)
        # A first poll that comes before the network is back counts as one that failed.
        assert growing(found, 120, 3840) or growing(found, 240, 3840), found
        assert it.begun(1000) == 1
        digest = it.publish(GOOD)
        between.deaf, between.answer = False, b""
        it.confirmed(digest)
        assert not it.record()["rejected"]


def test_name_that_does_not_resolve(tmp_path: Path) -> None:
    """The second address is asked."""
    nowhere = "http://nowhere.invalid"
    with story(tmp_path) as it:
        who = fleet.identity("b2", (nowhere, it.server.url))
        it.fleet.enrol(who)
        with fleet.prepared(tmp_path / "b2", who, apps.release(GOOD, 1000), **apps.OWN) as board:
            board.start()
            assert board.wait(lambda _: it.fleet.get("/api/boards/b2")["state"] == "ok", apps.HOURS)
            assert board.wait(f"server {nowhere}", apps.HOURS)


# Says when it leaves for the installer, and after how many that failed.
TELLING = (
    BEGIN
    + """\
leave = ota.exit
def exit(want):
    if want == 1:  # rtc.INSTALL
        print('leaves', ota.install_failures, ota.ticks // 2)
    leave(want)
ota.exit = exit
"""
    + LOOP
)


def test_install_that_never_gets_through(tmp_path: Path, between: Between) -> None:
    """The pauses between the attempts grow; after three of them the plain installer steps in."""
    with story(tmp_path, TELLING, through=between.through) as it:
        between.cut = 400
        it.board.start()
        it.polls(1)
        digest = it.publish({**FILES, "main.py": TELLING})
        assert it.board.wait("leaves 3", apps.HOURS), it.board.console
        left = re.findall(r"leaves (\d) (\d+)", it.board.console)
        at_least = [0, 120, 240, 480]
        for (fails, seconds), least in zip(left[1:], at_least[1:], strict=False):
            assert int(seconds) >= at_least[int(fails)] >= least, left
        assert it.begun(1001) == 0
        between.cut = None
        it.confirmed(digest)


def test_server_that_trickles(tmp_path: Path, between: Between) -> None:
    """A byte now and then keeps no app from running and no installer for ever."""
    with story(tmp_path, through=between.through) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(FILES)
        it.says("/install")
        between.trickle = lambda: it.board.go_on(9)
        assert it.board.wait(lambda _: it.begun(1000) == 2, apps.HOURS), it.board.console
        between.trickle = None
        it.confirmed(digest)


def test_polls_that_trickle(tmp_path: Path, between: Between) -> None:
    """A poll ends after a minute, so that the app's watchdog does not bite."""
    watched = GOOD.replace(LOOP, "ota.watch()\n" + LOOP)
    with story(tmp_path, watched, through=between.through) as it:
        it.board.start()
        it.polls(1)
        between.trickle = lambda: it.board.go_on(8)
        it.says("again in")
        between.trickle = None
        it.polls(2)
        assert it.begun(1000) == 1


def test_full_flash(tmp_path: Path) -> None:
    """Refused for want of space, softly; taken when there is room again."""
    first = (
        BEGIN
        + """\
if 'junk' not in os.listdir('/data'):
    f = open('/data/junk', 'wb')
    while os.statvfs('/')[3] > -6:  # twice as many blocks for folders as there are
        f.write(bytes(4096))
        f.flush()
    f.close()
n = 0
while True:
    n += 1
    if ota.install_failures == 2 and 'junk' in os.listdir('/data'):
        os.remove('/data/junk')
    ota.check()
    time.sleep(1)
"""
    )
    with story(tmp_path, first, blocks=128) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish({"main.py": GOOD, "big.bin": bytes(range(256)) * 160})
        bad = it.rejected(digest)
        assert (bad["reason"], bad["soft"]) == ("space", True)
        it.confirmed(digest)


# --- Wi-Fi ----------------------------------------------------------------------------------------

NO_WIFI = {
    "off": "sta.active(False)\n",
    "wrong password": "sta.connect(*('home', 'wrong-word'))  # public\n",
}


@pytest.mark.parametrize("how", NO_WIFI)
def test_release_that_breaks_wifi(tmp_path: Path, how: str) -> None:
    """It never has the server's answer, so it is never confirmed, and the board comes back."""
    # Its 15 minutes pass thirty times faster.
    breaks = "import network\nsta = network.WLAN(0)\ndef cut():\n    ota.ticks += 58\n    "
    with story(tmp_path) as it:
        it.boot(1000)
        digest = it.publish(apps.with_runtime(breaks + NO_WIFI[how] + "app.every(1000, cut)\n"))
        it.install()
        assert it.tries() == [1001, 1001, 1001, 1000]
        it.board.start()
        bad = it.rejected(digest)
        assert (bad["reason"], bad["soft"]) == ("timeout", True)
        it.confirmed(it.publish(GOOD))


def test_router_off_for_an_hour(tmp_path: Path) -> None:
    """A soft rejection; the release is tried again an hour later, and confirmed."""
    with story(tmp_path, HASTY, interval=300) as it:
        it.boot(1000)
        digest = it.publish({"main.py": HASTY, "x": b"x"})
        it.install()
        it.board.radio(up=False)
        assert it.tries() == [1001, 1001, 1001, 1000]
        it.board.radio(up=True)
        it.board.start()
        bad = it.rejected(digest)
        assert (bad["reason"], bad["soft"]) == ("timeout", True)
        it.confirmed(digest)
        assert it.begun(1001) == 4


def test_release_that_fails_softly_twice(tmp_path: Path) -> None:
    """The old release reaches the server each time, so it is not the network: for good."""
    with story(tmp_path, HASTY, interval=300) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(apps.with_runtime(apps.BAD_ON_RUNTIME["sleeps"].source))
        assert it.rejected(digest)["soft"]
        it.until(lambda record: not record["rejected"][0]["soft"])
        assert it.record()["rejected"][0]["reason"] == "sleep"
        assert it.begun(1001) == 6
        it.confirmed(it.publish(GOOD))
        assert it.begun(1001) == 6


# --- recovery and orders --------------------------------------------------------------------------


def test_no_slot_boots(tmp_path: Path) -> None:
    """Recovery polls, takes a signed release, and boots it."""
    with story(tmp_path) as it:
        it.board.start()
        it.polls(1)
        it.confirmed(it.publish({**FILES, "main.py": GOOD}))
        it.board.stop()
        for slot in "ab":
            it.board.write(f"/app_slots/{slot}/main.mpy", b"rubbish")
        it.board.start()
        it.says("recovery")
        # What it had is a repair, and is offered without anybody's doing.
        it.until(lambda record: (record["seq"], record["state"]) == (1001, "ok"))
        it.confirmed(it.publish(GOOD))


def test_crashes_without_a_second_slot(tmp_path: Path) -> None:
    """Recovery, and the app again after 5, 10 ... minutes; a release ends it."""
    with story(tmp_path, BEGIN + "raise ValueError\n", speed=20, interval=60) as it:
        it.board.start()
        assert it.board.wait(lambda _: it.begun(1000) >= 15, apps.HOURS)
        text = it.board.console
        assert [part.count("begin 1000") for part in text.split("\nrecovery\n")][:3] == [5, 5, 5]
        it.confirmed(it.publish(GOOD))


def test_ordered_rollback_and_retry(tmp_path: Path) -> None:
    """Back to the other slot, for the reason "order"; `retry` brings the release again."""
    with story(tmp_path) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(GOOD)
        it.confirmed(digest)
        it.fleet.post("/api/boards/b1/orders", json={"order": "rollback"})
        bad = it.rejected(digest)
        assert (bad["reason"], bad["soft"], it.record()["seq"]) == ("order", False, 1000)
        it.polls(3)
        assert it.record()["seq"] == 1000
        it.fleet.post("/api/boards/b1/orders", json={"order": f"retry {digest}"})
        it.confirmed(digest)


def test_rollback_ordered_during_a_trial(tmp_path: Path) -> None:
    """It ends the trial, for the reason "order"."""
    with story(tmp_path) as it:
        it.board.start()
        it.polls(1)
        digest = it.publish(GOOD)
        it.until(lambda record: record["state"] == "trial")
        it.fleet.post("/api/boards/b1/orders", json={"order": "rollback"})
        assert it.rejected(digest)["reason"] == "order"
        assert it.begun(1001) == 1


def test_safe_pins(tmp_path: Path) -> None:
    """Set before anything else, also when no app can run."""
    with story(tmp_path) as it:
        it.board.write("/state/pins", b"4 1\n5 0\n")
        it.board.life(until="begin", timeout=apps.HOURS)
        assert (it.board.level(4), it.board.level(5)) == (1, 0)


@pytest.mark.parametrize("check", ["ota.check()", "pass"])
def test_board_without_a_server(tmp_path: Path, check: str) -> None:
    """A trial is confirmed after ten minutes of running, and not before."""
    source = (
        BEGIN
        + f"""\
print('trial', ota.trial)
while True:
    ota.ticks += 50
    print('ticks', ota.ticks) if ota.trial else print('settled')
    {check}
    time.sleep(1)
"""
    )
    with story(tmp_path) as it:
        it.boot(1000)
        it.publish(source)
        it.install()
        who = dataclasses.replace(fleet.identity(), servers=())
        for copy in "01":
            it.board.write(f"/trust/{copy}/board", who.encode())
        told = ""
        while "begin 1001" not in told:
            told = it.board.life(until="settled", timeout=apps.HOURS).console
        # Half seconds; one round of the app may be missing.
        assert int(re.findall(r"ticks (\d+)", told)[-1]) >= 1200 - 60
        assert any("trial False" in it.board.life(until="trial False").console for _ in range(4))


# A day passes in nine seconds, and the app never polls by itself.
SILENT = {
    "plain": BEGIN + "while True:\n    ota.ticks += 20000\n    ota.feed()\n    time.sleep(1)\n",
    "runtime": with_runtime(
        """\
app.updater.servers = []
def hurry():
    ota.ticks += 20000
    ota.feed()  # no loop hangs for so long
    print('day', ota.ticks // 172800)
app.every(1000, hurry)
"""
    ),
}
FAILS = 3  # in RTC memory


@pytest.mark.parametrize("kind", SILENT)
def test_daily_poll(tmp_path: Path, kind: str) -> None:
    """A board whose app never hears of its server asks once a day, also without Wi-Fi."""
    with story(tmp_path, SILENT[kind]) as it:
        it.board.start()
        it.says("/install")
        it.says("begin 1000")
        assert it.board.rtc[FAILS] == 0
        before = it.board.console.count("/install")
        it.board.radio(up=False)
        it.board.go_on(40)  # four days
        # The boot stage connects by itself, whatever the app does: once a day, and one under way.
        assert it.board.console.count("/install") <= before + 5
        it.board.radio(up=True)
        digest = it.publish(GOOD)
        it.confirmed(digest)


@pytest.mark.parametrize("kind", SILENT)
def test_daily_poll_that_fails_counts_for_nothing(tmp_path: Path, kind: str) -> None:
    """It had nothing to install, so the plain installer has no reason to step in."""
    nowhere = "http://127.0.0.1:1"
    with story(tmp_path, SILENT[kind], through=lambda _: nowhere) as it:
        it.board.start()
        for _ in range(3):
            at = len(it.board.console)
            assert it.board.wait(lambda board, at=at: "/install" in board.console[at:], apps.HOURS)
            assert it.board.wait(lambda board, at=at: "begin" in board.console[at:], apps.HOURS)
        assert it.board.rtc[FAILS] == 0


@pytest.mark.parametrize("kind", SILENT)
def test_no_daily_poll_without_a_server(tmp_path: Path, kind: str) -> None:
    """There is nobody to ask."""
    with story(tmp_path, SILENT[kind]) as it:
        who = dataclasses.replace(fleet.identity(), servers=())
        for copy in "01":
            it.board.write(f"/trust/{copy}/board", who.encode())
        it.boot(1000)
        life = it.board.life(timeout=100)
        while life.cause == "reset":
            assert "/install" not in life.console
            life = it.board.life(timeout=100)
        assert "/install" not in it.board.console


def test_whole_update_of_an_esp32(tmp_path: Path) -> None:
    """The other chip: its reset causes, its watchdog, its timers."""
    # It does not connect by itself after a reset, as the ESP8266 does.
    begin = BEGIN + "ota.stage('wifi').connect()\n"
    with story(tmp_path, begin + LOOP, cls="esp32-generic", chip="esp32") as it:
        it.board.start()
        it.polls(1)
        it.confirmed(it.publish({**FILES, "main.py": begin + LOOP}))
        digest = it.publish(begin + "raise ValueError('dust')\n")
        told = it.rejected(digest)
        assert (told["reason"], told["soft"]) == ("exception", False)
        it.confirmed(it.publish(begin + "while True:\n    time.sleep(1)\n"))
