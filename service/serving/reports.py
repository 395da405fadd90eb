"""Shift reports: what happened to a product in a period, computed from the store in short steps and bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from service.bundle.arrays import UInt8Image
from service.errors import InvalidRequest
from service.monitoring.clock import Clock
from service.reviews.sampling import SamplePlan
from service.schemas.drift import DriftAlarm
from service.schemas.recipe import RecipeDifference
from service.schemas.records import SummaryGroup
from service.schemas.report import (
    ProcessingTime,
    ReportChange,
    ReportReviews,
    ScoreDistribution,
    ShiftReport,
)
from service.schemas.sections import InvalidReason
from service.serving.admission import Disconnected
from service.serving.defect_map import DefectMapper
from service.serving.drift.alarms import to_alarm
from service.serving.record_jobs import RecordJobs
from service.serving.review_agreement import agreement_about
from service.serving.review_evaluation import PeriodRequest, rates_of, sample_period
from service.serving.review_statistics import to_estimate, to_pair
from service.serving.summaries import (
    PIECE,
    SummaryOptions,
    complete_period,
    period_of,
    pieces_of,
    summary_steps,
    to_counts,
    to_groups,
)
from service.store.artefacts.files import ArtefactFiles
from service.store.audit import AuditAction, AuditFilter, AuditRecord, list_audit
from service.store.drift.alarms import list_alarms_between
from service.store.inspection_filter import InspectionFilter
from service.store.record_removal.state import records_removed_until
from service.store.report_queries import (
    SCORE_BINS,
    SCORE_BINS_PER_UNIT,
    count_reasons,
    count_scores,
    count_times,
)
from service.store.store import Store

DEFAULT_SPAN = timedelta(hours=24)
MAX_DISTRIBUTIONS = 4
"""Most score distributions in a report, one per bundle and thresholds."""
MAX_CHANGES = 200
"""Most changes in a report, the newest ones."""
MAX_ALARMS = 200
"""Most drift alarms in a report, the newest ones."""
_HOURS_UP_TO = timedelta(days=3)
_SHORTEST_PIECE = timedelta(hours=1)
_PIECES = 100
_CHANGES: tuple[AuditAction, ...] = (
    "recipe:put", "recipe:import", "recipe:revert", "recipe:derive", "proposal:apply",
    "bundle:activate", "bundle:roll-back", "bundle:keep", "shadow:start", "shadow:stop",
)  # fmt: skip


@dataclass(frozen=True)
class ReportRequest:
    """What a report is about.

    Attributes:
        which: Product, stations and period. The product is required.
        zone: Time zone of the times in the report, and of its hours and days.
    """

    which: InspectionFilter
    zone: ZoneInfo

    @property
    def product(self) -> str:
        """The product."""
        assert self.which.product is not None
        return self.which.product


@dataclass(frozen=True)
class IllustratedReport:
    """A report and the image of a good part, on which the HTML page shows where defects accumulate.

    Attributes:
        content: The report.
        part: uint8 [h, w, 3], RGB; None if no such image is stored.
    """

    content: ShiftReport
    part: UInt8Image | None


class ReportService:
    """Makes shift reports for clients.

    Args:
        store: The inspections, reviews and changes.
        jobs: Limits the summaries, exports and reports at the same time.
        clock: The time of day.
    """

    def __init__(self, store: Store, jobs: RecordJobs, clock: Clock) -> None:
        self._store = store
        self._jobs = jobs
        self._clock = clock

    async def make(self, request: ReportRequest, client: str, disconnected: Disconnected) -> IllustratedReport:
        """Make a report.

        Args:
            request: What it is about. Without an end, the period ends now; without a start, it has `DEFAULT_SPAN`.
            client: Identity of the client.
            disconnected: Ends the work when the client closes its connection.

        Raises:
            InvalidRequest: The period is empty or too long, or the client disconnected.
            RecordsBusy: The client has another job, or too many clients have.
            StoreUnavailable: The database cannot be read.
        """
        steps = report_steps(self._store.engine, self._store.files, request, self._clock.now())
        async with self._jobs.reserve(client, disconnected) as job:
            while (report := await job.run(lambda: next(steps))) is None:
                pass
        return report


def report_steps(
    engine: Engine, files: ArtefactFiles, request: ReportRequest, now: datetime
) -> Iterator[IllustratedReport | None]:
    """Make a report in short steps.

    Args:
        engine: The database.
        files: The stored images.
        request: What the report is about.
        now: The present time.

    Returns:
        An iterator over the steps: None for each, and at the end the report.

    Raises:
        InvalidRequest: The period is empty or too long; at once.
        StoreUnavailable: The database cannot be read; in a step.
    """
    which = complete_period(request.which, now, DEFAULT_SPAN)
    since, until = period_of(which)
    by: Literal["hour", "day"] = "hour" if until - since <= _HOURS_UP_TO else "day"
    periods = _group_steps(engine, which, SummaryOptions(by, request.zone, ()))
    return _steps(engine, files, replace(request, which=which), now, by, periods)


def _steps(
    engine: Engine,
    files: ArtefactFiles,
    request: ReportRequest,
    now: datetime,
    by: Literal["hour", "day"],
    period_steps: Iterator[list[SummaryGroup] | None],
) -> Iterator[IllustratedReport | None]:
    which, zone = request.which, request.zone
    since, until = period_of(which)
    periods: list[SummaryGroup] = []
    for found in period_steps:
        periods = found or periods
        yield None
    stations: list[SummaryGroup] | None = None
    try:
        for found in _group_steps(engine, which, SummaryOptions("station", zone, ())):
            stations = found
            yield None
    except InvalidRequest:  # too many stations
        stations = None
    reasons: Counter[InvalidReason] = Counter()
    scores, times = _Scores(), _Times()
    # Many inspections may be made in a short period, and a long period would have too many short pieces.
    for piece in pieces_of(engine, which, min(PIECE, max(_SHORTEST_PIECE, (until - since) / _PIECES))):
        reasons += count_reasons(engine, piece)
        yield None
        scores.add(engine, piece)
        yield None
        times.add(engine, piece)
        yield None
    mapper = DefectMapper(engine, files, which)
    yield from mapper.steps()
    reviews = _reviews(engine, request)
    yield None
    changes, are_changes_cut = _changes(engine, which, zone)
    yield None
    alarms, are_alarms_cut = _alarms(engine, request)
    yield None
    # Afterwards: records may be removed while they are counted.
    removed_until = records_removed_until(engine, [request.product], since)
    total: Counter[str] = Counter()
    for group in periods:
        total.update(group.counts)
    content = ShiftReport(
        product=request.product,
        station=which.station,
        time_zone=zone.key,
        since=since.astimezone(zone),
        until=until.astimezone(zone),
        created_at=now.astimezone(zone),
        total=to_counts(total),
        refused=None,
        invalid_reasons=dict(reasons.most_common()),
        by=by,
        periods=periods,
        stations=stations,
        defect_map=None if mapper.found is None else mapper.found.defects,
        scores=scores.distributions,
        other_scores=scores.others,
        reviews=reviews,
        changes=changes,
        are_changes_cut=are_changes_cut,
        drift=alarms,
        are_alarms_cut=are_alarms_cut,
        processing_time=times.result,
        records_removed_until=None if removed_until is None else removed_until.astimezone(zone),
    )
    yield IllustratedReport(content, None if mapper.found is None else mapper.found.part)


def _group_steps(
    engine: Engine, which: InspectionFilter, options: SummaryOptions
) -> Iterator[list[SummaryGroup] | None]:
    return (None if summary is None else to_groups(summary) for summary in summary_steps(engine, which, options))


class _Scores:
    """Histograms of scores by bundle version, fail and review threshold."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, float, float], Counter[int | None]] = {}

    def add(self, engine: Engine, piece: InspectionFilter) -> None:
        """Count the scores of a short period."""
        for count in count_scores(engine, piece):
            key = count.bundle_version, count.fail_threshold, count.review_threshold
            self._counts.setdefault(key, Counter())[count.bin] += count.number

    @property
    def distributions(self) -> list[ScoreDistribution]:
        """The distributions with the most inspections."""
        return [
            ScoreDistribution(
                bundle_version=version,
                fail_threshold=fail,
                review_threshold=review,
                inspections=counts.total(),
                bin_width=max(0.0, fail / SCORE_BINS_PER_UNIT),
                counts=[counts[number] for number in range(SCORE_BINS)] if fail > 0 else [],
            )
            for (version, fail, review), counts in self._ranked[:MAX_DISTRIBUTIONS]
        ]

    @property
    def others(self) -> int:
        """Number of inspections in the other distributions."""
        return sum(counts.total() for _, counts in self._ranked[MAX_DISTRIBUTIONS:])

    @property
    def _ranked(self) -> list[tuple[tuple[str, float, float], Counter[int | None]]]:
        return sorted(self._counts.items(), key=lambda item: (-item[1].total(), item[0]))


