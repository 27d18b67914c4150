"""A label as a picture: a QR code, and lines of text beside it, as .svg or .png.

Letters of the PNG are drawn here, so that no imaging library is needed for a dozen lines.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from xml.sax.saxutils import escape

Code = Sequence[Sequence[int]]
"""The modules of a QR code, dark ones true."""

KINDS = (".svg", ".png")
_MODULE = 4
"""Pixels of a module's side; everything else below is in pixels too."""
_QUIET = 4 * _MODULE
_LINE, _LETTER, _DOT = 22, 12, 2
_FIRST = " "
_WIDTH = 5
_FONT = bytes.fromhex(
    "000000000000005f00000007000700147f147f14242a7f2a12231308646236495522500005030000001c224100"
    "0041221c00082a1c2a0808083e080800503000000808080808006060000020100804023e5149453e00427f4000"
    "42615149462141454b311814127f1027454545393c4a49493001710905033649494936064949291e0036360000"
    "00563600000814224100141414141400412214080201510906324979413e7e1111117e7f494949363e41414122"
    "7f4141221c7f494949417f090901013e414151327f0808087f00417f41002040413f017f081422417f40404040"
    "7f0204027f7f0408107f3e4141413e7f090909063e4151215e7f09192946464949493101017f01013f4040403f"
    "1f2040201f7f2018207f63140814630304780403615149454300007f4141020408102041417f00000402010204"
    "4040404040000102040020545454787f484444383844444420384444487f3854545418087e09010218a4a49c78"
    "7f0804047800447d40004080847d00007f10284400417f40007c041804787c080404783844444438fc18242418"
    "18242418fc7c080404084854545420043f4440203c4040207c1c2040201c3c4030403c44281028444c9090907c"
    "4464544c44"
)
"""Letters from the space to z, five columns each, the lowest bit uppermost."""


def picture(kind: str, code: Code, lines: Sequence[str]) -> bytes:
    """The label as a file of this kind, one of `KINDS`."""
    side = len(code) * _MODULE + 2 * _QUIET
    width = side + max(map(len, lines), default=0) * _LETTER + _QUIET
    height = max(side, len(lines) * _LINE + 2 * _QUIET)
    draw = _svg if kind == ".svg" else _png
    return draw(code, lines, side, width, height)


def _svg(code: Code, lines: Sequence[str], side: int, width: int, height: int) -> bytes:
    dark = "".join(
        f"M{_QUIET + x * _MODULE} {_QUIET + y * _MODULE}h{_MODULE}v{_MODULE}h-{_MODULE}z"
        for y, row in enumerate(code)
        for x, module in enumerate(row)
        if module
    )
    text = "".join(
        f'<text x="{side}" y="{_QUIET + (number + 1) * _LINE - 6}">{escape(line)}</text>\n'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' font-family="monospace" font-size="{_LINE - 3}">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n<path d="{dark}"/>\n{text}</svg>\n'
    ).encode()


def _png(code: Code, lines: Sequence[str], side: int, width: int, height: int) -> bytes:
    rows = [bytearray(b"\xff" * width) for _ in range(height)]

    def square(x: int, y: int, size: int) -> None:
        for row in rows[y : y + size]:
            row[x : x + size] = bytes(size)

    for y, modules in enumerate(code):
        for x, module in enumerate(modules):
            if module:
                square(_QUIET + x * _MODULE, _QUIET + y * _MODULE, _MODULE)
    for number, line in enumerate(lines):
        for place, letter in enumerate(line):
            for x, y in _dots(letter):
                left, top = side + place * _LETTER, _QUIET + number * _LINE
                square(left + x * _DOT, top + y * _DOT, _DOT)
    return _encoded(rows, width, height)


def _dots(letter: str) -> list[tuple[int, int]]:
    at = (ord(letter) - ord(_FIRST)) * _WIDTH
    columns = _FONT[at : at + _WIDTH]
    return [(x, y) for x, column in enumerate(columns) for y in range(8) if column >> y & 1]


def _encoded(rows: Sequence[bytearray], width: int, height: int) -> bytes:
    """A PNG file (RFC 2083) of grey pixels, a byte each."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    )  # fmt: skip
