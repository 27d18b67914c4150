"""The network that a board gets to know over the cable: the boards' rule, and its password."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from .. import console
from ..console import Failure

WIFI_PASSWORD = "MIPY_WIFI_PASSWORD"
_KEY = re.compile(rb"[0-9a-fA-F]{64}")


def check(ssid: bytes, password: bytes) -> None:
    """The rule of the boot stage: lengths in bytes, as IEEE 802.11 has them.

    A password of 64 hex digits is the key itself (IEEE 802.11, J.4); an empty one means none.

    Raises:
        ValueError: there can be no such network; says why, without the password.
    """
    if not 0 < len(ssid) <= 32:
        raise ValueError("a network's name has 1 to 32 bytes")
    if password and not (8 <= len(password) <= 63 or _KEY.fullmatch(password)):
        raise ValueError("a password has 8 to 63 bytes, or 64 hex digits")


def networks(ssid: str | None, file: Path | None) -> dict[str, str] | None:
    """The network of --wifi with its password; asks for that where nothing else tells it.

    Raises:
        Failure: the password is missing or invalid.
    """
    if ssid is None:
        return None
    try:
        check(ssid.encode(), b"")
        password = _password(ssid, file)
        check(ssid.encode(), password.encode())
    except ValueError as problem:
        raise Failure(
            f"'{ssid}': {problem}", "an umlaut has two bytes; see what the router has"
        ) from None
    return {ssid: password}


def _password(ssid: str, file: Path | None) -> str:
    if file:
        try:
            return file.expanduser().read_text("utf-8-sig").strip("\r\n")
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
