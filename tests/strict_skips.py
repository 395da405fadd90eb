"""Turns skipped tests into failures when PLUMBLINE_STRICT_SKIPS=1, as CI does.

A test that needs a system program (a browser, a database server, promtool) or real images skips itself with
the reason and the remedy, so that `make test` works on a bare machine. On the machine that decides whether a
change lands, a silent skip would be a hole in the safety net, so there it is a failure.
"""

import os
from collections.abc import Generator

import pytest

VARIABLE = "PLUMBLINE_STRICT_SKIPS"
ALLOWED_MARK = "may_skip"  # for what no CI machine of ours has, a CUDA device for instance


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{ALLOWED_MARK}(reason): this test may skip even where {VARIABLE}=1 makes skips failures"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        os.environ.get(VARIABLE) == "1"
        and report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker(ALLOWED_MARK) is None
    ):
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE}=1 makes this skip a failure: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport) -> str:
    # A skip's representation is (file, line, "Skipped: why").
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
