"""Summaries of stored inspections: counts and yields per period, station, lot or product."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from service.errors import InvalidRequest
from service.monitoring.clock import Clock
from service.schemas.records import DecisionCounts, SummaryGroup
from service.schemas.sections import DecisionName
from service.schemas.violations import describe_violations, violation
from service.serving.admission import Disconnected
from service.serving.periods import period_starts
from service.serving.record_jobs import RecordJobs
from service.store.inspection_filter import InspectionFilter
from service.store.record_removal.state import records_removed_until
from service.store.store import Store
from service.store.summary import CountKey, count_inspections, first_inspection_at

GroupBy = Literal["hour", "shift", "day", "station", "lot", "product"]
DEFAULT_SPAN = timedelta(days=7)
MAX_SPAN = timedelta(days=400)
MAX_GROUPS = 1000
# The database is read in pieces of this length: a long statement would keep SQLite's write-ahead log from shrinking,
# and could not be ended when the client disconnects.
PIECE = timedelta(days=1)


@dataclass(frozen=True)
class SummaryOptions:
    """How inspections are grouped.

    Attributes:
        by: What the groups are.
        zone: Time zone of hours, shifts and days.
        shifts: Local times at which shifts begin.
    """

    by: GroupBy
    zone: ZoneInfo
    shifts: Sequence[time]


@dataclass(frozen=True)
class Group:
    """One group of a summary.

    Attributes:
        name: Station, lot or product; None for inspections without it, and for periods.
        start: Start of a period, in the time zone of the summary; None for a name.
        end: End of a period, exclusive.
        counts: Number of inspections by decision.
    """

    name: str | None
    start: datetime | None
    end: datetime | None
    counts: Counter[str]


@dataclass(frozen=True)
class Summary:
    """Counts of the inspections of a period.

    Attributes:
        since: Start of the period.
        until: End of the period, exclusive.
        groups: Periods in the order of time, including those without inspections; names in the order of the alphabet.
        records_removed_until: Time of the newest record that was removed, if it is in the period or later.
    """

    since: datetime
    until: datetime
    groups: Sequence[Group]
    records_removed_until: datetime | None


class SummaryService:
    """Counts stored inspections.

    Args:
        store: The inspections.
        jobs: Limits the summaries and exports at the same time.
        clock: The time of day.
    """

    def __init__(self, store: Store, jobs: RecordJobs, clock: Clock) -> None:
        self._engine = store.engine
        self._jobs = jobs
        self._clock = clock

    async def summarise(
        self, which: InspectionFilter, options: SummaryOptions, client: str, disconnected: Disconnected
    ) -> Summary:
        """Count inspections by group and decision.

        Args:
            which: The conditions. Without an end, the period ends now; without a start, it has `DEFAULT_SPAN`.
            options: How inspections are grouped.
            client: Identity of the client.
            disconnected: Ends the work when the client closes its connection.

        Raises:
            InvalidRequest: The period is empty, too long or has too many groups, or the client disconnected.
            RecordsBusy: The client has another job, or too many clients have.
            StoreUnavailable: The database cannot be read.
        """
        steps = summary_steps(self._engine, complete_period(which, self._clock.now(), DEFAULT_SPAN), options)
        async with self._jobs.reserve(client, disconnected) as job:
            while (summary := await job.run(lambda: next(steps))) is None:
                pass
        return summary


def complete_period(which: InspectionFilter, now: datetime, default: timedelta) -> InspectionFilter:
    """Return the conditions with a start and an end, both in UTC.

    Args:
        which: The conditions.
        now: The end of a period without an end.
        default: Length of a period without a start.

    Raises:
        InvalidRequest: The period is empty or too long.
    """
    until = (which.until or now).astimezone(UTC)
    try:
        since = (which.since or until - default).astimezone(UTC)
    except OverflowError as error:
        raise _invalid(("until",), "period_too_early") from error
    if since >= until:
        raise _invalid((), "period_empty", since=since.isoformat(), until=until.isoformat())
    if until - since > MAX_SPAN:
        raise _invalid((), "period_too_long", days=MAX_SPAN.days)
    return replace(which, since=since, until=until)


def period_of(which: InspectionFilter) -> tuple[datetime, datetime]:
    """Return start and end of conditions that `complete_period` returned."""
    assert which.since is not None
    assert which.until is not None
    return which.since, which.until


def pieces_of(engine: Engine, which: InspectionFilter, length: timedelta = PIECE) -> Iterator[InspectionFilter]:
    """Divide conditions that `complete_period` returned into short periods, each of which is read in one step.

    With one product, periods in which none of its inspections was made are left out. Before each of the others, one
    entry of an index is read.

    Args:
        engine: The database.
        which: The conditions.
        length: Length of a period.

    Raises:
        StoreUnavailable: The database cannot be read; in a step.
    """
    if which.is_impossible:
        return
    at, until = period_of(which)
    while at < until:
        if which.product is not None:
            first = first_inspection_at(engine, replace(which, since=at))
            if first is None:
                return
            at += (first - at) // length * length
        end = at + length if until - at > length else until
        yield replace(which, since=at, until=end)
        at = end


def summary_steps(engine: Engine, which: InspectionFilter, options: SummaryOptions) -> Iterator[Summary | None]:
    """Count inspections by group and decision, in short steps.

    Args:
        engine: The database.
        which: The conditions, as `complete_period` returns them.
        options: How inspections are grouped.

    Returns:
        An iterator over the steps: None for each, and at the end the summary.

    Raises:
        InvalidRequest: There are too many periods, or no local times, at once; or, in a step, too many names.
        StoreUnavailable: The database cannot be read; in a step.
    """
    try:
        for edge in period_of(which):
            edge.astimezone(options.zone)
    except OverflowError as error:
        raise _invalid((), "period_without_local_time") from error
    return _steps(engine, which, options, _starts(options, *period_of(which)))


def _steps(
    engine: Engine, which: InspectionFilter, options: SummaryOptions, starts: Sequence[datetime]
) -> Iterator[Summary | None]:
    since, until = period_of(which)
    key = _key(options.by, starts)
    counts: dict[datetime | str | None, Counter[str]] = {start: Counter() for start in starts}
    for piece in pieces_of(engine, which):
        for count in count_inspections(engine, piece, key):
            group = starts[bisect_right(starts, count.key) - 1] if isinstance(count.key, datetime) else count.key
            counts.setdefault(group, Counter())[count.decision] += count.number
        if len(counts) > MAX_GROUPS:
            raise _too_many(options.by)
        yield None
    if starts:
        ends = [*starts[1:], until]
        edges = [(max(start, since), min(end, until)) for start, end in zip(starts, ends, strict=True)]
        groups = [
            Group(None, edge[0].astimezone(options.zone), edge[1].astimezone(options.zone), counts[start])
            for start, edge in zip(starts, edges, strict=True)
        ]
    else:
        groups = [
            Group(None if name is None else str(name), None, None, counts[name])
            for name in sorted(counts, key=lambda name: (name is None, str(name)))
        ]
    # Afterwards: records may be removed while they are counted.
    removed_until = records_removed_until(engine, which.values["product"], since)
    edges_in_zone = since.astimezone(options.zone), until.astimezone(options.zone)
    yield Summary(*edges_in_zone, groups, None if removed_until is None else removed_until.astimezone(options.zone))


def to_counts(found: Counter[str]) -> DecisionCounts:
    """Return the number of inspections by decision with their yields.

    Args:
        found: Number of inspections by decision.
    """
    counts: dict[DecisionName, int] = {name: found[name] for name in get_args(DecisionName)}
    good, total = counts["pass"], sum(counts.values())
    return DecisionCounts(
        total=total,
        counts=counts,
        yield_of_judged=_share(good, total - counts["invalid"]),
        yield_of_decided=_share(good, good + counts["fail"]),
        yield_of_all=_share(good, total),
    )


def to_groups(summary: Summary) -> list[SummaryGroup]:
    """Return the groups of a summary as responses contain them."""
    return [
        SummaryGroup(name=group.name, start=group.start, end=group.end, **to_counts(group.counts).model_dump())
        for group in summary.groups
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _key(by: GroupBy, starts: Sequence[datetime]) -> CountKey:
    """Return what the database counts separately: the largest unit of time that periods consist of, or the name."""
    if by == "station" or by == "lot" or by == "product":
        return by
    return "minute" if any(start.minute for start in starts) else "hour"


def _starts(options: SummaryOptions, since: datetime, until: datetime) -> list[datetime]:
    """Return the starts of the periods; none if inspections are grouped by a name.

    Raises:
        InvalidRequest: There are too many, or their time cannot be expressed in the time zone.
    """
    by = options.by
    if by == "station" or by == "lot" or by == "product":
        return []
    per_day = {"hour": 24, "shift": len(options.shifts), "day": 1}[by]
    if (until - since) / timedelta(days=1) * per_day > MAX_GROUPS:
        raise _too_many(by)
    try:
        return period_starts(by, since, until, options.zone, options.shifts)
    except (OverflowError, ValueError) as error:  # within days of the smallest or largest datetime
        raise _invalid((), "period_not_divisible") from error


def _invalid(loc: tuple[str, ...], rule: str, **params: str | float) -> InvalidRequest:
    found = violation(loc, rule, **params)
    return InvalidRequest(f"{describe_violations([found])}.", [found])


def _too_many(by: GroupBy) -> InvalidRequest:
    return InvalidRequest(
        f"by={by} results in more than {MAX_GROUPS} groups. Give a shorter period with `since` and `until`, further "
        "filters or larger groups."
    )
