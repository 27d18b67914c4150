"""The virtual board's own WebREPL is the firmware's: other people's clients work with it."""

from __future__ import annotations

import hashlib
import random
import webrepl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.tools.sim.board import Chip, VirtualBoard
from tests.support import loopback
from tests.support.boards import Board
from tests.support.websocket_client import Client

ADDRESS = loopback.address()
MAIN = b"""
import network, time, webrepl
sta = network.WLAN(0)
sta.active(True)
sta.connect("home", "secret-word")
while not sta.isconnected():
    time.sleep_ms(50)
webrepl.start(password="pass")
n = 0
while True:
    time.sleep_ms(200)
    print("tick", n)
    n += 1
"""


@pytest.fixture(scope="module", params=["esp8266", "esp32"])
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    chip: Chip = request.param
    with Board(tmp_path_factory.mktemp(chip), chip, ADDRESS, speed=10) as made:
        made.format({"/main.py": MAIN})
        made.radio(networks={"home": "secret-word"})
        made.start()
        assert made.wait("tick 1"), made.console
        yield made


def test_text_and_interrupt(board: VirtualBoard) -> None:
    with Client(ADDRESS) as client:
        assert client.answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket")
        assert b"Sec-WebSocket-Accept: " in client.answer
        assert client.frame() == (1, b"Password: ")
        client.send("pass\r")
        assert client.frame() == (1, b"\r\nWebREPL connected\r\n>>> ")
        client.until("tick")
        client.send("\x03")
        client.until("KeyboardInterrupt: \r\n>>> ")
        client.send("n > 1\r")
        assert client.until(">>> ") == "n > 1\r\nTrue\r\n>>> "
        client.send("def f(x):\r  return 2*x\r\r")
        client.until(">>> ")
        client.send("f(21\b2)\r")
        assert "44\r\n" in client.until(">>> ")
        # An ESP32 that is busy hears nothing, here as there.
        idle = "pass" if board.chip == "esp8266" else "time.sleep(1)"
        # What comes before the loop runs is typed at the prompt, and interrupts nothing.
        client.send(f"exec(\"print('be' + 'gun')\\nwhile True: {idle}\")\r")
        client.until("\r\nbegun\r\n")
        client.send("\x03")
        client.until("KeyboardInterrupt: \r\n>>> ")
        client.send("\x05")
        client.until("=== ")
        client.send("if n:\r  print('in', 'one')\rprint('piece')\r\x04")
        client.until("\r\nin one\r\npiece\r\n>>> ")
        client.send("\x01")
        assert client.until(">") == "raw REPL; CTRL-B to exit\r\n>"
        client.send("print(6*7)\x04")
        assert client.until("\x04>") == "OK42\r\n\x04\x04>"
        client.send("\x02")
        client.until("\r\n>>> ")
    assert board.wait("EOF received"), board.console


def test_second_client_and_no_client(board: VirtualBoard) -> None:
    with Client(ADDRESS) as first:
        first.until(": ")
        with Client(ADDRESS) as second:
            assert second.answer.startswith(b"HTTP/1.1 101") and second.rest() == ""
        first.send("wrong\r")
        assert first.rest() == "\r\nAccess denied\r\n"
    with Client(ADDRESS, b"GET / HTTP/1.1\r\n\r\n") as browser:
        assert browser.answer.startswith(b"HTTP/1.0 200 OK\r\n\r\n")


def test_somebody_elses_client(board: VirtualBoard, tmp_path: Path) -> None:
    """The PyPI package `webrepl`, as it is: login, commands, version, files both ways."""
    local = tmp_path / "local"
    local.write_bytes(random.Random(1).randbytes(12_000))
    small = tmp_path / "small"  # it gets 2.5 KB a second
    small.write_bytes(bytes(range(256)) * 10)
    wrong = webrepl.Webrepl(host=ADDRESS, port=8266, password="wrong")
    assert not wrong.connected
    wrong.disconnect()
    client = webrepl.Webrepl(host=ADDRESS, port=8266, password="pass")
    try:
        assert client.connected
        assert (client.get_ver() or ()) >= (1, 22, 0)
        client.put_file(str(local), "/remote")
        client.put_file(str(small), "/small")
        assert client.get_file_content("/small") == small.read_bytes()
    finally:
        client.disconnect()
    with Client(ADDRESS) as other:
        other.until(": ")
        other.send("pass\r\x03")
        other.until(">>> ")
        other.send("import hashlib, binascii\r")
        other.send("binascii.hexlify(hashlib.sha256(open('/remote','rb').read()).digest())\r")
        assert hashlib.sha256(local.read_bytes()).hexdigest() in other.until("'\r\n>>> ")
