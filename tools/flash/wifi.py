"""The network that a board gets to know over the cable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import console
from ..console import Failure

WIFI_PASSWORD = "MIPY_WIFI_PASSWORD"
_SSID_BYTES = range(1, 33)
_PASSWORD_LETTERS = range(8, 64)


def networks(ssid: str | None, file: Path | None) -> dict[str, str] | None:
    """The network of --wifi with its password; asks for that where nothing else tells it.

    Raises:
        Failure: there is no password, or it cannot be one.
    """
    if ssid is None:
        return None
    if len(ssid.encode()) not in _SSID_BYTES:
        raise Failure("a network's name has 1 to 32 bytes", "see --wifi", 2)
    password = _wifi_password(ssid, file)
    if password and len(password) not in _PASSWORD_LETTERS:
        raise Failure("a Wi-Fi password has 8 to 63 letters, or none", "see what the router has")
    return {ssid: password}


def _wifi_password(ssid: str, file: Path | None) -> str:
    if file:
        try:
            return file.expanduser().read_text("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise Failure(f"cannot read {file}: {problem}", "see where it is") from problem
    if WIFI_PASSWORD in os.environ:
        return os.environ[WIFI_PASSWORD]
    if not sys.stdin.isatty():
        raise Failure(
            f"the password of '{ssid}' is needed and nobody is at the keyboard",
            f"name a file with --wifi-password-file, or set {WIFI_PASSWORD}",
        )
    return console.prompt(f"Password of {ssid} (empty: open)", "", hidden=True)
