"""Fixtures every part may use, and the rule that CI runs every test."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mipy_ota.signing import rsa
from mipy_ota.tools.sim import micropython
from tests.support import order, testkeys
from tests.support.broker import Broker, Client
from tests.support.postgres import MISSING, Postgres, programs

# A shell that starts this in the background has Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_CI = os.environ.get("CI") == "true"
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.fixture(scope="session")
def mpy() -> list[str]:
    """The words that start MicroPython, 32-bit wherever it can be had."""
    return micropython.binary()


def _children() -> list[str]:
    """The command lines of this process's children that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                command = (status.parent / "cmdline").read_text().replace("\0", " ")
                found.append(command)
    return [command for command in found if "multiprocessing." not in command]  # Python's own


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Whatever the tests start, they stop."""
    before = _children()
    yield
    left = [command for command in _children() if command not in before]
    assert not left, left


@pytest.fixture(scope="session", autouse=True)
def fleet_keys() -> Iterator[None]:
    """Fleets get keys that were made before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa, "new_key", testkeys.pooled)
        yield


@pytest.hookimpl(tryfirst=True)  # so that a random order is one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if WORKERS > 1:
        items[:] = order.longest_first(items, WORKERS)


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", ())) if reporter else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    if IN_CI and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if IN_CI and _skipped(config):
        terminalreporter.write_line("error: tests were skipped, which CI does not allow", red=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A Mosquitto of its own."""
    made = Broker(tmp_path / "broker")
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL; whoever stops it starts it again."""
    if programs() is None:
        pytest.skip(MISSING)
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def watcher(broker: Broker) -> Iterator[Client]:
    """Hears all that is published to it."""
    made = Client(broker.port)
    yield made
    made.close()
