"""Fixtures every part may use, and the rule that CI runs every test."""

import os
import signal

import pytest

from mipy_ota.tools.sim import micropython

# A shell that starts this in the background has Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def mpy() -> list[str]:
    """The words that start MicroPython, 32-bit wherever it can be had."""
    return micropython.binary()


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
