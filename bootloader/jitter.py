"""Jitter: boards that lost their server together must not come back to it together."""

import os


def around(n):
    """Return `n` or up to a quarter more or less of it."""
    return n - n // 4 + n * os.urandom(1)[0] // 510
