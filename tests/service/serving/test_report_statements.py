"""The number of statements of a shift report depends on the days with inspections, not on the length of its period."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.store.store import Store
from tests.databases import recorded_statements
from tests.service.serving.test_reports import END, START, fill, report
from tests.service.store.test_query_inspections import id_at
from tests.service.store.test_store import make_row


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def test_days_without_an_inspection_take_no_statements(store: Store) -> None:
    """Compare a report of 13 months with one of the two days of them that have inspections."""
    early, late = START - timedelta(days=390), START
    rows = [make_row(id=str(id_at(moment, 0)), created_at=moment, decision="pass") for moment in (early, late)]
    with recorded_statements(store.engine) as empty:
        assert report(store, since=END - timedelta(days=395)).total.total == 0
    fill(store, rows)
    with recorded_statements(store.engine) as long:
        found = report(store, since=END - timedelta(days=395))
    with recorded_statements(store.engine) as short:
        report(store)

    assert found.total.total == 2
    assert [group.total for group in found.periods if group.total] == [1, 1]
    assert found.processing_time is not None
    assert found.processing_time.inspections == 2
    assert len(empty) < len(short)
    # The second day in three loops: the look for it, and at most three counts with two branches each.
    assert len(long) <= len(short) + 3 * (1 + 3 * 2)
