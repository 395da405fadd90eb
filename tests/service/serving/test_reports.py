"""Shift reports, computed from a store on SQLite and PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sqlalchemy import insert

from service.errors import InvalidRequest
from service.schemas.report import ShiftReport
from service.serving import defect_map, reports, summaries
from service.serving.defect_map import GRID_SIDE, find_spots, grid_of
from service.serving.reports import IllustratedReport, ReportRequest, report_steps
from service.store.audit import Actor, AuditEntry, record_change
from service.store.inspection_filter import InspectionFilter
from service.store.models import InspectionRow
from service.store.records import InspectionRecord
from service.store.reviews import ReviewDraft, add_review
from service.store.session import transaction
from service.store.store import Store
from tests.running_service import GOOD
from tests.service.store.test_query_inspections import id_at
from tests.service.store.test_store import make_row

START = datetime(2026, 3, 2, 5, tzinfo=UTC)
END = START + timedelta(hours=8)
ADA, BOB = Actor("account", "1", "Ada"), Actor("account", "2", "Bob")
SQUARE = {"bbox": [8, 8, 16, 16], "polygon": [[8, 8], [24, 8], [24, 24], [8, 24]], "area_px": 256, "peak": 1.0,
          "peak_xy": [16, 16]}  # fmt: skip


def make_records() -> list[InspectionRecord]:
    """Return a pass every minute of the shift, and every tenth inspection with another decision."""
    records = []
    for number in range(480):
        moment = START + timedelta(minutes=number)
        decision = {0: "fail", 10: "review", 20: "invalid"}.get(number % 40, "pass")
        objections = (
            [{"reason": "blurred"}, {"reason": "under-exposed"}] if number % 80 == 20 else [{"reason": "blurred"}]
        )
        score = {"fail": 0.3, "review": 0.15, "invalid": None}.get(decision, 0.05)
        records.append(
            make_row(
                id=str(id_at(moment, number)),
                created_at=moment,
                decision=decision,
                score=score,
                p_value=None if score is None else 0.5,
                regions=[SQUARE] if decision in {"fail", "review"} else [],
                objections=objections if decision == "invalid" else None,
                station=["A", "B", None][number % 3],
                timings_ms={"decode": 1.0, "infer": float(number % 100)},
            )
        )
    return records


RECORDS = make_records()


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def filled(store: Store) -> Store:
    fill(store, RECORDS)
    return store


def fill(store: Store, records: list[InspectionRecord]) -> None:
    with transaction(store.engine, "records cannot be stored") as connection:
        connection.execute(insert(InspectionRow), [record.columns() for record in records])


def illustrated(store: Store, zone: str = "UTC", **conditions: Any) -> IllustratedReport:
    which = replace(InspectionFilter(product="widget", since=START, until=END), **conditions)
    steps = report_steps(store.engine, store.files, ReportRequest(which, ZoneInfo(zone)), END)
    return next(step for step in steps if step is not None)


def report(store: Store, zone: str = "UTC", **conditions: Any) -> ShiftReport:
    return illustrated(store, zone, **conditions).content


def test_counts_are_those_of_a_plain_loop(filled: Store) -> None:
    found = report(filled)
    counts = Counter(record.decision for record in RECORDS)
    assert found.total.counts == dict(counts)
    assert found.total.total == len(RECORDS)
    assert found.total.yield_of_all == counts["pass"] / len(RECORDS)
    assert found.refused is None
    assert found.invalid_reasons == {"blurred": counts["invalid"], "under-exposed": counts["invalid"] // 2}
    assert [(group.name, group.total) for group in found.stations or []] == [("A", 160), ("B", 160), (None, 160)]
    assert found.by == "hour"
    assert [group.total for group in found.periods] == [60] * 8
    assert (found.since, found.until, found.created_at) == (START, END, END)


def test_times_are_in_the_time_zone_and_the_period_is_exact(filled: Store) -> None:
    since = START + timedelta(minutes=7, seconds=13)
    found = report(filled, "Asia/Kathmandu", since=since)
    assert found.since.isoformat() == "2026-03-02T10:52:13+05:45"
    assert [group.start.isoformat()[11:16] for group in found.periods if group.start][:3] == ["10:52", "11:00", "12:00"]
    assert found.total.total == sum(record.created_at >= since for record in RECORDS)
    assert found.time_zone == "Asia/Kathmandu"


def test_a_long_period_is_divided_into_days(filled: Store) -> None:
    found = report(filled, since=END - timedelta(days=30))
    assert found.by == "day"
    assert len(found.periods) == 31
    assert found.total.total == len(RECORDS)


def test_a_report_of_one_station_has_nothing_of_others(filled: Store) -> None:
    for which in ({"station": "A"}, {"permitted_stations": ("A",)}):
        found = report(filled, **which)
        expected = Counter(record.decision for record in RECORDS if record.station == "A")
        assert found.total.counts == {"pass": 0, "review": 0, "fail": 0, "invalid": 0} | dict(expected)
        assert [group.name for group in found.stations or []] == ["A"]
        assert found.reviews.inspections == expected.total() - expected["invalid"]
        assert found.processing_time is not None
        assert found.processing_time.inspections == found.reviews.inspections
    nothing = report(filled, station="B", permitted_stations=("A",))
    assert nothing.total.total == nothing.reviews.inspections == 0


def test_scores_are_divided_by_bundle_and_thresholds(filled: Store) -> None:
    fill(
        filled,
        [
            make_row(created_at=START, id=str(id_at(START, 1000)), decision="pass", score=0.01,
                     bundle_version="e" * 12),
            make_row(created_at=START, id=str(id_at(START, 1001)), decision="fail", score=99.0, fail_threshold=0.4),
            make_row(created_at=START, id=str(id_at(START, 1002)), decision="fail", score=0.0, fail_threshold=0.0,
                     review_threshold=-1.0),
        ],
    )  # fmt: skip
    found = report(filled)
    judged = [record for record in RECORDS if record.score is not None]
    first = found.scores[0]
    assert (first.bundle_version, first.fail_threshold, first.review_threshold) == ("d" * 12, 0.2, 0.1)
    assert first.inspections == sum(first.counts) == len(judged)
    assert first.bin_width == pytest.approx(0.008)
    for score, decision in ((0.3, "fail"), (0.15, "review"), (0.05, "pass")):
        assert first.counts[int(score / first.bin_width)] == sum(record.decision == decision for record in judged)
    others = {(one.bundle_version[0], one.fail_threshold): one for one in found.scores[1:]}
    assert others["e", 0.2].counts[1] == 1
    assert others["d", 0.4].counts[-1] == 1, "the last bin has all greater scores"
    assert others["d", 0.0].counts == []
    assert found.other_scores == 0


def test_distributions_beyond_the_limit_are_counted(filled: Store) -> None:
    more = [
        make_row(created_at=START, id=str(id_at(START, 1000 + number)), score=0.01, fail_threshold=1.0 + number)
        for number in range(5)
    ]
    fill(filled, more)
    found = report(filled)
    assert len(found.scores) == reports.MAX_DISTRIBUTIONS
    assert found.other_scores == 2


def test_processing_time_is_that_of_a_plain_loop(filled: Store) -> None:
    times = sorted(sum(record.timings_ms.values()) for record in RECORDS if record.score is not None)
    found = report(filled).processing_time
    assert found is not None
    assert (found.min_ms, found.max_ms) == (times[0], times[-1])
    assert found.mean_ms == pytest.approx(sum(times) / len(times))
    assert found.p95_ms == times[-(-len(times) * 95 // 100) - 1]


def test_processing_times_are_rounded_to_a_tenth_of_a_millisecond(store: Store) -> None:
    fill(store, [make_row(id=str(id_at(START, 1)), created_at=START, timings_ms={"infer": 12_345.678})])
    found = report(store).processing_time
    assert found is not None
    assert (found.p95_ms, found.max_ms, found.mean_ms) == (12_345.7, 12_345.7, 12_345.7)


def test_defects_accumulate_where_the_regions_are(filled: Store) -> None:
    found = report(filled).defect_map
    assert found is not None
    counts = np.array(found.counts)
    defective = sum(record.decision in {"fail", "review"} for record in RECORDS)
    assert counts.shape == (GRID_SIDE, GRID_SIDE)
    assert found.inspections == counts.max() == defective
    inside = counts[14:34, 14:34]
    assert (inside == defective).all()
    assert counts[40:].max() == counts[:, 40:].max() == 0
    assert [(spot.x, spot.y, spot.inspections) for spot in found.spots] == [(16, 16, defective)]
    assert (found.other_sizes, found.is_cut, found.image_inspection_id) == (0, False, None)


def test_the_map_is_bounded_and_of_one_image_size(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = [
        make_row(id=str(id_at(END - timedelta(minutes=1), 2000 + number)), created_at=END - timedelta(minutes=1),
                 image_width=200, image_height=100, regions=[SQUARE])
        for number in range(3)
    ]  # fmt: skip
    fill(filled, other)
    found = report(filled).defect_map
    assert found is not None
    assert (found.image_width, found.other_sizes) == (64, 3)
    monkeypatch.setattr(defect_map, "MAX_INSPECTIONS", 4)
    monkeypatch.setattr(defect_map, "_PAGE", 2)
    cut = report(filled).defect_map
    assert cut is not None
    assert cut.is_cut
    assert (cut.image_width, cut.image_height, cut.inspections, cut.other_sizes) == (200, 100, 3, 1)
    assert (len(cut.counts), len(cut.counts[0])) == grid_of((200, 100)) == (48, 96)


def test_regions_outside_of_the_image_and_without_area_do_no_harm(store: Store) -> None:
    odd = [[[-5, -5]], [[10**9, 10**9], [0, 0]], [[63, 63], [63, 63], [63, 63]]]
    regions = [SQUARE | {"polygon": polygon} for polygon in odd]
    fill(store, [make_row(id=str(id_at(START, 1)), created_at=START, regions=regions)])
    found = report(store).defect_map
    assert found is not None
    assert found.inspections == np.array(found.counts).max() == 1


def test_spots_are_apart_from_each_other_and_the_most_is_first() -> None:
    counts = np.zeros((48, 96), np.int32)
    counts[10:12, 10:12], counts[12, 12], counts[40, 80], counts[1, 90] = 8, 7, 5, 1
    found = find_spots(counts, (960, 480))
    assert [(spot.x, spot.y, spot.inspections) for spot in found] == [(110, 110, 8), (805, 405, 5)]


def test_a_typical_good_part_is_below_the_map(filled: Store) -> None:
    scores = [0.02, 0.03, 0.09]
    stored = []
    for number, score in enumerate(scores):
        moment = END - timedelta(seconds=10 - number)
        record = make_row(
            id=str(id_at(moment, 3000 + number)), created_at=moment, decision="pass", score=score, regions=[]
        )
        stored.append(record)
    fill(filled, stored)
    middle = stored[1]
    filled.files.write_image(UUID(middle.id), "image/png", GOOD)
    others = [record.id for record in RECORDS if record.decision == "pass"]
    with transaction(filled.engine, "update") as connection:
        table = InspectionRow.__table__
        connection.execute(table.update().where(table.c.id.in_(others)).values(artefacts_removed_at=END))  # type: ignore[attr-defined]
    found = illustrated(filled)
    assert found.content.defect_map is not None
    assert found.content.defect_map.image_inspection_id == middle.id
    assert found.part is not None
    assert found.part.shape == (64, 64, 3)
    add_review(filled.engine, UUID(middle.id), ReviewDraft(ADA, "defect"), END)
    assert illustrated(filled).part is None, "it is no good part, and the others have no image"


def test_reviews_give_rates_and_agreement(filled: Store) -> None:
    failed = [record for record in RECORDS if record.decision == "fail"]
    passed = [record for record in RECORDS if record.decision == "pass"][:20]
    for number, record in enumerate(failed):
        add_review(filled.engine, UUID(record.id), ReviewDraft(ADA, "good" if number < 3 else "defect"), END)
        add_review(filled.engine, UUID(record.id), ReviewDraft(BOB, "good" if number < 3 else "defect"), END)
    for record in passed:
        add_review(filled.engine, UUID(record.id), ReviewDraft(ADA, "good"), END)
    found = report(filled).reviews
    assert found.inspections == sum(record.score is not None for record in RECORDS)
    assert found.common == len(failed)
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.inspections, pair.kappa) == ("Ada", "Bob", len(failed), 1.0)
    assert found.false_reject.count == 3
    assert found.false_reject.rate is not None
    assert 0 < found.false_reject.low < found.false_reject.rate < found.false_reject.high < 1
    assert found.miss.rate == 0
    assert found.miss.high > 0
    assert len(failed) <= found.reviewed <= found.sampled
    of_a = report(filled, station="A").reviews
    assert of_a.common == sum(record.station == "A" for record in failed)
    assert report(filled, until=START + timedelta(minutes=1)).reviews.common == 1


def test_changes_of_recipe_and_bundle_are_listed_without_reviews(filled: Store) -> None:
    facts = {"revision": 1, "bundle_digest": "d" * 64, "recipe": {"fail_threshold": 0.2}}
    looser = facts | {"recipe": {"fail_threshold": 0.3}}
    entries = [
        AuditEntry(ADA, "recipe:put", "widget", "revision 2", facts, looser, "loose"),
        AuditEntry(ADA, "recipe:put", "gadget", "revision 2", None, facts),
        AuditEntry(ADA, "bundle:activate", "widget", "e" * 12, {"role": "active", "bundle_digest": None},
                   {"role": "active", "bundle_digest": "e" * 64}, "new"),
        AuditEntry(ADA, "retention:change", "widget", "revision 2", {"retention": {}}, {"retention": {}}),
    ]  # fmt: skip
    add_review(filled.engine, UUID(RECORDS[0].id), ReviewDraft(ADA, "good"), END)
    for entry in entries:
        record_change(filled.engine, entry)
    now = datetime.now(UTC) + timedelta(minutes=1)
    found = report(filled, since=now - timedelta(hours=1), until=now)
    assert [(change.action, change.actor, change.reason) for change in found.changes] == [
        ("recipe:put", "Ada", "loose"),
        ("bundle:activate", "Ada", "new"),
    ]
    recipe, bundle = (change.differences for change in found.changes)
    assert [(item.path, item.before, item.after) for item in recipe] == [("fail_threshold", 0.2, 0.3)]
    assert [(item.path, item.before, item.after) for item in bundle] == [("bundle.active", None, "e" * 12)]
    assert not found.are_changes_cut
    assert report(filled).changes == [], "they are not in the period"


def test_more_changes_than_the_limit_are_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_CHANGES", 2)
    for number in range(3):
        record_change(store.engine, AuditEntry(ADA, "recipe:put", "widget", f"revision {number}"))
    now = datetime.now(UTC) + timedelta(minutes=1)
    found = report(store, since=now - timedelta(hours=1), until=now)
    assert found.are_changes_cut
    assert [change.object for change in found.changes] == ["revision 1", "revision 2"]


def test_an_empty_period_is_a_report(store: Store) -> None:
    found = report(store)
    assert found.total.total == 0
    assert found.total.yield_of_all is None
    assert len(found.periods) == 8
    assert (found.stations, found.scores, found.changes, found.drift) == ([], [], [], [])
    assert found.defect_map is None
    assert found.processing_time is None
    assert found.reviews.false_reject.rate is None


def test_too_many_stations_are_left_out(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(
        filled,
        [
            make_row(id=str(id_at(START, 4000 + number)), created_at=START, station=f"s{number}", decision="pass")
            for number in range(20)
        ],
    )
    monkeypatch.setattr(summaries, "MAX_GROUPS", 20)
    found = report(filled)
    assert found.stations is None
    assert found.total.total == len(RECORDS) + 20


@pytest.mark.parametrize(
    ("since", "message"),
    [(END, "is empty"), (END - timedelta(days=401), "more than 400 days")],
)
def test_a_period_that_is_empty_or_too_long_is_refused_at_once(store: Store, since: datetime, message: str) -> None:
    which = InspectionFilter(product="widget", since=since, until=END)
    with pytest.raises(InvalidRequest, match=message):
        report_steps(store.engine, store.files, ReportRequest(which, ZoneInfo("UTC")), END)


def test_without_a_start_the_report_has_24_hours(store: Store) -> None:
    found = report(store, since=None, until=None)
    assert found.until - found.since == timedelta(hours=24)
    assert found.until == END


@pytest.mark.parametrize("product", ["widget", None])
def test_every_step_reads_at_most_one_day(filled: Store, product: str | None) -> None:
    which = InspectionFilter(product=product, since=START - timedelta(hours=17), until=END)
    pieces = list(summaries.pieces_of(filled.engine, which))
    assert [piece.since for piece in pieces] == [START - timedelta(hours=17), START + timedelta(hours=7)]
    assert pieces[-1].until == END
    assert replace(pieces[0], since=None, until=None) == InspectionFilter(product=product)
