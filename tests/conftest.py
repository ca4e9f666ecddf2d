"""For all tests: a skip that nobody agreed to makes a run in CI fail; what tests have measured is told at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Runs before the summary is printed, so that the exit code and the summary agree."""
    if refused := _refused_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield
    if refused:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what was measured (`record_property`), and name the skips that made the run fail."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"MEASURED {name} = {value}")
    for nodeid, reason in _refused_skips(config):
        terminalreporter.write_line(
            f"SKIP NOT ALLOWED {nodeid}: {reason} (tests/allowed_skips.txt lists the reasons that are)", red=True
        )


def _refused_skips(config: pytest.Config) -> list[tuple[str, str]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI", "").lower() != "true":
        return []
    lines = ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines()
    allowed = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    skips = [(report.nodeid, _reason(report)) for report in reporter.stats.get("skipped", [])]
    return [(nodeid, reason) for nodeid, reason in skips if not (allowed and reason.startswith(allowed))]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    details = report.longrepr
    text = str(details[2]) if isinstance(details, tuple) else str(details)
    return text.removeprefix("Skipped: ")
