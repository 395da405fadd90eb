"""The shift report as a CSV file: one figure per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from service.schemas.records import SummaryGroup
from service.schemas.report import ReportReviews, ShiftReport
from service.schemas.review import RateEstimate
from service.serving.export_formats import ColumnKind, CsvEncoder
from service.store.audit import canonical_json

COLUMNS: Mapping[str, ColumnKind] = {
    "section": "text",
    "item": "text",
    "start": "time",
    "end": "time",
    "measure": "text",
    "value": "text",
    "low": "number",
    "high": "number",
}
"""Names and kinds of the columns. The names are part of the public interface."""
_YIELDS = {"yield_of_judged", "yield_of_decided", "yield_of_all"}


def render_csv(report: ShiftReport) -> bytes:
    """Return a report as CSV, as the export of inspections writes it: formulas are neutralised."""
    return CsvEncoder(COLUMNS).encode([dict.fromkeys(COLUMNS) | row for row in _rows(report)])


def _rows(report: ShiftReport) -> Iterator[dict[str, Any]]:
    facts: dict[str, Any] = {
        "product": report.product,
        "station": report.station,
        "time_zone": report.time_zone,
        "created_at": report.created_at,
        "records_removed_until": report.records_removed_until,
    }
    yield from _section("report", facts, start=report.since, end=report.until)
    whole = SummaryGroup(name=None, start=report.since, end=report.until, **report.total.model_dump())
    yield from _groups("total", [whole])
    yield from _section("total", {"refused": report.refused}, start=report.since, end=report.until)
    yield from _section("invalid_reasons", report.invalid_reasons)
    yield from _groups(report.by, report.periods)
    yield from _groups("station", report.stations or [])
    if report.defect_map is not None:
        yield from _section("defect_map", report.defect_map.model_dump(exclude={"counts", "spots"}))
        for number, spot in enumerate(report.defect_map.spots, 1):
            yield from _section("defect_spots", spot.model_dump(), item=str(number))
    for scores in report.scores:
        facts = scores.model_dump(exclude={"bundle_version", "counts"})
        yield from _section("scores", facts, item=scores.bundle_version)
        for number, count in enumerate(scores.counts):
            low = number * scores.bin_width
            high = None if number == len(scores.counts) - 1 else low + scores.bin_width
            yield _row("scores", scores.bundle_version, "inspections_in_bin", count, low=low, high=high)
    yield from _reviews(report.reviews)
    for change in report.changes:
        for measure, value in (("actor", change.actor), ("object", change.object), ("reason", change.reason)):
            yield _row("changes", change.action, measure, value, start=change.created_at)
        for item in change.differences:
            value = f"{canonical_json(item.before)} -> {canonical_json(item.after)}"
            yield _row("changes", change.action, item.path, value, start=change.created_at)
    for alarm in report.drift:
        item_name = alarm.kind if alarm.station is None else f"{alarm.kind} {alarm.station}"
        facts = {
            "state": alarm.state,
            "direction": alarm.direction,
            "onset": alarm.onset,
            "evidence": alarm.evidence,
            "suspends_guarantee": alarm.suspends,
            "recipe_revision": alarm.recipe_revision,
            "acknowledged_by": alarm.acknowledged_by,
            "reason": alarm.reason,
        }
        yield from _section("drift", facts, item=item_name, start=alarm.since, end=alarm.closed_at)
    if report.processing_time is not None:
        yield from _section("processing_time", report.processing_time.model_dump())


def _reviews(reviews: ReportReviews) -> Iterator[dict[str, Any]]:
    rates = {"false_reject", "false_alarm", "miss"}
    yield from _section("reviews", reviews.model_dump(exclude=rates | {"pairs"}))
    for name in sorted(rates):
        estimate: RateEstimate = getattr(reviews, name)
        yield _row("reviews", name, "rate", estimate.rate, low=estimate.low, high=estimate.high)
        yield from _section("reviews", {"count": estimate.count, "of": estimate.of}, item=name)
    for pair in reviews.pairs:
        item = f"{pair.first}, {pair.second}"
        yield _row("agreement", item, "kappa", pair.kappa, low=pair.kappa_low, high=pair.kappa_high)
        yield from _section("agreement", {"inspections": pair.inspections, "agreement": pair.agreement}, item=item)


def _groups(section: str, groups: Iterable[SummaryGroup]) -> Iterator[dict[str, Any]]:
    for group in groups:
        facts: dict[str, Any] = {
            "inspected": group.total,
            **group.model_dump(include={"counts"})["counts"],
            **group.model_dump(include=_YIELDS),
        }
        yield from _section(section, facts, item=group.name, start=group.start, end=group.end)


def _section(
    section: str,
    facts: Mapping[Any, Any],
    *,
    item: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Iterator[dict[str, Any]]:
    for measure, value in facts.items():
        yield _row(section, item, str(measure), value, start=start, end=end)


def _row(section: str, item: str | None, measure: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"section": section, "item": item, "measure": measure, "value": value, **more}
