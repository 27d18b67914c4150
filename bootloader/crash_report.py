"""The text that goes with a rejection: the traceback of the app, or its own words."""

import os

_PATH = "/state/crash"


def save(text, path=_PATH):
    """Store the last 500 characters for the next poll."""
    f = open(path, "w")
    try:
        f.write(text[-500:])
    finally:
        f.close()


def read(path=_PATH):
    """Return what was kept, or an empty string."""
    try:
        with open(path) as f:
            return f.read(500)
    except (OSError, UnicodeError):
        return ""


def clear():
    """Forget it, before a trial that is to have its own."""
    if "crash" in os.listdir("/state"):
        os.remove(_PATH)
