"""What is kept in memory for the page System: recent inspections, refusals, warnings and errors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import structlog

from service.monitoring import recent, refusals
from service.monitoring.error_log import ErrorLog
from service.monitoring.recent import Durations, RecentInspections
from service.monitoring.refusals import RefusalLog


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_percentiles_are_exact_and_null_with_too_few_inspections() -> None:
    values = [random.Random(1).random() for _ in range(500)]
    found = Durations.of(values)
    expected = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    assert (found.p50_s, found.p95_s, found.p99_s, found.longest_s) == (*expected, max(values))
    assert Durations.of([]) == Durations(None, None, None, None)
    assert Durations.of([0.2]) == Durations(None, None, None, 0.2)
    assert Durations.of([0.1] * 19).p95_s is None
    assert Durations.of([0.1] * 20).p95_s == 0.1
    assert Durations.of([0.1] * 99).p99_s is None
    assert Durations.of([0.1] * 100).p99_s == 0.1


def test_window_ends_now_and_begins_with_the_process() -> None:
    clock = Clock()
    found = RecentInspections(clock)
    clock.now += 10
    found.add("nut", "fail", 0.1)
    clock.now += 10
    found.add("nut", "pass", 0.3)
    found.add("bolt", "pass", 0.2)
    report = found.report()
    assert (report.window_s, report.total.per_second) == (20, 3 / 20)
    assert report.products["nut"].decisions == {"fail": 1, "pass": 1}
    assert report.products["nut"].durations.longest_s == 0.3
    clock.now += recent.WINDOW_S - 5
    report = found.report()
    assert (report.window_s, dict(report.total.decisions)) == (recent.WINDOW_S, {"pass": 2})
    clock.now += 10
    assert found.report().products == {}


def test_memory_is_bounded_and_the_window_is_then_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_KEPT", 10)
    clock = Clock()
    found = RecentInspections(clock)
    for _ in range(50):
        clock.now += 1
        found.add("nut", "pass", 0.1)
    report = found.report()
    assert (report.window_s, sum(report.total.decisions.values())) == (9, 10)
    found.count_shed("queue_full")
    assert found.report().shed == {"queue_full": 1}


def test_newest_refusals_of_each_problem_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = RefusalLog(0)
    found.record("queue-full", "r0", status=503, reason="full")
    for number in range(refusals.KEPT_PER_PROBLEM * 3):
        found.record("route-not-found", f"r{number}", status=404, path="/x", method="GET", reason="x" * 10_000)
    kept = found.newest(100)
    assert len(kept) == refusals.KEPT_PER_PROBLEM + 1
    assert (kept[0].request_id, kept[-1].problem) == (f"r{refusals.KEPT_PER_PROBLEM * 3 - 1}", "queue-full")
    assert len(str(kept[0].reason)) == 500
    assert found.totals == {"queue-full": 1, "route-not-found": refusals.KEPT_PER_PROBLEM * 3}
    assert len(found.newest(5)) == 5


def test_newest_warnings_and_errors_of_the_log_are_kept() -> None:
    kept = ErrorLog(3)
    processors: list[structlog.typing.Processor] = [kept, structlog.processors.KeyValueRenderer()]
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=processors)
    log.info("started")
    log.warning("sink failed", sink="mes", reason="x" * 1000)
    try:
        raise ValueError("no value")
    except ValueError:
        log.exception("not reported")
    log.error("audit log was changed", entry=7)
    found = kept.newest()
    assert [(one.level, one.event) for one in found] == [
        ("error", "audit log was changed"),
        ("error", "not reported"),
        ("warning", "sink failed"),
    ]
    assert (found[0].details, found[1].details) == ('{"entry": 7}', '{"exception": "ValueError: no value"}')
    assert len(found[2].details) == 500
    for number in range(5):
        log.error("again", number=number)
    assert [one.details for one in kept.newest()] == [f'{{"number": {number}}}' for number in (4, 3, 2)]
