"""What boards, brokers and servers say, made safe for a terminal.

A terminal obeys some of the characters that are printed on it: they overwrite what stands there,
set the clipboard or the window's title, or make the terminal type an answer. So text from outside
passes through `printable` first; `console` does so for every line it prints.
"""

from __future__ import annotations

import codecs
import re

# C0 and C1 controls and DEL (ECMA-48), marks that change the direction of text (UAX #9), separators
# of lines and paragraphs, halves of surrogate pairs.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What a line editor or an editor on the board needs (ECMA-48, "CSI"): moving the cursor, erasing,
# colours, scrolling, the cursor's position and visibility. Not the sequences that print, resize,
# report the terminal's kind or switch its modes.
_CURSOR = re.compile(r"\x1b\[(?:[0-9;]{0,16}[A-HJKLMPSTXdfmrsu@]|[56]n|\?25[hl])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]{0,16})?\Z")


def printable(text: str, keep: str = "") -> str:
    r"""Escape what a terminal would obey: an escape character becomes the four characters \x1b.

    Args:
        keep: characters to leave as they are, such as "\n".
    """
    return _OBEYED.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


class Printable:
    """`printable` for a board's output, which arrives in pieces.

    Args:
        cursor: let through what moves the cursor and colours text, as a REPL's line editor does.
    """

    def __init__(self, cursor: bool = False) -> None:
        self._cursor = cursor
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""

    def __call__(self, said: bytes) -> str:
        """The text of the next piece; a character or sequence cut in two waits for its rest."""
        text = self._rest + self._decoder.decode(said)
        self._rest = ""
        if not self._cursor:
            return printable(text, "\t\n\r")
        cut = _UNFINISHED.search(text)
        if cut:
            text, self._rest = text[: cut.start()], text[cut.start() :]
        shown, at = "", 0
        for found in _CURSOR.finditer(text):
            shown += printable(text[at : found.start()], "\a\b\t\n\r") + found[0]
            at = found.end()
        return shown + printable(text[at:], "\a\b\t\n\r")
