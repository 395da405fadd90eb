"""What is recorded about removed records, and when nothing is removed. On SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete

from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.store.audit import read_audit
from service.store.audit_chain import verify_chain
from service.store.errors import UnknownInspection
from service.store.inspections import get_inspection
from service.store.models import InspectionRow
from service.store.record_removal.errors import InspectionRemoved
from service.store.record_removal.pieces import remove_piece
from service.store.record_removal.state import (
    RecordRemoval,
    announce_removal,
    audit_removals,
    record_removals,
    records_removed_until,
    state_removal,
    state_rule,
)
from service.store.reviews import ReviewDraft, add_review
from service.store.session import transaction
from service.store.store import Store
from tests.service.store.test_record_removal import LIMIT, NOW, OLD, add_bare, entries, pieces, remover, run, stored
from tests.service.store.test_retention import add
from tests.service.store.test_store import ADA


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def test_audit_log_states_rule_number_and_time_once(store: Store) -> None:
    add_bare(store, OLD)
    add_bare(store, timedelta(days=1))
    run(store, "365,nut=30")
    run(store, "365,nut=30")
    (rule,), (removal,) = entries(store, "records:rule"), entries(store, "records:remove")
    assert (rule.before, rule.after) == ({"record_days": ""}, {"record_days": "365,nut=30"})
    assert removal.after["record_days"] == "365,nut=30"
    assert removal.after["removed"] == {"widget": 1}
    until = records_removed_until(store.engine)
    assert until is not None
    assert datetime.fromisoformat(removal.after["removed_until"]["widget"]) == until
    assert removal.actor_kind == "service"
    run(store, "")
    assert entries(store, "records:rule")[0].after == {"record_days": ""}
    assert verify_chain(read_audit(store.engine)).broken is None


def test_command_and_service_state_only_what_they_removed_themselves(store: Store) -> None:
    for day in range(5):
        add_bare(store, OLD + timedelta(days=day))
    add_bare(store, timedelta(days=1))
    announce_removal(store.engine, ADA, "365", {"widget": LIMIT})
    first, second, _ = pieces(store, size=2)
    assert remove_piece(store.engine, first, is_stated=True) == 2
    assert audit_removals(store.engine, "365") == 0, "not the author of what the command removed"
    assert remove_piece(store.engine, replace(second, removable=second.removable[:1])) == 1
    state_removal(store.engine, ADA, "365", [RecordRemoval("widget", first.newest or NOW, 2)])
    assert audit_removals(store.engine, "365") == 1
    assert audit_removals(store.engine, "365") == 0
    found = [(entry.actor_kind, entry.after.get("removed")) for entry in reversed(entries(store, "records:remove"))]
    assert found == [(ADA.kind, None), (ADA.kind, {"widget": 2}), ("service", {"widget": 1})]
    assert entries(store, "records:remove")[-1].after["limits"] == {"widget": LIMIT.isoformat()}
    assert record_removals(store.engine)[0].removed == 3


def test_another_rule_removes_nothing_for_a_day(store: Store) -> None:
    add_bare(store, OLD)
    add_bare(store, timedelta(days=1))
    ahead = [0.0]
    clock = Clock(wall_s=lambda: time.time() + ahead[0])
    steps = remover(store, clock=clock, grace=timedelta(hours=24))
    assert not steps.sweep(threading.Event())
    assert len(stored(store)) == 2
    assert state_rule(store.engine, "365").since is not None
    ahead[0] = 25 * 3600.0
    restarted = remover(store, clock=clock, grace=timedelta(hours=24))
    assert not restarted.sweep(threading.Event())
    assert len(stored(store)) == 1


def test_without_the_setting_nothing_is_removed_or_recorded(store: Store) -> None:
    add_bare(store, OLD)
    run(store, "")
    assert len(stored(store)) == 1
    assert entries(store, "records:rule") == []
    assert records_removed_until(store.engine) is None


def test_removed_inspection_is_told_from_an_unknown_one(store: Store) -> None:
    old = add_bare(store, OLD)
    newer = add_bare(store, timedelta(days=1))
    run(store)
    with pytest.raises(InspectionRemoved, match="removed") as removed:
        get_inspection(store.engine, old)
    assert removed.value.status == 410
    with pytest.raises(InspectionRemoved):
        add_review(store.engine, old, ReviewDraft(ADA, "good"), NOW)
    unknown = UUID(int=newer.int ^ 1)
    with pytest.raises(UnknownInspection) as missing:
        get_inspection(store.engine, unknown)
    assert not isinstance(missing.value, InspectionRemoved)


def test_id_with_a_time_after_the_year_9999_is_unknown(store: Store) -> None:
    late = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
    add_bare(store, OLD)
    add_bare(store, timedelta(days=1))
    for _ in range(2):
        with pytest.raises(UnknownInspection) as missing:
            get_inspection(store.engine, late)
        assert not isinstance(missing.value, InspectionRemoved)
        run(store)
    assert records_removed_until(store.engine) is not None


def test_time_of_the_newest_removal_is_that_of_the_products_asked_for(store: Store) -> None:
    add_bare(store, OLD, product="nut")
    add_bare(store, timedelta(days=1))
    run(store)
    until = records_removed_until(store.engine)
    assert until is not None
    assert records_removed_until(store.engine, ["nut"], until) == until
    assert records_removed_until(store.engine, ["nut"], until + timedelta(seconds=1)) is None
    assert records_removed_until(store.engine, ["widget"]) is None


def test_clock_that_was_wrong_at_the_start_removes_nothing_on_the_first_day(store: Store) -> None:
    add_bare(store, OLD)
    add_bare(store, timedelta(days=200))
    add_bare(store, timedelta(hours=23))
    run(store)
    assert len(stored(store)) == 3, "the newest ones may have the wrong time as well"
    add_bare(store, timedelta(days=180))
    run(store)
    assert len(stored(store)) == 3, "one of them was removed"


def test_gauges_state_the_last_run_and_nothing_while_another_process_removes(store: Store) -> None:
    add(store, OLD, product="gone")
    add_bare(store, timedelta(days=1))
    metrics, name = Metrics(), "inspection_oldest_record_timestamp_seconds{"
    steps = remover(store, metrics=metrics, interval=timedelta(0))
    steps.sweep(threading.Event())
    assert metrics.expose().decode().count(name) == 2
    with transaction(store.engine, "delete") as connection:
        connection.execute(delete(InspectionRow).where(InspectionRow.product == "gone"))
    steps.sweep(threading.Event())
    assert metrics.expose().decode().count(name) == 1
    steps.release()
    exposed = metrics.expose().decode()
    assert name not in exposed
    assert "inspection_records_past_limit{" not in exposed
