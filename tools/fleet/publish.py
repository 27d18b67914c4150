"""`mipy keys publish`: new trust versions for the server, from which the boards take them."""

from __future__ import annotations

from .. import console
from ..keys import store as keys
from .client import connect
from .trust_upload import publish_trust


def publish() -> None:
    """Send new trust versions to the server, from which the boards take them."""
    sent = publish_trust(connect())
    console.say(f"{sent} trust versions sent, the newest is {keys.trust().version}")
