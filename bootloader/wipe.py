"""Frees what nothing but leftovers on the stack holds.

The collector takes any word on the stack for a reference, also one that a call long over has left
in a gap of a frame that stays. So whoever is about to enter frames that stay, first lets others
write over that part of the stack.
"""

from hashlib import sha256


def run(deep=12):
    """Write over the stack below the caller: a hash fills a quarter of a KB without a gap."""
    if deep:
        run(deep - 1)
    sha256(b"").digest()
