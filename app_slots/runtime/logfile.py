"""The log's ring file: the last 4 to 8 KB of lines on flash (docs/runtime.md, "The log").

Lines gather in RAM and are appended once a minute, and before a reset or sleep: 1,440 writes a day
while the board runs, whatever the app says. What gathers beyond 512 bytes pushes out the oldest,
never the newest. The newest are in RTC memory as well, so they outlive the watchdog, though not a
power cut.
"""

import machine
import os
from micropython import const

import ota
from runtime import log

_OLDER = "/data/log1"
_NEWER = "/data/log0"
_SIZE = const(4000)  # bytes of a file, a little less than a block of the flash
_GATHER = const(512)  # bytes
_EVERY = const(60000)  # ms
_RTC = const(16)  # bytes that are the boot stage's
_KEPT = const(400)  # bytes in RTC memory
_MARK = b"log1"


class LogFile:
    """Keeps the log from now on. `rtc=False` leaves the app's part of RTC memory to the app."""

    def __init__(self, app, rtc=True):
        self._rtc = machine.RTC() if rtc else None
        self._text = b""
        self._recover(app)
        app.drivers.append(self)  # for stop()
        app.every(_EVERY, self.flush, "log file")
        log.sinks.append(self._take)
        log.info("release %d starts, reset cause %d", ota.seq, machine.reset_cause())

    def _recover(self, app):
        if self._rtc:
            kept = self._rtc.memory()[_RTC:]
            if kept[:4] == _MARK:
                self._text = kept[4:]
                app.once(self.flush, "log file")  # a full flash ends no app in there

    def _take(self, _, line):
        text = self._text + line.encode()[-_KEPT:] + b"\n"
        while len(text) > _GATHER:
            text = text[text.find(b"\n") + 1 :]
        self._text = text
        self._remember(text)

    def _remember(self, text):
        if self._rtc:
            head = self._rtc.memory()[:_RTC]
            if len(head) == _RTC:
                self._rtc.memory(head + _MARK + text[-_KEPT:])

    def flush(self):
        """Write what has gathered."""
        if not self._text:
            return
        try:
            if os.stat(_NEWER)[6] > _SIZE:
                os.rename(_NEWER, _OLDER)
        except OSError:
            pass  # not written yet
        f = open(_NEWER, "ab")
        try:
            f.write(self._text)
        finally:
            f.close()
        self._text = b""
        self._remember(b"")

    stop = flush
