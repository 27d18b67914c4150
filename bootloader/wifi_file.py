"""Networks that came in a file, /wifi.json; loaded where there is one."""

import json
import os

from bootloader import wifi_networks

_FILE = "/wifi.json"


def import_file():
    """Take over /wifi.json, {"ssid": "password", ...}; what cannot be a network stays in it.

    The console says which and why, but no password.
    """
    try:
        with open(_FILE, "rb") as f:
            if f.seek(0, 2) > 2048:
                raise ValueError("more than 2048 bytes")
            f.seek(0)
            if f.read(3) != b"\xef\xbb\xbf":  # what some editors put before UTF-8
                f.seek(0)
            new = json.load(f)
        networks = wifi_networks.load()
        wrong = {}
        for ssid in new:
            try:
                name, password = ssid.encode(), new[ssid].encode()
                wifi_networks.check(name, password)
                networks = [(name, password)] + [k for k in networks if k[0] != name]
            except (AttributeError, ValueError) as e:
                wrong[ssid] = new[ssid]
                why = e if isinstance(e, ValueError) else "its password is no text"
                print(_FILE, repr(ssid), "stays:", why)
        wifi_networks.store(networks)
        # A full disk keeps the file for another start.
        if not wrong:
            os.remove(_FILE)
        elif len(wrong) < len(new):
            text = json.dumps(wrong)
            with open(_FILE, "w") as f:
                f.write(text)
    except OSError as e:
        print(_FILE, repr(e))
    except (MemoryError, TypeError, ValueError) as e:
        print(_FILE, "is no JSON object in UTF-8, and stays:", repr(e))
