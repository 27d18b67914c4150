"""What one life of the board tells the next: eight bytes in RTC memory, no flash write.

RTC memory survives a reset, the watchdog and deep sleep, and is lost with the power. Each byte
stands beside its complement, because on ESP32 the memory is random after power-on. Bytes from 16
on belong to the app.
"""

import machine
from micropython import const

# Indices
END = const(0)  # how the last life ended, one of the values below
# Lives of a confirmed app in a row that crashed within ten minutes; from 16 on: that ended by deep
# sleep without an answer of the server
CRASHES = const(1)
WANT = const(2)  # what the boot stage is asked to do before it starts the app
FAILS = const(3)  # installs in a row that did not get through; 255: a recovery without WebREPL
ROUNDS = const(4)  # recoveries in a row, for their growing pauses; 255: judge an order there
READY = const(5)  # what the life before has prepared for this one, the bits below
PRESSES = const(6)  # of an ESP8266's reset button within five seconds
PORTALS = const(7)  # rounds of the portal in a row that brought no network

# READY. Verifying and polling leave names on the heap for good, so they get a life of their own.
CHECKED = const(1)  # the trial is verified, and counted
HEARD = const(2)  # a server has answered
NAMED = const(4)  # the board names a server
DEV = const(8)  # the trial is signed by the board's dev key alone
OFFLINE = const(16)  # the portal has had its round: the app is next, network or not
# The upper three bits are kept: for how many times ten minutes WebREPL is open.

# END
POWER = const(0)  # or within the boot stage
RUNNING = const(1)  # it never said how it ended: a reset, a hang, the watchdog
EXCEPTION = const(2)
STOPPED = const(3)  # Ctrl-C
SLEEP = const(4)
ASKED = const(5)  # an orderly reset
HEALTHY = const(6)  # the server had answered, and then the app slept, or a plain one has lasted
VETO = const(7)
TIMEOUT = const(8)

# As RUNNING, after an answer of the server: start.py makes HEALTHY of it when the app then slept
ANSWERED = const(9)

# WANT
INSTALL = const(1)
ROLLBACK = const(2)
RECOVER = const(3)
POLL = const(4)  # connect and ask the server in the app's stead
IMAGE = const(5)  # nothing: the images were made just now, and where one is not right, files do
PORTAL = const(8)  # a bit beside the others: before anything else


def load():
    """Return the eight bytes as a bytearray; all zero (END is POWER) when the power was lost."""
    m = machine.RTC().memory()
    life = bytearray(8)
    if len(m) >= 16:
        for i in range(8):
            if m[i] + m[i + 8] != 255:
                return bytearray(8)
            life[i] = m[i]
    return life


def save(life):
    """Store the eight bytes; the app's part stays as it is."""
    rtc = machine.RTC()
    rtc.memory(bytes(life) + bytes(255 - b for b in life) + rtc.memory()[16:])
