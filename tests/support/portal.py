"""The portal seen from a phone without a screen: plain HTTP and DNS."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from mipy_ota.signing import board_file
from mipy_ota.tools.flash import provision
from mipy_ota.tools.sim.board import VirtualBoard
from tests.support import fleet, loopback
from tests.support.boards import Board

PASSWORD = "portal-secret"
SECONDS = 30
"""Real ones, after which the board does not answer."""
STEP = 0.5
"""Seconds of the board's time between two looks at the page."""
OPEN = "portal: mipy-"
GOOD = """
import ota, time
print('app runs')
while True:
    ota.check()
    time.sleep(1)
"""
HOST = "192.168.4.1"  # of every board's access point
ADDRESS = loopback.address()
"""Of every board here that is given none."""
ANDROID = ("GET /generate_204 HTTP/1.1\r\nUser-Agent: Dalvik/2.1.0 (Linux; U; Android 14; Pixel 7)"
           "\r\nHost: connectivitycheck.gstatic.com\r\nConnection: Keep-Alive\r\n"
           "Accept-Encoding: gzip\r\n\r\n")  # fmt: skip
IOS = ("GET /hotspot-detect.html HTTP/1.0\r\nHost: captive.apple.com\r\nConnection: close\r\n"
       "User-Agent: CaptiveNetworkSupport-458.120.5 wispr\r\n\r\n")  # fmt: skip
WINDOWS = ("GET /connecttest.txt HTTP/1.1\r\nConnection: Close\r\nUser-Agent: Microsoft NCSI\r\n"
           "Host: www.msftconnecttest.com\r\n\r\n")  # fmt: skip
WINDOWS_OLD = ("GET /ncsi.txt HTTP/1.1\r\nUser-Agent: Microsoft NCSI\r\n"
               "Host: www.msftncsi.com\r\n\r\n")  # fmt: skip
PROBES = {"android": ANDROID, "ios": IOS, "windows": WINDOWS, "windows 7": WINDOWS_OLD}


def identity(servers: tuple[str, ...] = (), portal: str | None = PASSWORD) -> board_file.Board:
    """A board file with a portal password."""
    return dataclasses.replace(fleet.identity("b1", servers), portal=portal, name="kitchen")


@contextlib.contextmanager
def board(
    folder: Path,
    networks: Mapping[Any, Any],
    *,
    known: Mapping[str, str] | None = None,
    who: board_file.Board | None = None,
    files: Mapping[str, bytes] | None = None,
    **options: Any,
) -> Iterator[VirtualBoard]:
    """A board with a plain app that runs, and a phone on its access point as soon as it opens."""
    release = fleet.release({"main.py": GOOD}, 1000)
    with Board(folder, **{"speed": 5, "address": ADDRESS, **options}) as made:
        flash = provision.board_files(who or identity(), fleet.first_trust(), release, known)
        made.format({**flash, **(files or {})})
        made.radio(networks=networks, clients=1)
        made.start()
        yield made


def opened(made: VirtualBoard, times: int = 1) -> Form:
    """Wait until the portal has opened so many times."""
    assert made.wait(lambda b: b.console.count(OPEN) >= times), made.console
    form = Form(made)
    form.get()
    return form


class Form:
    """The page's form, filled in by hand."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self.url = f"http://{board.address}:8080/"
        self.page = ""

    def get(self, seconds: float = 60) -> str:
        """The page as it is now, or as soon as there is one; `seconds` of the board's time."""
        while True:
            try:
                with self._board.passing():
                    reply = requests.get(self.url, headers={"host": HOST}, timeout=SECONDS)
                self.page = reply.text
                return self.page
            except requests.RequestException:
                if seconds <= 0:
                    raise
                self._board.go_on(STEP)
                seconds -= STEP

    @property
    def networks(self) -> list[str]:
        """Names in the list of the page last got."""
        return [html.unescape(name) for name in re.findall("<bdi>(.*?)</bdi>", self.page)]

    @property
    def token(self) -> str:
        """Of the page last got."""
        found = re.search("name=t value=([0-9a-f]{16})>", self.page)
        assert found, self.page
        return found[1]

    def post(self, **fields: str | bytes) -> requests.Response:
        """Send the form with these fields, and nothing else."""
        with self._board.passing():
            return requests.post(
                self.url,
                data=fields,
                headers={"host": HOST},
                timeout=SECONDS,
                allow_redirects=False,
            )

    def join(self, network: str, password: str, server: str = "") -> None:
        """Choose a network of the list, or a hidden one."""
        self.get()
        names = self.networks
        which = str(names.index(network)) if network in names else "h"
        hidden = "" if network in names else network
        reply = self.post(t=self.token, s=which, n=hidden, p=password, u=server, do="join")
        assert reply.status_code == 302, reply.text

    def says(self, text: str, seconds: float = 600) -> str:
        """Wait until the page says `text`; `seconds` of the board's time."""
        while text not in self.get():
            assert seconds > 0, self.page
            self._board.go_on(STEP)
            seconds -= STEP
        return self.page


def raw(address: str, data: bytes, seconds: float = 10, end: bool = False) -> bytes:
    """Send bytes to the portal's port, and perhaps that there are no more.

    Returns all that comes back until it hangs up.
    """
    got = b""
    with socket.create_connection((address, 8080), seconds) as s, contextlib.suppress(OSError):
        s.sendall(data)
        if end:
            s.shutdown(socket.SHUT_WR)
        while part := s.recv(4096):
            got += part
    return got


def question(name: str, kind: int = 1, number: int = 7) -> bytes:
    """A DNS query with an EDNS record, as phones send them (RFC 1035, RFC 6891)."""
    labels = b"".join(bytes((len(p),)) + p.encode() for p in name.split("."))
    head = struct.pack(">6H", number, 0x0100, 1, 0, 0, 1)
    return head + labels + struct.pack(">BHH", 0, kind, 1) + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def resolve(address: str, query: bytes, seconds: float = 5) -> bytes | None:
    """The answer of the portal's name server; None when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(seconds)
        s.sendto(query, (address, 8053))
        try:
            return s.recv(1024)
        except (BlockingIOError, TimeoutError):
            return None
