"""Safe pin levels: the first thing a board does, long before anything else can go wrong."""

import machine


def hold():
    """Set each `<pin> <level>` line of /state/pins; no file, nothing to hold."""
    try:
        f = open("/state/pins")
    except OSError:
        return
    try:
        for line in f:
            pin, level = line.split()
            machine.Pin(int(pin), machine.Pin.OUT, value=int(level))
    finally:
        f.close()
