"""Turns skipped tests into failures when PLUMBLINE_STRICT_SKIPS=1, as CI does.

A test that needs a system program (a browser, a database server, promtool) or real images skips itself with
the reason and the remedy, so that `make test` works on a bare machine. On the machine that decides whether a
change lands, a silent skip would be a hole in the safety net, so there it is a failure.
"""

import os
from collections.abc import Generator

import pytest

VARIABLE = "PLUMBLINE_STRICT_SKIPS"
ALLOWED_MARK = "may_skip"  # for tests that need what no CI machine has, for example a CUDA device


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{ALLOWED_MARK}(reason): this test may skip even where {VARIABLE}=1 makes skips failures"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker(ALLOWED_MARK) is not None
    if _is_strict() and report.skipped and not expected:
        report.outcome = "failed"
        report.longrepr = _why(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file can skip itself while it is collected, with importorskip for instance."""
    report = yield
    if _is_strict() and report.skipped:
        report.outcome = "failed"
        report.longrepr = _why(report)
    return report


def _is_strict() -> bool:
    return os.environ.get(VARIABLE) == "1"


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    # A skip's representation is (file, line, "Skipped: why").
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    return f"{VARIABLE}=1 makes this skip a failure: {reason}"
