"""Tracebacks of boards, in the words of the project's sources."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from . import boot_stage, modules, names


def readable(trace: str) -> str:
    """A board's traceback, with the project's functions called what they are in its sources."""
    return names.restored(trace, *_our_sources())


@cache
def _our_sources() -> tuple[Mapping[str, str], ...]:
    """Runtime and boot stage, read once: a server makes tracebacks readable at every report."""
    boot = {f"bootloader/{name}": text for name, text in boot_stage.sources().items()}
    return modules.our_sources(), boot
