"""A sample of `make fuzz`: signer, server and chip take the same manifests and trust files."""

from __future__ import annotations

from tests.support import fuzz


def test_a_sample() -> None:
    figures = fuzz.compare(seed=7, count=1500)
    assert figures.taken > 100 and figures.judged - figures.taken > 500
    assert not figures.differences, str(figures)


def test_a_sample_on_the_binary() -> None:
    figures = fuzz.compare_on_chip(seed=8, count=150)
    assert not figures.differences, str(figures)


def test_a_planted_difference_is_found() -> None:
    """The chip takes numbers with leading zeros."""
    chip = fuzz.Chip()
    chip.syntax.number = int
    assert fuzz.compare(seed=7, count=1500, chip=chip).differences
