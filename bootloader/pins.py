"""Safe pin levels: the first thing a board does, long before anything else can go wrong."""

import machine

led = None  # (pin, level when lit)
button = None  # pin, low when pressed


def hold():
    """Set each `<pin> <level>` line of /state/pins; no file, nothing to hold.

    Two more lines name pins of the boot stage: `led <pin> <level when lit>`, `button <pin>`.
    """
    global led, button
    try:
        f = open("/state/pins")
    except OSError:
        return
    try:
        for line in f:
            words = line.split()
            if words[0] == "led":
                led = int(words[1]), int(words[2])
            elif words[0] == "button":
                button = int(words[1])
            else:
                machine.Pin(int(words[0]), machine.Pin.OUT, value=int(words[1]))
    finally:
        f.close()
