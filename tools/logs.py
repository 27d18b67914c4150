"""The server's log on standard error: lines for people, or JSON for what collects logs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from .printable import printable


class Lines(logging.Formatter):
    """Escaped: a message, or a traceback, may hold what a board has sent."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and its traceback."""
        return printable(super().format(record), "\n\t")


class Json(logging.Formatter):
    """An object a line: time (UTC, ISO 8601), level, logger, message and, of a defect, trace."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said)  # ASCII: nothing in it acts on a terminal


def to_stderr(form: str) -> None:
    """Send the log to standard error.

    Args:
        form: "text" or "json".
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