class _Times:
    """Processing times, counted in tenths of a millisecond."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, engine: Engine, piece: InspectionFilter) -> None:
        """Count the processing times of a short period."""
        self._counts += count_times(engine, piece)

    @property
    def result(self) -> ProcessingTime | None:
        """Minimum, mean, 95th percentile and maximum; None without an inspection."""
        total = self._counts.total()
        if not total:
            return None
        rank, seen, p95 = -(-total * 95 // 100), 0, 0
        for tenths in sorted(self._counts):
            seen, p95 = seen + self._counts[tenths], tenths
            if seen >= rank:
                break
        return ProcessingTime(
            inspections=total,
            min_ms=min(self._counts) / 10,
            mean_ms=sum(tenths * number for tenths, number in self._counts.items()) / total / 10,
            p95_ms=p95 / 10,
            max_ms=max(self._counts) / 10,
        )


def _reviews(engine: Engine, request: ReportRequest) -> ReportReviews:
    since, until = period_of(request.which)
    sampled = PeriodRequest(request.product, since, until, SamplePlan(), request.which.values["station"])
    period = sample_period(engine, sampled, since)
    labels, drawn = period.labels, [image.id for stratum in period.strata for image in stratum.drawn]
    rates = rates_of(engine, period).rates
    agreement = agreement_about(engine, list(labels), is_cut=period.is_cut)
    return ReportReviews(
        inspections=len(period.images),
        is_cut=period.is_cut,
        sampled=len(drawn),
        reviewed=sum(labels.get(name) in {"good", "defect"} for name in drawn),
        unreviewed=rates.unreviewed,
        false_reject=to_estimate(rates.false_reject),
        false_alarm=to_estimate(rates.false_alarm),
        miss=to_estimate(rates.miss),
        common=agreement.common,
        pairs=[to_pair(pair) for pair in agreement.pairs],
        alpha=agreement.alpha,
    )


def _changes(engine: Engine, which: InspectionFilter, zone: ZoneInfo) -> tuple[list[ReportChange], bool]:
    """Return the changes of the period, oldest first, and whether there are more."""
    wanted = AuditFilter(product=which.product, since=which.since, until=which.until, actions=_CHANGES)
    found = list_audit(engine, wanted, limit=MAX_CHANGES + 1)
    changes = [
        ReportChange(
            created_at=entry.created_at.astimezone(zone),
            actor=entry.actor,
            action=entry.action,
            object=entry.object,
            reason=entry.note,
            differences=_differences(entry),
        )
        for entry in reversed(found[:MAX_CHANGES])
    ]
    return changes, len(found) > MAX_CHANGES


def _alarms(engine: Engine, request: ReportRequest) -> tuple[list[DriftAlarm], bool]:
    """Return the drift alarms of the period, oldest first, and whether there are more."""
    which = request.which
    stations = which.values["station"]
    if stations is not None and which.permitted_stations is None:
        stations = (*stations, "")  # An alarm of the product as a whole concerns each of its stations.
    since, until = period_of(which)
    found = list_alarms_between(engine, request.product, since, until, stations, MAX_ALARMS + 1)
    alarms = [to_alarm(record, request.zone) for record in reversed(found[:MAX_ALARMS])]
    return alarms, len(found) > MAX_ALARMS


def _differences(entry: AuditRecord) -> list[RecipeDifference]:
    before, after = _changed_values(entry.before), _changed_values(entry.after)
    return [
        RecipeDifference(path=path, before=before.get(path), after=after.get(path))
        for path in sorted(before.keys() | after.keys())
    ]


def _changed_values(facts: Any) -> dict[str, Any]:
    """Return the values of one side of an entry by their path: those of a recipe, or the version of a bundle."""
    if not isinstance(facts, dict):
        return {}
    recipe = facts.get("recipe")
    if isinstance(recipe, dict):
        return recipe
    digest = facts.get("bundle_digest")
    return {f"bundle.{facts.get('role')}": None if digest is None else str(digest)[:12]}
