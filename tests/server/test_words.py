"""Numbers as people read them."""

import pytest

from mipy_ota.ota_server import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (40, "40 s"), (600, "10 min"), (7300, "2 h"), (300_000, "3 d")],
)
def test_durations(seconds: float, said: str):
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (18_842, "18.4 KB")]
)
def test_sizes(number: int, said: str):
    assert words.size(number) == said


def test_numbers_of_things():
    assert [words.many(n, "board") for n in (0, 1, 2)] == ["0 boards", "1 board", "2 boards"]
