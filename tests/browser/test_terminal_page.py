"""A board's terminal in the browser: what the server joins, and the page in a real browser."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from mipy_ota.ota_server.people import relay, terminal
from mipy_ota.tools.fleet.serve import Running, running
from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import browser, fake_board, fleet, loopback
from tests.support.websocket_client import Client

PASSWORD = "secret-99"
ADDRESS, ELSEWHERE, CHIP_ADDRESS = (loopback.address() for _ in range(3))
WELCOME = "\r\nWebREPL connected\r\n>>> "
SECONDS = 60
Talk = Callable[[ServerConnection], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "server") as one:
        yield one


def port_of(server: Running) -> int:
    return int(server.url.rpartition(":")[2])


def enrolled(
    server: Running, reported: str = ADDRESS, polls_from: str = ADDRESS, polls: int = 2
) -> None:
    """A board that polls from an address, and says that it is at one."""
    board = fake_board.FakeBoard(server.url)
    board._connection = socket.create_connection(
        ("127.0.0.1", port_of(server)), 30, (polls_from, 0)
    )
    facts = {"id": board.id, "app": board.app, "class": board.cls, "key": board.key.hex()}
    facts |= {"fleet": "default", "name": "kitchen"}
    asked(server, "POST", "/api/boards", json=facts)
    for _ in range(polls):
        board.poll(addr=reported)


def asked(server: Running, method: str, path: str, **what: Any) -> requests.Response:
    """The people's API."""
    headers = {"authorization": f"Bearer {server.token}"}
    answer = requests.request(method, server.url + path, headers=headers, timeout=30, **what)
    assert answer.ok, answer.text
    return answer


def logged_in(server: Running) -> requests.Session:
    session = requests.Session()
    assert session.post(server.url + "/login", data={"token": server.token}, timeout=30).ok
    return session


def page_of(
    server: Running, session: requests.Session | None = None, origin: str | None = ""
) -> ClientConnection:
    """The page's connection; from this server's own origin if not said otherwise."""
    session = session or logged_in(server)
    cookies = "; ".join(f"{name}={value}" for name, value in session.cookies.items())
    url = f"ws://127.0.0.1:{port_of(server)}/boards/kitchen/terminal"
    origin = server.url if origin == "" else origin
    return connect(url, origin=origin, additional_headers={"Cookie": cookies})  # type: ignore[arg-type]


def ending(page: ClientConnection) -> dict[str, str]:
    """Why the server ends the connection."""
    while True:
        said = page.recv(timeout=SECONDS)
        if isinstance(said, str) and "code" in said:
            return json.loads(said)


def heard(page: ClientConnection, mark: bytes) -> bytes:
    said = b""
    while mark not in said:
        more = page.recv(timeout=SECONDS)
        said += more if isinstance(more, bytes) else b""
    return said


def let_in(page: ClientConnection) -> None:
    heard(page, b"Password: ")
    page.send(PASSWORD.encode() + b"\r")
    heard(page, b">>> ")
    assert json.loads(page.recv(timeout=SECONDS)) == {"state": "open"}


def history(server: Running) -> list[tuple[str, str]]:
    """What the server noted of terminals."""
    events = asked(server, "GET", "/api/boards/kitchen/events").json()
    return [(e["kind"], e["text"]) for e in events if e["kind"].startswith("terminal")]


def noted(server: Running, count: int) -> list[tuple[str, str]]:
    """The history, once it has so many lines: the page is told first."""
    end = time.monotonic() + SECONDS
    while len(found := history(server)) < count:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


# --- a board of a few lines -----------------------------------------------------------------------


@contextlib.contextmanager
def standing_in(talk: Talk, address: str = ADDRESS) -> Iterator[None]:
    """What speaks WebSocket at a board's address."""
    with serve(talk, address, relay.PORT, compression=None) as board:
        thread = threading.Thread(target=board.serve_forever)
        thread.start()
        try:
            yield
        finally:
            board.shutdown()
            thread.join()


