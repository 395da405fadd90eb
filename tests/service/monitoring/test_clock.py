"""Jumps of the clock are noticed once; slow corrections are not jumps."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from service.monitoring.clock import Clock

DAY_S = 86_400.0


class Times:
    def __init__(self) -> None:
        self.wall_s, self.steady_s = 1.8e9, 100.0

    def pass_by(self, seconds: float, *, set_by: float = 0.0) -> None:
        self.wall_s += seconds + set_by
        self.steady_s += seconds


def test_jumps_are_logged_once_and_reported() -> None:
    times = Times()
    jumps: list[str] = []
    clock = Clock(jumps.append, lambda: times.wall_s, lambda: times.steady_s)
    with structlog.testing.capture_logs() as log:
        for set_by in (0.0, 400 * DAY_S, 0.0, 0.0, -400 * DAY_S, 0.0):
            times.pass_by(60, set_by=set_by)
            assert clock.now() == datetime.fromtimestamp(times.wall_s, UTC)
    assert jumps == ["forwards", "backwards"]
    assert [entry["direction"] for entry in log] == jumps
    assert clock.seconds_since_jump() == 60


def test_slow_corrections_are_no_jump() -> None:
    times = Times()
    jumps: list[str] = []
    clock = Clock(jumps.append, lambda: times.wall_s, lambda: times.steady_s)
    for _ in range(100):
        times.pass_by(3600, set_by=-1)
        clock.now()
    assert (jumps, clock.seconds_since_jump()) == ([], None)
