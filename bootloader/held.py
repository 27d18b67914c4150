"""A release that a developer's computer has put here: which one, and whether it is what runs."""

import ota

_PATH = "/state/pushed"


def keep(digest):
    """Note the first 16 bytes of its manifest's digest."""
    f = open(_PATH, "wb")
    try:
        f.write(digest)
    finally:
        f.close()


def held():
    """Whether what runs was pushed: then the server's offers have to wait."""
    try:
        f = open(_PATH, "rb")
    except OSError:
        return False
    try:
        return f.read(16) == ota.digest
    finally:
        f.close()
