"""A board's wiring, `/state/pins`: safe levels, status LED and button (docs/wifi.md).

The boot stage reads it in its first lines and checks nothing, so all of it is checked here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..console import Failure

PATH = "/state/pins"
_LINE = re.compile(r"(?:led (\d{1,2}) [01]|button (\d{1,2})|(\d{1,2}) [01])")
_HIGHEST = 48
"""GPIO48 of an ESP32-S3; no chip has more."""


def load(path: Path) -> bytes:
    """Read a wiring file.

    Raises:
        Failure: unreadable, a line is malformed, or something is said twice.
    """
    try:
        text = path.expanduser().read_text("ascii")
    except (OSError, UnicodeDecodeError) as problem:
        raise Failure(f"cannot read {path}: {problem}", "see where it is") from problem
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    used: set[str] = set()
    for line in lines:
        match = _LINE.fullmatch(line)
        pin = match and next(group for group in match.groups() if group)
        if not pin or int(pin) > _HIGHEST:
            raise Failure(
                f"{path}: '{line}' is no line of a wiring file",
                "a line is `<pin> <level>`, `led <pin> <level when lit>` or `button <pin>`",
            )
        word = line.split()[0]
        for one in {f"pin {int(pin)}", *([word] if word.isalpha() else [])} & used:
            raise Failure(f"{path}: '{line}': {one} is there already", "name each once")
        used |= {f"pin {int(pin)}", word}
    return "".join(f"{line}\n" for line in lines).encode()
