"""The order in which several workers take the tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

LONGEST = (
    "tests/board/boot/test_power_cut.py",
    "tests/install/test_offline.py",
    "tests/board/sim/test_demo.py",
    "tests/board/app/test_mqtt.py::test_soak",
    "tests/board/app/test_examples.py::test_weather",
    "tests/board/boot/test_lost_boards.py::test_a_heap_too_full_for_a_poll",
    "tests/board/remote/test_silent.py::test_a_long_command_is_not_cut_short",
    "tests/board/remote/test_adopt.py::test_power_cut_at_any_operation",
)
"""Where the tests are that take longest, the longest first."""


def longest_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """The items in an order by which no worker is left with a long one at the end.

    pytest-xdist cuts the list into one piece for each worker, of one length, and lets who is done
    take over what others have not begun. So each piece begins with some of the longest.
    """
    groups = [[item for item in items if item.nodeid.startswith(long)] for long in LONGEST]
    long = {item for group in groups for item in group}
    others = [item for item in items if item not in long]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        length = (len(items) - len(ordered)) // (workers - worker)
        begins = [item for group in groups[worker::workers] for item in group]
        rest = max(0, length - len(begins))
        ordered += begins + others[:rest]
        del others[:rest]
    return ordered
