"""Fixtures every part may use."""

import pytest

from mipy_ota.tools import micropython


@pytest.fixture(scope="session")
def mpy() -> list[str]:
    """The words that start MicroPython, 32-bit wherever it can be had."""
    return micropython.binary()
