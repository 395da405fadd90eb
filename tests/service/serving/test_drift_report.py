"""The drift of a period, from stored alarms and streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.monitoring.drift.history import History
from service.monitoring.drift.records import Limits
from service.schemas.report import DriftState
from service.serving.reports import ReportRequest, report_steps
from service.store.inspection_filter import InspectionFilter
from service.store.models import DriftAlarmRow, DriftStreamRow
from service.store.session import writing
from service.store.store import Store

START = datetime(2026, 3, 2, 5, tzinfo=UTC)
END = START + timedelta(hours=8)
LIMITS = Limits(10_000_000, 50_000)


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def drift(store: Store, **conditions: Any) -> list[DriftState]:
    which = replace(InspectionFilter(product="widget", since=START, until=END), **conditions)
    steps = report_steps(store.engine, store.files, ReportRequest(which, ZoneInfo("Europe/Berlin"), LIMITS), END)
    return next(step for step in steps if step is not None).content.drift


def test_drift_of_the_period(store: Store) -> None:
    hour = timedelta(hours=1)

    def alarm(kind: str, station: str, raised: datetime, **ends: Any) -> DriftAlarmRow:
        return DriftAlarmRow(
            product="widget", station=station, kind=kind, direction=None, reference="r", recipe_revision=1,
            raised_at=raised, onset_at=raised - hour, evidence=8.0, suspends=True, **ends,
        )  # fmt: skip

    history = History()
    for number, evidence in enumerate((1.0, 2.0, 3.0)):
        history.add((END + (number - 1.5) * hour).timestamp(), evidence)
    stream = DriftStreamRow(
        product="widget", station="", kind="p_value", reference="r", recipe_revision=1, source="card",
        reference_count=9, state="ok", started_at=START, count=3, evidence=3.0, reference_values={}, progress={},
        history=history.to_stored(), direction=None, onset_at=None, alarm_id=None,
    )  # fmt: skip
    with writing(store.engine, "test") as session:
        session.add_all(
            [
                stream,
                alarm("brightness", "", START - 2 * hour, acknowledged_at=START - hour),  # before the period
                alarm("contrast", "", END),  # after it
                alarm("sharpness", "", START + hour),
                alarm("sharpness", "A", START - hour, acknowledged_at=START + hour),
                alarm("colour", "A", START + hour, ended_at=START + 2 * hour),
                alarm("colour", "B", START + hour, acknowledged_at=END + hour),
            ]
        )
    found = {(state.kind, state.station): state for state in drift(store)}
    assert {key: (state.state, state.evidence) for key, state in found.items()} == {
        ("p_value", None): ("normal", 2.0),
        ("sharpness", None): ("alarm", 8.0),
        ("sharpness", "A"): ("acknowledged", 8.0),
        ("colour", "A"): ("ended", 8.0),
        ("colour", "B"): ("alarm", 8.0),
    }
    assert found["colour", "A"].began_at == START
    assert found["p_value", None].limit == LIMITS.evidence("p_value")
    for conditions in ({"station": "A"}, {"permitted_stations": frozenset({"A"})}):
        assert {(state.kind, state.station) for state in drift(store, **conditions)} == {
            ("sharpness", "A"),
            ("colour", "A"),
        }
