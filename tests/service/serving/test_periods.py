"""Named periods in local time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from service.serving.periods import PeriodName, named_period, parse_shifts

BERLIN = ZoneInfo("Europe/Berlin")
SHIFTS = parse_shifts("06:00,14:00,22:00")


@pytest.mark.parametrize(
    ("now", "name", "since", "until"),
    [
        ("2026-03-10T15:00", "shift", "2026-03-10T14:00", None),
        ("2026-03-10T14:00", "shift", "2026-03-10T14:00", None),
        ("2026-03-10T15:00", "previous-shift", "2026-03-10T06:00", "2026-03-10T14:00"),
        ("2026-03-10T14:00", "previous-shift", "2026-03-10T06:00", "2026-03-10T14:00"),
        ("2026-03-10T03:00", "shift", "2026-03-09T22:00", None),
        ("2026-03-10T07:00", "previous-shift", "2026-03-09T22:00", "2026-03-10T06:00"),
        ("2026-03-10T00:30", "today", "2026-03-10T00:00", None),
        ("2026-03-10T00:30", "week", "2026-03-04T00:00", None),
        # Daylight saving time begins on March 29 at 02:00.
        ("2026-03-29T07:00", "previous-shift", "2026-03-28T22:00", "2026-03-29T06:00"),
        ("2026-03-30T09:00", "week", "2026-03-24T00:00", None),
    ],
)
def test_named_period_begins_and_ends_in_local_time(now: str, name: PeriodName, since: str, until: str | None) -> None:
    start, end = named_period(name, datetime.fromisoformat(now).replace(tzinfo=BERLIN), BERLIN, SHIFTS)
    assert start == datetime.fromisoformat(since).replace(tzinfo=BERLIN).astimezone(UTC)
    assert end == (None if until is None else datetime.fromisoformat(until).replace(tzinfo=BERLIN).astimezone(UTC))


def test_the_only_shift_of_a_day_follows_that_of_the_day_before() -> None:
    now = datetime(2026, 3, 10, 5, tzinfo=UTC)
    start, end = named_period("previous-shift", now, ZoneInfo("UTC"), parse_shifts("06:00"))
    assert (start, end) == (datetime(2026, 3, 8, 6, tzinfo=UTC), datetime(2026, 3, 9, 6, tzinfo=UTC))
