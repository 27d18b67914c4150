"""What an app stands on (docs/runtime.md).

Nothing is imported here: the boot stage loads `runtime.installer` alone, without the rest.
"""

import gc
import sys
from hashlib import sha256

settings_trial = False  # this start is a try of changed settings


def run(setup):
    """Call `setup(app)`, then run its jobs and drivers until Ctrl-C (see runtime.loop)."""
    # First what takes room for the moment alone, then the loop, which stays as this call does. Not
    # here itself: what a call leaves in the frame of its caller stays as long as that.
    _begin()
    from runtime import loop

    wipe()
    loop.run(setup)


def _begin():
    """Take the board's settings in, and let the chip look for its network."""
    part = lend("settings")
    part.load()
    part.__dict__.clear()
    connect(0)


def connect(turn):
    """Let the chip look for a network, on each turn for the next one."""
    import ota

    part = ota.stage("wifi")
    try:
        part.start(turn)
    except OSError as e:
        print("connecting:", repr(e))  # network_changes.py goes on trying
    getattr(part, "wifi_networks", part).__dict__.clear()
    part.__dict__.clear()


def wipe(deep=12):
    """Let go of what nothing but leftovers on the stack holds, below the caller's frame.

    The collector takes any word there for a reference, also one that a call long over has left in
    a gap of a later frame. A hash fills a quarter of a KB without a gap.
    """
    if deep:
        try:
            wipe(deep - 1)
        except RuntimeError:  # there is no more stack to write over
            return
    sha256().digest()


def lend(name):
    """Import and return `runtime.<name>` without keeping it: its heap is free after use."""
    wipe()
    gc.collect()  # what is loaded shall lie close together
    whole = "runtime." + name
    try:
        __import__(whole)
        return sys.modules[whole]
    finally:
        # Where it did not fit into the heap, a part of it is there.
        sys.modules.pop(whole, None)
        globals().pop(name, None)
