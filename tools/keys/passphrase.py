"""Passphrases: from the keyboard, or from a file where nobody sits at one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import console
from ..console import Failure

PASSPHRASE_FILE = "MIPY_PASSPHRASE_FILE"

typed: list[str] = []
"""What was typed while this command runs: nobody types twice what opens several keys."""


def ask(label: str, file: Path | None = None, twice: bool = False) -> str:
    """A passphrase: from `file`, else from the file that MIPY_PASSPHRASE_FILE names, else typed.

    Args:
        label: the prompt.
        twice: it is a new one, so have it typed again.
    """
    named = os.environ.get(PASSPHRASE_FILE)
    if file or named:
        return _read(file or Path(str(named)))
    if not sys.stdin.isatty():
        raise Failure(
            "a passphrase is needed and nobody is at the keyboard",
            f"write it into a file, and name the file with {PASSPHRASE_FILE}",
        )
    phrase = console.prompt(label, hidden=True, twice=twice)
    typed.append(phrase)
    return phrase


def _read(path: Path) -> str:
    try:
        phrase = path.expanduser().read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise Failure(f"cannot read the passphrase in {path}: {problem}") from problem
    if not phrase:
        raise Failure(f"{path} is empty", "write the passphrase into it")
    return phrase
