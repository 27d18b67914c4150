"""Safe pin levels: the first thing a board does, long before anything else can go wrong."""

import machine

button = None  # the line that names its pin; low when pressed


def hold():
    """Set each `<pin> <level>` line of /state/pins; no file, nothing to hold.

    Two more lines name pins of the boot stage: `button <pin>`, and `led <pin> <level>` (led.py).
    """
    global button
    try:
        f = open("/state/pins")
    except OSError:
        return
    try:
        for line in f:
            words = line.split()
            if words[0] == "button":
                button = words
            elif words[0] != "led":
                machine.Pin(int(words[0]), machine.Pin.OUT, value=int(words[1]))
    finally:
        f.close()
