"""From the save of a one-line change to the new code running: `mipy push`, and by hand.

By hand is what a plain WebREPL client does: stop the program, delete its files, put them all,
reset; nothing is verified, and the board has no program while that goes on. Both over the same
virtual ESP8266, whose WebREPL takes 512 bytes each 20 ms as the chip's does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mipy_ota.signing import bundle
from mipy_ota.tools.app import build
from mipy_ota.tools.board import push, session, target
from mipy_ota.tools.board.remote import Remote
from mipy_ota.tools.board.webrepl import WebRepl
from tests.support import loopback, workbench

ROUNDS = 3
ADDRESS = loopback.address()


def main() -> int:
    sent = _metered()
    print("one line of one of 20 modules changed, ESP8266, real time, WebREPL")
    with (
        tempfile.TemporaryDirectory() as folder,
        workbench.desk(Path(folder), speed=1, address=ADDRESS) as desk,
    ):
        _pushed(desk, sent)
        _by_hand(desk, sent)
    print("one line of an app on the runtime changed")
    with (
        tempfile.TemporaryDirectory() as folder,
        workbench.desk(Path(folder), speed=1, runtime=True, address=ADDRESS) as desk,
    ):
        desk.board.wait(lambda _: desk.server.board("b1")["address"], 60)
        _pushed(desk, sent)
    return 0


def _pushed(desk: workbench.Desk, sent: list[int]) -> None:
    for n in range(ROUNDS):
        desk.edit(f"'push {n}'")
        began, sent[0] = time.monotonic(), 0
        push.Push(target.find(workbench.NAME), desk.app).run()
        _say("mipy push, confirmed", began, sent[0])
        time.sleep(2)


def _by_hand(desk: workbench.Desk, sent: list[int]) -> None:
    """Into /data/by-hand: what the board runs stays, or the boot stage would not start it."""
    desk.edit("'by hand'")
    files = bundle.read(build.make(desk.app, workbench.CLASS, 1))[1]
    found = target.find(workbench.NAME)
    for again in (False, True):
        began, sent[0] = time.monotonic(), 0
        with session.opened(found, restart=True) as repl:
            remote = Remote(repl)
            if not again:
                remote.folder(b"/data/by-hand")
            for name, content in files.items():
                path = f"/data/by-hand/{name}".encode()
                if again:
                    remote.remove(path)
                repl.stream.upload(path, content, lambda _: None)  # pyright: ignore
        found.reopen().close()
        if again:
            _say("delete and put all, unverified", began, sent[0])


def _say(what: str, began: float, sent: int) -> None:
    print(f"  {what:<32} {time.monotonic() - began:5.1f} s  {sent:7,} bytes sent")


def _metered() -> list[int]:
    """The payload that goes to boards from now on, in bytes."""
    sent = [0]
    real = WebRepl._send

    def send(self: WebRepl, data: bytes, text: bool) -> None:
        sent[0] += len(data)
        real(self, data, text)

    hooked: Any = WebRepl
    hooked._send = send
    return sent


if __name__ == "__main__":
    sys.exit(main())
