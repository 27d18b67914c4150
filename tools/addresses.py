"""What an address means."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def loopback(url: str) -> bool:
    """Whether a URL means the machine that uses it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
