"""The `update` entity of a board, as Home Assistant's MQTT integration takes it.

https://www.home-assistant.io/integrations/update.mqtt/. A version is the release's seq, which grows
and which both sides compare alike; what people call it is in the release summary.
"""

from typing import Any

from mipy_ota import __version__

from ..policy import Board, Release

INSTALL = "install"
"""What the button publishes."""
SUMMARY_CHARS = 255
"""Home Assistant cuts off what is longer."""
STATUS = "mipy/server/status"
"""`online` while the server is connected, else `offline`."""


def state_topic(board_id: str) -> str:
    """Where the entity's state is."""
    return f"mipy/{board_id}/ota"


def command_topic(board_id: str) -> str:
    """Where its button publishes."""
    return f"mipy/{board_id}/ota/install"


def config_topic(discovery: str, board_id: str) -> str:
    """Where Home Assistant looks for the entity."""
    return f"{discovery}/update/{board_id}/ota/config"


def config(board: Board) -> dict[str, Any]:
    """What the entity is."""
    device = {
        # As the runtime's own entities have it: they and this are of one device.
        "identifiers": [board.id],
        "name": board.name or board.id,
        "manufacturer": "MiPy-OTA",
        "model": board.chip or board.cls,
    }
    return {
        "name": "Update",
        "unique_id": f"{board.id}_ota",
        "device": device,
        "origin": {"name": "MiPy-OTA", "sw_version": __version__},
        "device_class": "firmware",
        "state_topic": state_topic(board.id),
        "command_topic": command_topic(board.id),
        "payload_install": INSTALL,
        "availability_topic": STATUS,
    }


def state(board: Board, running: Release | None, wanted: Release | None) -> dict[str, Any]:
    """What the entity shows.

    Args:
        running: what the board runs, if it is one of this server's releases.
        wanted: what it is to run instead.
    """
    latest = wanted or running
    shown: dict[str, Any] = {
        "installed_version": str(board.seq),
        "latest_version": str(latest.seq if latest else board.seq),
        "title": board.app,
        "in_progress": board.state in ("installing", "trial"),
        "update_percentage": _percentage(board),
    }
    if latest and latest.note not in ("", "-"):
        shown["release_summary"] = latest.note[:SUMMARY_CHARS]
    return shown


def _percentage(board: Board) -> int | None:
    done, _, of = board.progress.partition("/")
    if board.state != "installing" or not of or not int(of):
        return None
    return min(100 * int(done) // int(of), 100)
