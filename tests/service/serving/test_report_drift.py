"""Drift alarms in shift reports, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from service.serving import reports
from service.store.models import DriftAlarmRow
from service.store.session import transaction
from service.store.store import Store
from tests.service.serving.test_reports import END, START, report


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def add_alarms(store: Store, **alarms: dict[str, Any]) -> None:
    """Store alarms that were raised before the shift and are open. The names of the arguments are their stations."""
    values = {
        "product": "widget", "kind": "brightness", "direction": "lower", "reference": "card", "recipe_revision": 2,
        "raised_at": START - timedelta(hours=1), "onset_at": None, "evidence": 5.0, "suspends": True,
    }  # fmt: skip
    with transaction(store.engine, "insert") as connection:
        for station, changes in alarms.items():
            connection.execute(insert(DriftAlarmRow), values | {"station": station} | changes)


def test_drift_alarms_are_those_that_were_open_in_the_period(store: Store) -> None:
    acknowledged = {"acknowledged_by": "Ada", "reason": "lens cleaned"}
    later, earlier = START + timedelta(hours=1), START - timedelta(minutes=1)
    add_alarms(
        store,
        open={"onset_at": START - timedelta(hours=2)},
        in_period={"raised_at": START, "suspends": False},
        acknowledged={"acknowledged_at": later} | acknowledged,
        acknowledged_afterwards={"acknowledged_at": END + timedelta(hours=1)} | acknowledged,
        ended={"ended_at": later},
        acknowledged_before={"acknowledged_at": START} | acknowledged,
        ended_before={"ended_at": earlier},
        raised_afterwards={"raised_at": END},
        other_product={"product": "gadget"},
    )
    found = report(store, "Europe/Berlin")
    assert not found.are_alarms_cut
    assert [(alarm.station, alarm.state) for alarm in found.drift] == [
        ("open", "open"),
        ("in_period", "open"),
        ("acknowledged", "acknowledged"),
        ("acknowledged_afterwards", "acknowledged"),
        ("ended", "ended"),
    ]
    first, second, third = found.drift[:3]
    assert (first.kind, first.direction, first.suspends, second.suspends) == ("brightness", "lower", True, False)
    assert (first.since.isoformat(), str(first.onset)) == ("2026-03-02T05:00:00+01:00", "2026-03-02 04:00:00+01:00")
    assert (third.acknowledged_by, third.reason, third.closed_at) == ("Ada", "lens cleaned", later)


def test_drift_alarms_are_those_of_the_stations(store: Store) -> None:
    add_alarms(store, A={}, B={})
    add_alarms(store, **{"": {}})

    def stations(**which: Any) -> list[str | None]:
        return [alarm.station for alarm in report(store, **which).drift]

    assert stations() == ["A", "B", None]
    assert stations(station="A") == ["A", None], "that of the product as a whole concerns the station"
    assert stations(permitted_stations=("A",)) == stations(station="A", permitted_stations=("A", "B")) == ["A"]
    assert stations(station="B", permitted_stations=("A",)) == []


def test_more_drift_alarms_than_the_limit_are_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_ALARMS", 2)
    add_alarms(store, A={}, B={}, C={})
    found = report(store)
    assert found.are_alarms_cut
    assert [alarm.station for alarm in found.drift] == ["B", "C"]
