"""Hours, shifts and days in a time zone, across changes of daylight saving time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from service.errors import InvalidRequest
from service.shift_times import parse_shifts

Period = Literal["hour", "shift", "day"]
PeriodName = Literal["shift", "previous-shift", "today", "week"]
_QUARTER = timedelta(minutes=15)  # offsets of time zones are multiples of it
_DAY = timedelta(days=1)
_MOMENT = timedelta(microseconds=1)


def parse_zone(name: str) -> ZoneInfo:
    """Return an IANA time zone.

    Raises:
        InvalidRequest: There is none with this name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # the latter for the name of a folder, such as Europe
        raise InvalidRequest(
            f"{name!r} is not a time zone of the IANA database. Give a name such as Europe/Berlin, "
            "America/Mexico_City or UTC."
        ) from error


def requested_shifts(text: str) -> tuple[time, ...]:
    """Return the times at which shifts begin that a request states.

    Args:
        text: Local times, as `parse_shifts` takes them.

    Raises:
        InvalidRequest: It is not such a list.
    """
    try:
        return parse_shifts(text)
    except ValueError as error:
        raise InvalidRequest(f"shifts: {text!r} cannot be read: {error}.") from error


def period_starts(
    period: Period, since: datetime, until: datetime, zone: ZoneInfo, shifts: Sequence[time]
) -> list[datetime]:
    """Return when the periods begin that overlap a span of time, ascending and in UTC.

    A local hour that occurs twice counts as two periods. A shift or day that begins at a local time that occurs twice
    begins at the first one; if the time is skipped, it begins as long after midnight as without the change.

    Args:
        period: Kind of the periods.
        since: Start of the span.
        until: End of the span, exclusive; it must be later than `since`.
        zone: The time zone.
        shifts: Local times at which shifts begin.
    """
    starts = _hours(since, until, zone) if period == "hour" else _days(since, until, zone, shifts, period)
    first = max(index for index, start in enumerate(starts) if start <= since)
    return [start for start in starts[first:] if start < until]


def period_around(
    period: Period, moment: datetime, zone: ZoneInfo, shifts: Sequence[time]
) -> tuple[datetime, datetime]:
    """Return when the period begins and ends that contains a moment, in UTC.

    Args:
        period: Kind of the period.
        moment: The moment.
        zone: The time zone.
        shifts: Local times at which shifts begin.
    """
    start, end, *_ = period_starts(period, moment, moment + 3 * _DAY, zone, shifts)
    return start, end


def named_period(
    name: PeriodName, now: datetime, zone: ZoneInfo, shifts: Sequence[time]
) -> tuple[datetime, datetime | None]:
    """Return when a period begins and ends, in UTC; the end is None for a period that is not over.

    Args:
        name: `shift` and `today` contain the present time. `week` has seven days, the last of which is today.
        now: The present time.
        zone: The time zone.
        shifts: Local times at which shifts begin.
    """
    if name in {"shift", "previous-shift"}:
        start, _ = period_around("shift", now, zone, shifts)
        return (start, None) if name == "shift" else period_around("shift", start - _MOMENT, zone, shifts)
    days = 0 if name == "today" else 6
    return _instant(now.astimezone(zone).date() - days * _DAY, time(0), zone), None


def _days(since: datetime, until: datetime, zone: ZoneInfo, shifts: Sequence[time], period: Period) -> list[datetime]:
    times = shifts if period == "shift" else (time(0),)
    day, last = since.astimezone(zone).date() - _DAY, until.astimezone(zone).date()
    starts: set[datetime] = set()
    while day <= last:
        starts |= {_instant(day, moment, zone) for moment in times}
        day += _DAY
    return sorted(starts)


def _instant(day: date, moment: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, moment, zone).astimezone(UTC)


def _hours(since: datetime, until: datetime, zone: ZoneInfo) -> list[datetime]:
    """Return the instants at which the local hour or the offset changes, from at least an hour before `since`."""
    moment = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    starts: list[datetime] = []
    before: tuple[date, int, timedelta | None] | None = None
    while moment < until:
        local = moment.astimezone(zone)
        current = (local.date(), local.hour, local.utcoffset())
        if before is not None and current != before:
            starts.append(moment)
        before = current
        moment += _QUARTER
    return starts
