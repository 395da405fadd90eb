"""Named periods in local time."""

from __future__ import annotations

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from service.errors import InvalidRequest
from service.serving.periods import PeriodName, named_period, requested_shifts
from service.settings import Settings
from service.shift_times import MAX_SHIFTS, parse_shifts

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:00,14:00,22:00", (time(6), time(14), time(22))),
        (" 6:00 , 14:30", (time(6), time(14, 30))),
        ("00:00", (time(0),)),
        (",".join(f"{hour:02d}:00" for hour in range(MAX_SHIFTS)), tuple(map(time, range(MAX_SHIFTS)))),
    ],
)
def test_shifts_are_read_alike_in_settings_and_requests(text: str, expected: tuple[time, ...]) -> None:
    assert requested_shifts(text) == expected
    assert parse_shifts(Settings(shifts=text).shifts) == expected


@pytest.mark.parametrize(
    "text",
    ["", "6", "06:00,", "14:00,06:00", "06:00,06:00", "24:00", "06:60", "06:00;14:00", "a", "06:00+01:00",
     ",".join(f"00:{minute:02d}" for minute in range(MAX_SHIFTS + 1))],
)  # fmt: skip
def test_what_is_no_list_of_shifts_is_refused_alike(text: str) -> None:
    with pytest.raises(InvalidRequest, match="such as 06:00,14:00,22:00"):
        requested_shifts(text)
    with pytest.raises(ValidationError, match="such as 06:00,14:00,22:00"):
        Settings(shifts=text)
