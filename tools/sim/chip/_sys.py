# `sys` as the chip shows it. An object, not a module: an assignment to sys.path has to arrive in
# the interpreter's own.
from collections import namedtuple

import usys
import _term
from _page import CHIP, ESP32, ROMFS

_BUILD = "ESP32_GENERIC" if ESP32 else "ESP8266_GENERIC"
if ROMFS:
    _BUILD += "-FLASH_2M_ROMFS"
_Implementation = namedtuple("implementation", ("name", "version", "_machine", "_mpy", "_build"))


class _Sys:
    platform = CHIP
    stdin = _term.stdin
    stdout = _term.stdout
    print_exception = staticmethod(_term.print_exception)
    implementation = _Implementation(
        "micropython",
        usys.implementation.version,
        "virtual " + CHIP,
        # bytecode version of this interpreter, native architecture of the chip (xtensawin, xtensa)
        (usys.implementation._mpy & 0x3FF) | (0x2800 if ESP32 else 0x2400),
        _BUILD,
    )

    def __getattr__(self, name):
        return getattr(usys, name)

    def __setattr__(self, name, value):
        setattr(usys, name, value)


usys.modules["sys"] = _Sys()
