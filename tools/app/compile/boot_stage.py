"""The boot stage as it lies on the flash: bytecode, with names that every firmware has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache

from ....signing.manifest import stem
from ... import places
from . import bytecode, cached, names

SOURCE_FILES = ("boot.py", "main.py")
"""Run by the firmware by name, as source; everything else of the boot stage is bytecode."""


@cache
def files() -> Mapping[str, bytes]:
    """The boot stage as it lies on the flash: absolute path -> content."""
    folder = places.sources("bootloader")
    return compiled(sources()) | {
        f"/bootloader/{path.name}": path.read_bytes() for path in folder.glob("*.html")
    }


def sources() -> dict[str, str]:
    """Name in bootloader/ -> text, of the boot stage's modules."""
    folder = places.sources("bootloader")
    return {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}


def short(texts: Mapping[str, str], beside: Iterable[bytes] = ()) -> dict[str, str]:
    """Path -> text of the boot stage's modules, with names that every firmware has (names.py).

    Args:
        texts: name in bootloader/ -> text, as `sources()` has them.
        beside: further modules; what they use of it keeps its names, as does what the runtime uses.
    """
    modules = {f"bootloader/{name}": text for name, text in texts.items()}
    others = [*beside, *(modules.pop(f"bootloader/{name}").encode() for name in SOURCE_FILES)]
    others += [path.read_bytes() for path in places.sources("app_slots").glob("*/*.py")]
    return cached.texts(
        (*names.VERSION, json.dumps(sorted(modules.items())).encode(), *others),
        lambda: names.short(names.without_constants(modules), others),
    )


def compiled(texts: Mapping[str, str], beside: Iterable[bytes] = ()) -> dict[str, bytes]:
    """The boot stage made of `texts`, as it lies on the flash; see `short`."""
    modules = short(texts, beside)
    return {
        **{f"/{name}": texts[name].encode() for name in SOURCE_FILES},
        **{f"/{stem(file)}.mpy": bytecode.compiled(text.encode(), file)
           for file, text in sorted(modules.items())},
    }  # fmt: skip