def echo(line: ServerConnection) -> None:
    """Behind the password: says what kind of frame came, and what was in it."""
    with contextlib.suppress(ConnectionClosed):
        line.send("Password: ")
        assert line.recv() == PASSWORD + "\r"
        line.send(WELCOME)
        while True:
            keys = line.recv()
            kind = b"text" if isinstance(keys, str) else b"binary"
            line.send(kind + b" \xff " + repr(keys).encode() + b"\n", text=True)


def test_keys_are_text_to_the_board_and_all_else_binary_to_the_browser(server: Running) -> None:
    enrolled(server)
    with standing_in(echo), page_of(server) as page:
        let_in(page)
        page.send(b"1+1\r")
        assert heard(page, b"\n") == b"text \xff '1+1\\r'\n"
        page.send("\r")  # no frame of the page's is text
        page.send(b"x")
        assert heard(page, b"\n") == b"text \xff 'x'\n"
        assert requests.get(server.url + "/login", timeout=30).ok  # the server serves others
    assert [kind for kind, _ in noted(server, 2)] == ["terminal-opened", "terminal-closed"]


def test_who_and_when_but_not_what(
    server: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled(server)
    with standing_in(echo), page_of(server) as page:
        let_in(page)
        page.send(b"typed-word\r")
        heard(page, b"\n")
    opened, closed = noted(server, 2)
    assert opened == ("terminal-opened", "from 127.0.0.1")
    assert closed[1].startswith("from 127.0.0.1, after ") and closed[1].endswith(" s: left")
    server.do(server.storage.settle())
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (PASSWORD, "typed-word"):
        assert secret.encode() not in kept and secret not in caplog.text


def test_only_who_has_logged_in_and_only_from_our_page(server: Running) -> None:
    enrolled(server)
    answer = requests.get(
        server.url + "/boards/kitchen/terminal", timeout=30, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    port, session = port_of(server), logged_in(server)
    for origin in ("http://evil.test", f"http://127.0.0.1:{port + 1}", "null", None):
        with pytest.raises(InvalidStatus, match="403"):
            page_of(server, session, origin)
    with pytest.raises(InvalidStatus, match="403"):
        page_of(server, requests.Session())
    assert session.post(server.url + "/logout", timeout=30).ok
    with pytest.raises(InvalidStatus, match="403"):
        page_of(server, session)
    assert history(server) == []


def test_page_and_its_policy(server: Running) -> None:
    enrolled(server)
    session = logged_in(server)
    answer = session.get(server.url + "/boards/kitchen/terminal", timeout=30)
    again = session.get(server.url + "/boards/sim-01/terminal", timeout=30)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert policy != again.headers["content-security-policy"]
    assert session.get(server.url + "/boards/cellar/terminal", timeout=30).status_code == 404


@browser.needed
def test_parts_are_served_with_their_licences(server: Running) -> None:
    for path, (_, kind) in terminal.FILES.items():
        answer = requests.get(server.url + path, timeout=30)
        assert answer.ok and answer.headers["content-type"].startswith(kind)
    said = requests.get(server.url + "/flash/licenses.txt", timeout=30).text
    assert "=== @xterm/xterm" in said and "=== @xterm/addon-fit" in said


# --- where the server connects to -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "polls_from"),
    [(ELSEWHERE, ADDRESS), (ADDRESS, ELSEWHERE), ("kitchen.test", ADDRESS), ("", ADDRESS)],
    ids=("reported", "polled from", "a name", "nothing reported"),
)
def test_nobody_points_it_at_another_host(server: Running, reported: str, polls_from: str) -> None:
    """Neither by what a board reports, nor by passing on its polls."""
    enrolled(server, reported, polls_from)
    reached = []
    with (
        standing_in(reached.append),
        standing_in(reached.append, ELSEWHERE),
        page_of(server) as page,
    ):
        end = ending(page)
        assert end["code"] == "elsewhere" and polls_from in end["text"]
        assert "mipy repl" in end["hint"]
    assert reached == []


def test_board_that_has_not_polled(server: Running) -> None:
    enrolled(server, polls=0)
    with page_of(server) as page:
        end = ending(page)
    assert end["code"] == "unknown" and "has not polled" in end["text"]


def test_board_cannot_send_it_elsewhere(server: Running) -> None:
    """No redirect is followed."""
    enrolled(server)
    reached = []

    def redirect(raw: socket.socket) -> None:
        peer, _ = raw.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(
                b"HTTP/1.1 302 Found\r\nlocation: ws://%s:8266/\r\n"
                b"content-length: 0\r\n\r\n" % ELSEWHERE.encode()
            )

    with (
        standing_in(reached.append, ELSEWHERE),
        socket.create_server((ADDRESS, relay.PORT)) as raw,
    ):
        thread = threading.Thread(target=redirect, args=[raw])
        thread.start()
        with page_of(server) as page:
            assert ending(page)["code"] == "taken"
        thread.join()
    assert reached == []


# --- how it ends ----------------------------------------------------------------------------------


def test_closed_board(server: Running) -> None:
    enrolled(server)
    with page_of(server) as page:
        end = ending(page)
    assert end["code"] == "closed" and end["text"] == "The WebREPL of kitchen is closed."
    assert history(server) == []


def test_board_that_does_not_answer(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SHAKE_SECONDS", 0.2)
    enrolled(server)
    with socket.create_server((ADDRESS, relay.PORT)), page_of(server) as page:
        assert ending(page)["code"] == "no-webrepl"


def test_unreachable_board(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "CONNECT_SECONDS", 0.2)
    enrolled(server)
    with socket.create_server((ADDRESS, relay.PORT), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(4):  # what comes on top of a full queue gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((ADDRESS, relay.PORT))
        with page_of(server) as page:
            assert ending(page)["code"] == "unreachable"


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ((), "taken", "Somebody else"),
        (("\r\nwrong passwords, wait 12 s\r\n",), "wait", "12 s"),
        (("Password: ",), "gone", "lost"),
        (("Password: ", "\r\nAccess denied\r\n"), "denied", "does not take this password"),
        (("Password: ", WELCOME), "gone", "lost"),
        (("Password: ", WELCOME, "x\r\n127.0.0.9 has taken over\r\n"), "over", "127.0.0.9 has"),
    ],
)
def test_board_that_hangs_up(server: Running, said: tuple[str, ...], code: str, words: str) -> None:
    enrolled(server)

    def talk(line: ServerConnection) -> None:
        for text in said:
            line.send(text)

    with standing_in(talk), page_of(server) as page:
        end = ending(page)
    assert end["code"] == code and words in end["text"]
    assert noted(server, 2)[1][1].endswith(f": {code}")


def test_nobody_types(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled(server)
    monkeypatch.setattr(relay, "LOGIN_SECONDS", 0.2)
    with standing_in(echo), page_of(server) as page:
        assert ending(page)["code"] == "silent"
    monkeypatch.setattr(relay, "LOGIN_SECONDS", SECONDS)
    monkeypatch.setattr(relay, "IDLE_SECONDS", 0.2)
    with standing_in(echo), page_of(server) as page:
        let_in(page)
        assert ending(page)["code"] == "idle"


def test_one_at_a_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled(server)
    session = logged_in(server)
    with standing_in(echo):
        with page_of(server, session) as first:
            let_in(first)
            monkeypatch.setattr(terminal, "TURN_SECONDS", 0.2)
            with page_of(server, session) as second:
                end = ending(second)
                assert end["code"] == "busy" and "127.0.0.1" in end["text"]
            monkeypatch.setattr(terminal, "TURN_SECONDS", SECONDS)
            third = page_of(server, session)  # as a page that is loaded again
        with third:
            let_in(third)
    assert len(noted(server, 4)) == 4
    monkeypatch.setattr(terminal, "TERMINALS", 0)
    with page_of(server, session) as page:
        assert ending(page)["code"] == "full"


def test_messages_of_a_page_are_short(server: Running) -> None:
    enrolled(server)
    with standing_in(echo), page_of(server) as page:
        let_in(page)
        page.send(bytes(5000))
        with pytest.raises(ConnectionClosed) as closed:
            heard(page, b"never")
        assert closed.value.rcvd and closed.value.rcvd.code == 1009


# --- in a browser ---------------------------------------------------------------------------------

APP = """
import time
n = 0
while True:
    time.sleep_ms(500)
    print("tick", n)
    n += 1
"""


class Page:
    """The terminal's page of board `name` in `driver`, logged in at the server."""

    def __init__(self, driver: Any, server: Running, name: str) -> None:
        self.driver = driver
        url = server.url.replace("127.0.0.1", "localhost")
        allowed = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        driver.execute_cdp_cmd("Browser.grantPermissions", allowed)
        driver.get(url + "/login")
        driver.find_element("id", "token").send_keys(server.token + "\n")
        self.waits(lambda: driver.find_elements("css selector", "a[href^='/boards/']"))
        # What the page of the test before said when its server ended is not this one's.
        browser.complaints(driver)
        browser.opened(driver, f"{url}/boards/{name}/terminal")

    def waits(self, until: Callable[[], Any]) -> None:
        end = time.monotonic() + SECONDS
        while not until():
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(0.05)

    @property
    def state(self) -> str:
        return self.driver.find_element("id", "state").text

    @property
    def screen(self) -> str:
        """What is to be read, a line a line."""
        rows = self.driver.execute_script(
            "return [...document.querySelectorAll('.xterm-rows > div')].map(r => r.textContent)"
        )
        return "\n".join(row.replace("\xa0", " ").rstrip() for row in rows)

    @property
    def clipboard(self) -> str:
        return self.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")

    def shows(self, text: str) -> None:
        self.waits(lambda: text in self.screen)

    def types(self, text: str, ctrl: bool = False, shift: bool = False) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        keys = ActionChains(self.driver)
        held = [key for key, on in ((Keys.CONTROL, ctrl), (Keys.SHIFT, shift)) if on]
        for key in held:
            keys.key_down(key)
        keys.send_keys(text)
        for key in held:
            keys.key_up(key)
        keys.perform()

    def connects(self) -> bool:
        """Press Enter where that connects; whether the board asks for the password."""
        if self.state == "not connected":
            self.types("\n")
        return self.state == "password?"

    def logs_in(self) -> None:
        self.waits(self.connects)
        self.types(PASSWORD + "\n")
        self.waits(lambda: self.state == "connected")

    def pastes(self, text: str) -> None:
        """By way of the clipboard, as people do."""
        self.driver.execute_async_script(
            "navigator.clipboard.writeText(arguments[0]).then(arguments[1])", text
        )
        self.types("v", ctrl=True)

    def double_clicks(self, text: str) -> None:
        """On the line that is `text`."""
        from selenium.webdriver.common.action_chains import ActionChains

        rows = self.driver.find_elements("css selector", ".xterm-rows > div")
        row = next(row for row in rows if row.text.strip() == text)
        mouse = ActionChains(self.driver)
        mouse.move_to_element_with_offset(row, 30 - row.size["width"] // 2, 0)
        mouse.double_click().perform()

    def keeps_picture(self, name: str) -> None:
        folder = os.environ.get("MIPY_PICTURES")
        if folder:
            self.driver.save_screenshot(str(Path(folder, f"terminal-{name}.png")))


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with browser.started(1000, 640) as one:
        yield one


@contextlib.contextmanager
def open_board(folder: Path, chip: Chip) -> Iterator[tuple[Running, VirtualBoard]]:
    """A dev board whose app ticks, and its server."""
    with running(folder / "server") as server:
        known = fleet.Fleet(server)
        who = replace(
            fleet.identity("b1", (server.url,), "mydev"), name="kitchen", webrepl=PASSWORD
        )
        known.enrol(who)
        release = fleet.release({"main.py": APP}, 1000)
        board = fleet.prepared(
            folder / "board", who, release, chip=chip, address=CHIP_ADDRESS, speed=10
        )
        with board:
            board.start()
            assert board.wait("tick 1"), board.console
            yield server, board


def hashing(rows: int) -> tuple[str, str]:
    """A script, indented as in a function, and what it prints when every byte has arrived."""
    words = [random.Random(row).randbytes(30).hex() for row in range(rows)]
    digest = hashlib.sha256("".join(words).encode()).hexdigest()
    lines = (
        "import binascii, hashlib",
        "h = hashlib.sha256()",
        *(f"h.update('{word}')  # {'ä' * 5}" for word in words),
        "print(binascii.hexlify(h.digest()))",
        "for n in 1, 2:",
        "    print('in', n)",
        "",
        "    print('out')",
    )
    return "".join(f"    {line}\n" for line in lines), f"b'{digest}'\nin 1\nout\nin 2\nout"


@browser.needed
@pytest.mark.parametrize("chip", ["esp32", "esp8266"])
def test_terminal(driver, tmp_path: Path, chip: Chip) -> None:
    """Type, paste, interrupt, start again: on a virtual board that the boot stage has opened."""
    with open_board(tmp_path, chip) as (server, board):
        page = Page(driver, server, "b1")
        page.waits(page.connects)
        page.types("wrong\n")
        page.shows("kitchen does not take this password.")
        page.waits(page.connects)
        page.types("secrex\b")  # corrected
        page.types("t-99\n")
        page.waits(lambda: page.state == "connected")
        page.shows("tick")
        page.types("c", ctrl=True)
        assert board.wait(">>> "), board.console
        # A single line is typed, at the board's pace.
        page.pastes("'" + "word " * 60 + "'[-9:]")
        page.types("\n")
        page.shows("\n'ord word '\n>>>")
        page.pastes("import time\nprint('runs')\nwhile True:\n    time.sleep_ms(50)\n")
        page.shows("\nruns")
        driver.find_element("id", "interrupt").click()
        page.shows("KeyboardInterrupt:\n>>>")
        page.pastes("1 +* 1\n2\n")
        page.shows("SyntaxError: invalid syntax\n>>>")

        page.types("side = 6\n")
        page.types("side ** 2\n")
        page.shows(">>> side ** 2\n36\n>>>")
        page.types("6*7\n")
        page.shows(">>> 6*7\n42\n>>>")

        script, shown = hashing(230 if chip == "esp32" else 25)  # what fits into its memory
        assert chip == "esp8266" or len(script.encode()) > 20000
        page.pastes(script)
        page.shows(shown + "\n>>>")
        page.types("import machine; machine.reset()\n")
        page.shows("The connection to kitchen is lost. Waiting for it.")
        page.shows("Connected again. The password was not kept.\nPassword:")
        page.logs_in()
        page.shows("tick")
        page.keeps_picture(chip)
        assert browser.complaints(driver) == []


@browser.needed
def test_screen(driver, tmp_path: Path) -> None:
    """A paste that is stopped, copy, another size, somebody else, and the way out."""
    with open_board(tmp_path, "esp32") as (server, _):
        page = Page(driver, server, "b1")
        page.logs_in()
        page.types("c", ctrl=True)
        page.types("\n'co' + 'pied'\n")
        page.shows("\n'copied'\n>>>")
        page.double_clicks("'copied'")
        page.types("c", ctrl=True, shift=True)
        assert "copied" in page.clipboard

        page.pastes("# a line\n" * 10000)
        page.shows("90000 bytes pasted")
        page.types("c", ctrl=True)
        page.types("'re' + 'ady'\n")
        page.shows("KeyboardInterrupt:\n>>>")

        before = page.screen.count("\n")
        driver.set_window_size(500, 420)
        page.waits(lambda: page.screen.count("\n") < before)
        assert driver.execute_script(
            "const s = document.querySelector('#screen'), x = s.querySelector('.xterm-screen');"
            "return x.getBoundingClientRect().right <= s.getBoundingClientRect().right"
            " && document.documentElement.scrollHeight <= innerHeight"
        )
        driver.set_window_size(1000, 640)

        with Client(CHIP_ADDRESS) as other:
            other.login(PASSWORD)
            page.shows("127.0.0.1 has taken this terminal over.")
            assert page.state == "not connected"
        page.waits(page.connects)
        driver.find_element("id", "connect").click()
        page.shows("Disconnected.")
        assert page.state == "not connected"
        assert browser.complaints(driver) == []
