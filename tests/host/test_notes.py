"""A release's note in any language: signed in full, in ASCII for those who know no more."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from mipy_ota.ota_server import policy
from mipy_ota.signing import manifest
from mipy_ota.signing.reasons import Refused
from mipy_ota.tools.app import build


def made(note: str) -> manifest.Manifest:
    return manifest.parse(manifest.make("a", "c", 1, {"main.py": b""}, note=note))


@pytest.mark.parametrize(
    "note, plain",
    [
        ("1.8.0", "1.8.0"),
        ("größer, über", "gro?er, uber"),
        ("naïve café", "naive cafe"),
        ("温度を直した", "??????"),
        ("Ω 𝟏 ﬁx", "? 1 fix"),
        ("🌱" * 28, "?" * 28),
    ],
)
def test_in_any_language(note: str, plain: str) -> None:
    found = made(note)
    assert (found.title, found.note) == (note, plain)
    assert found.body.isascii() and (note.isascii()) == (not found.extra)
    assert replace(found, seq=2).title == note  # as `mipy reissue` does


def test_what_is_too_long_or_no_line_is_refused() -> None:
    with pytest.raises(Refused, match="114 bytes"):
        made("ü" * 58)
    assert made("ü" * 57).title == "ü" * 57
    for note in ("two\nlines", "ü\x1b[2J", "\u2028"):
        with pytest.raises(Refused, match="one line"):
            made(note)


def test_who_sends_two_notes_is_shown_the_plain_one() -> None:
    """One signed by another tool, or by somebody who means to deceive."""
    for text in ("9.9.9 ü".encode(), b"\xff\xfe", "u\u0308ber\n".encode()):
        line = ("note", base64.b64encode(text).decode())
        raw = manifest.make("a", "c", 1, {"main.py": b""}, note="uber", extra=[line])
        assert manifest.parse(raw).title == "uber"
    raw = manifest.make("a", "c", 1, {"main.py": b""}, note="x", extra=[("note", "no base64!")])
    assert manifest.parse(raw).title == "x"


def test_a_wrong_clock_is_not_blamed_on_the_other_computer() -> None:
    """Of two clocks that differ nobody knows which is right, unless one differs from itself."""
    now = 1_764_000_000.0
    seq = policy.minutes_since_2020(now) + 3 * policy.DAY_MINUTES
    said = policy.clear_of(seq, [], now) or ""
    assert "2025-11-27" in said and "2025-11-24" in said and "that is wrong" in said
    earlier = policy.Release("d" * 64, "a", "c", seq - 5, 0, "-", 1, now)
    said = policy.clear_of(seq, [earlier], now) or ""
    assert f"published seq {seq - 5} already" in said and "set the server's clock" in said
    assert build.SEQ_EPOCH == policy.EPOCH
