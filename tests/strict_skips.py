"""Turns skipped tests into failures when PLUMBLINE_STRICT_SKIPS=1, as CI does.

A test that needs a system program (a browser, a database server, promtool) or real images skips itself with
the reason and the remedy, so that `make test` works on a bare machine. On the machine that decides whether a
change lands, a silent skip would be a hole in the safety net, so there it is a failure.
"""

import os

import pytest

VARIABLE = "PLUMBLINE_STRICT_SKIPS"
ALLOWED_MARK = "may_skip"  # for what no machine of ours can have, a CUDA device for instance


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{ALLOWED_MARK}(reason): this test may skip even where {VARIABLE}=1 makes skips failures"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> "object":  # the hook's type is generic over the report
    report = yield
    return _judged(item, report)


def _judged(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    strict = os.environ.get(VARIABLE) == "1"
    if not (strict and report.skipped) or hasattr(report, "wasxfail") or item.get_closest_marker(ALLOWED_MARK):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{VARIABLE}=1 turns this skip into a failure: {reason}"
    return report
