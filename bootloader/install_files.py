"""Brings a release's files into a slot, one by one.

How a single file comes is the release's own affair (runtime/installer.py). http_download.py has
the plain way, for recovery and for when the other one fails.
"""

import os
import sys
from micropython import const

import ota
from bootloader import slots
from bootloader.manifest import Manifest, Rejected

_INCOMING = "/state/incoming"
_TELL = const(8)  # progress goes to the server after so many downloads


def bring(url, b, r, state, slot, active, own, of):
    """Bring all `of` files of the manifest in /state/incoming, and check them.

    The rest is as in install.update(). Raises OSError, and Rejected for content that is not listed.
    """
    http = ota.stage("http_download")
    fetch = own and _own() or http.fetch
    connection = http.Downloads(url)
    count = loaded = 0
    try:
        with open(_INCOMING, "rb") as f:
            for name, size, sha in Manifest(f).files():
                count += 1
                make_folders(slots.path(slot) + "/" + name)
                how = fetch(connection, "ab"[slot], "ab"[active], name, size, sha)
                print("file", count, name, how)
                if how == "loaded":
                    loaded += 1
                    if loaded % _TELL == 0:
                        ota.stage("install_check").report(b, r, state, {"prog": [count, of]})
    except OSError as e:
        # ENOSPC; for a new name that finds no room LittleFS says that it is too long.
        if e.args[0] in (28, 36):
            raise Rejected("space")
        raise
    finally:
        connection.close()
    slots.check_files(slot, _INCOMING)


def _own():
    """The fetch of the active release, or None when it brings none."""
    sys.path.insert(0, ota.root)
    try:
        from runtime.installer import fetch

        return fetch
    except ImportError:
        return None
    finally:
        sys.path.pop(0)


def make_folders(name):
    """Make the folders above the file `name`."""
    i = name.find("/", 1)
    while i > 0:
        try:
            os.mkdir(name[:i])
        except OSError as e:
            if e.args[0] != 17:  # EEXIST
                raise
        i = name.find("/", i + 1)
