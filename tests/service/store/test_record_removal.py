"""Old records are removed in pieces, and those that are needed are kept. On SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, select, text

from service.monitoring.clock import Clock
from service.monitoring.metrics import Metrics
from service.serving.record_removal import RecordRemover
from service.serving.retention import CLOCK_SETTLE_S, RetentionSweeper
from service.store.audit import AuditEntry, AuditFilter, AuditRecord, list_audit
from service.store.idempotency import IdempotencyKey
from service.store.ids import created_at
from service.store.inspection_feed import open_feed
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections
from service.store.models import DriftPositionRow, InspectionRow, OutboxRow, ShadowRow
from service.store.outbox import DeadLetterFilter, Outbox
from service.store.record_removal.pieces import Piece, old_records, remove_piece, stored_products
from service.store.record_removal.state import (
    record_removals,
)
from service.store.records import ShadowRecord
from service.store.retention import mark_removed
from service.store.reviews import ReviewDraft, add_review, withdraw_review
from service.store.session import transaction
from service.store.shadows import add_shadow_verdicts
from service.store.store import Store
from tests.databases import recorded_statements
from tests.service.store.test_retention import add, aged_id, files
from tests.service.store.test_store import ADA, make_row

NOW = datetime.now(UTC)
LIMIT = NOW - timedelta(days=365)
OLD = timedelta(days=400)


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def add_bare(store: Store, age: timedelta, **changes: Any) -> UUID:
    """Store an inspection of this age whose image and map retention has removed."""
    inspection_id = add(store, age, **changes)
    store.files.unlink(inspection_id, "image/png")
    mark_removed(store.engine, [inspection_id], NOW)
    return inspection_id


def stored(store: Store) -> set[UUID]:
    return {UUID(record.id) for record in list_inspections(store.engine, InspectionFilter(), limit=500)}


def pieces(store: Store, limit: datetime = LIMIT, size: int = 200) -> list[Piece]:
    return list(old_records(store.engine, "widget", limit, size))


def kept(found: list[Piece]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for piece in found:
        total.update(piece.kept)
    return dict(total)


def remover(store: Store, rule: str = "365", **options: Any) -> RecordRemover:
    options = {"grace": timedelta(0)} | options
    return RecordRemover(
        store, rule, options.pop("metrics", Metrics()).storage, options.pop("clock", Clock()), **options
    )


def run(store: Store, rule: str = "365", **options: Any) -> None:
    assert not remover(store, rule, **options).sweep(threading.Event())


def entries(store: Store, action: str) -> list[AuditRecord]:
    return list(list_audit(store.engine, AuditFilter(action=action)))


def test_old_records_without_files_are_removed_with_the_verdicts_of_shadows(store: Store) -> None:
    old = [add_bare(store, OLD + timedelta(days=day), decision=name) for day, name in enumerate(("pass", "fail"))]
    young = add_bare(store, timedelta(days=100))
    shadow: dict[str, Any] = {
        "bundle_digest": "f" * 64, "bundle_version": "f" * 12, "decision": "pass", "score": 0.1, "p_value": 0.5,
        "fail_threshold": 0.2, "review_threshold": 0.1, "provider": "cpu", "infer_ms": 1.0,
    }  # fmt: skip
    add_shadow_verdicts(store.engine, [ShadowRecord(inspection_id=str(one), **shadow) for one in (*old, young)])
    metrics = Metrics()
    run(store, metrics=metrics)
    assert stored(store) == {young}
    with store.engine.connect() as connection:
        assert connection.scalars(select(ShadowRow.inspection_id)).all() == [str(young)]
    (removal,) = record_removals(store.engine)
    assert (removal.product, removal.removed) == ("widget", 2)
    assert removal.removed_until == created_at(old[0])
    exposed = metrics.expose().decode()
    assert 'inspection_records_removed_total{product="widget"} 2.0' in exposed
    oldest = next(line for line in exposed.splitlines() if line.startswith("inspection_oldest_record_timestamp"))
    assert float(oldest.split()[1]) == pytest.approx(created_at(young).timestamp())


def test_record_is_kept_as_long_as_its_files_are(store: Store) -> None:
    with_files = add(store, OLD)
    add_bare(store, timedelta(days=1))
    assert kept(pieces(store)) == {"image": 1}
    run(store)
    assert with_files in stored(store)
    assert {f"{with_files}.png", f"{with_files}.npy"} == files(store)
    mark_removed(store.engine, [with_files], NOW)
    run(store)
    assert with_files not in stored(store)


def test_reviewed_inspection_is_kept_also_if_the_review_was_withdrawn(store: Store) -> None:
    reviewed, withdrawn = add_bare(store, OLD), add_bare(store, OLD)
    for one in (reviewed, withdrawn):
        add_review(store.engine, one, ReviewDraft(ADA, "good"), NOW)
    withdraw_review(store.engine, withdrawn, ADA, None, NOW)
    add_bare(store, timedelta(days=1))
    assert kept(pieces(store)) == {"review": 2}
    run(store)
    assert {reviewed, withdrawn} < stored(store)


def test_review_since_the_piece_was_read_keeps_the_record(store: Store) -> None:
    first, second = add_bare(store, OLD), add_bare(store, OLD)
    add_bare(store, timedelta(days=1))
    (piece,) = pieces(store)
    assert set(piece.removable) == {str(first), str(second)}
    add_review(store.engine, first, ReviewDraft(ADA, "good"), NOW)
    assert remove_piece(store.engine, piece) == 1
    assert first in stored(store)
    assert record_removals(store.engine)[0].removed == 1


def add_dead_letter(store: Store, inspection_id: UUID) -> None:
    """Store a dead letter about an inspection of `OLD`."""
    values = {
        "sink": "mes", "product": "widget", "inspection_id": str(inspection_id), "event_id": str(inspection_id),
        "created_at": NOW - OLD, "attempts": 0, "rejections": 0, "dead_at": NOW,
    }  # fmt: skip
    with transaction(store.engine, "insert") as connection:
        connection.execute(insert(OutboxRow).values(**values))


def test_message_and_dead_letter_keep_their_record(store: Store) -> None:
    needed, free = add_bare(store, OLD), add_bare(store, OLD - timedelta(days=1))
    add_bare(store, timedelta(days=1))
    add_dead_letter(store, needed)
    assert kept(pieces(store)) == {"message": 1}
    run(store)
    assert needed in stored(store)
    assert free not in stored(store)
    with transaction(store.engine, "delete") as connection:
        connection.execute(delete(OutboxRow))
    run(store)
    assert needed not in stored(store)


def test_dead_letter_that_is_sent_again_keeps_its_record(store: Store) -> None:
    needed, free = add_bare(store, OLD), add_bare(store, OLD - timedelta(days=1))
    add_bare(store, timedelta(days=1))
    add_dead_letter(store, needed)
    outbox = Outbox(store.engine, None if store.is_shared else store.writer.between_commits)
    ids = outbox.dead_letter_ids(DeadLetterFilter())
    assert outbox.resend(ids, NOW, AuditEntry(ADA, "outbox:resend")) == 1
    (piece,) = pieces(store)
    assert (piece.removable, kept([piece])) == ((str(free),), {"message": 1})
    assert remove_piece(store.engine, replace(piece, removable=(str(needed), str(free)))) == 1, "checked again"
    assert needed in stored(store)
    assert [message.inspection_id for message, _ in outbox.pending("mes", "widget", 5)] == [str(needed)]


def test_inspection_that_drift_monitoring_has_not_counted_is_kept(store: Store) -> None:
    counted, new = add_bare(store, OLD), add_bare(store, OLD - timedelta(days=1))
    add_bare(store, timedelta(days=1))
    with transaction(store.engine, "insert") as connection:
        connection.execute(insert(DriftPositionRow).values(id=1, inspection_id=str(counted)))
    assert kept(pieces(store)) == {"drift": 1}
    run(store)
    assert counted not in stored(store)
    assert new in stored(store)


def test_newest_inspection_is_kept_so_that_no_event_is_lost(store: Store) -> None:
    old = [add_bare(store, OLD - timedelta(days=day)) for day in range(3)]
    feed = open_feed(store.engine, late_s=60)
    before = feed.head()
    for piece in pieces(store):
        remove_piece(store.engine, piece)
    assert stored(store) == {old[-1]}
    new = add(store, timedelta(0))
    assert [entry.id for entry in feed.read(feed.find(before.cursor), feed.head(), 10)] == [str(new)]


def test_all_pieces_are_read_once_also_with_equal_times(store: Store) -> None:
    moment = NOW - OLD
    rows = [make_row(created_at=moment + timedelta(days=number // 4)) for number in range(10)]
    for row in rows:
        store.writer.write(replace(row, artefacts_removed_at=NOW if int(row.id[-1], 16) % 2 else None))
    found = pieces(store, size=3)
    with store.engine.connect() as connection:
        free = connection.scalars(select(InspectionRow.id).where(InspectionRow.artefacts_removed_at.is_not(None))).all()
    newest = max(row.id for row in rows)
    listed = [name for piece in found for name in piece.removable]
    assert sorted(listed) == sorted(set(free) - {newest})
    assert len(listed) + sum(kept(found).values()) == 10


def test_run_goes_on_after_kept_records_and_over_all_products(store: Store) -> None:
    for day in range(5):
        add(store, OLD + timedelta(days=day))
        add_bare(store, OLD + timedelta(days=day))
        add_bare(store, OLD + timedelta(days=day), product="gone")
    add_bare(store, timedelta(days=1), product="new")
    assert stored_products(store.engine) == ["gone", "new", "widget"]
    run(store, "forever,gone=30,widget=365")
    assert {record.product: record.removed for record in record_removals(store.engine)} == {"gone": 5, "widget": 5}
    run(store, "365,gone=30")
    assert sum(record.removed for record in record_removals(store.engine)) == 10, "nothing is counted twice"


def test_sweep_ends_after_its_time_or_at_the_stop_and_continues_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(4):
        add_bare(store, OLD, product=f"p{day}")
    newest = add_bare(store, timedelta(days=1))
    monkeypatch.setattr("service.serving.record_removal.SWEEP_S", 0.0)
    steps, stop = remover(store), threading.Event()
    assert steps.sweep(stop)
    assert len(stored(store)) == 4, "one transaction"
    assert entries(store, "records:remove") == []
    stop.set()
    assert not steps.sweep(stop)
    assert len(stored(store)) == 3
    again = remover(store)
    while again.sweep(threading.Event()):
        pass
    assert stored(store) == {newest}
    found = [entry.after["removed"] for entry in reversed(entries(store, "records:remove"))]
    assert found == [{"p0": 1, "p1": 1}, {"p2": 1, "p3": 1}], "the run that was interrupted is in the audit log, too"
    assert not again.sweep(threading.Event()), "the next run is a day later"


def test_records_are_not_removed_soon_after_a_jump_of_the_clock(store: Store) -> None:
    add_bare(store, OLD)
    newest = add_bare(store, timedelta(days=1))
    steady, offset, start = [0.0], [0.0], time.time()
    clock = Clock(wall_s=lambda: start + steady[0] + offset[0], steady=lambda: steady[0])
    sweeper = RetentionSweeper(store, list, Metrics(), 600, clock=clock, records=remover(store, clock=clock).sweep)
    offset[0] = 100.0
    sweeper.sweep()
    assert len(stored(store)) == 2
    steady[0] = CLOCK_SETTLE_S + 1
    sweeper.sweep()
    assert stored(store) == {newest}


def test_idempotency_key_does_not_keep_a_record_and_is_removed_before(store: Store) -> None:
    row = make_row(id=str(aged_id(OLD)), created_at=NOW - OLD, artefacts_removed_at=NOW)
    store.writer.write(row, IdempotencyKey("p", "k", "f" * 64))
    add_bare(store, timedelta(days=1))
    sweeper = RetentionSweeper(store, list, Metrics(), 600, records=remover(store).sweep)
    sweeper.sweep()
    assert UUID(row.id) not in stored(store)
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM idempotency_keys")) == 0


def test_only_the_keys_of_removed_records_are_removed(store: Store) -> None:
    moment, key = NOW - OLD, IdempotencyKey("p", "k", "f" * 64)
    gone = make_row(id=str(aged_id(OLD)), created_at=moment, artefacts_removed_at=NOW)
    with_image = make_row(id=str(aged_id(OLD)), created_at=moment)
    store.writer.write(gone, key)
    store.writer.write(with_image, replace(key, key="image"))
    store.writer.write(make_row(), replace(key, key="new"))
    assert sum(remove_piece(store.engine, piece) for piece in pieces(store)) == 1
    with store.engine.connect() as connection:
        assert set(connection.scalars(text("SELECT key FROM idempotency_keys"))) == {"image", "new"}


def test_removal_holds_no_transaction_while_it_reads(store: Store) -> None:
    for day in range(3):
        add_bare(store, OLD + timedelta(days=day))
    add_bare(store, timedelta(days=1))
    steps = old_records(store.engine, "widget", LIMIT, 2)
    next(steps)
    store.writer.write(make_row())
    with recorded_statements(store.engine) as statements:
        rest = list(steps)
    assert sum(len(piece.removable) for piece in rest) == 1
    assert not any(statement.startswith(("DELETE", "UPDATE", "INSERT")) for statement in statements)
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(InspectionRow)) == 5


def test_old_records_are_read_by_an_index(store: Store) -> None:
    query = (
        "SELECT id FROM inspections WHERE product = 'a' AND created_at < '2026-01-01' AND created_at >= '2025-01-01' "
        "ORDER BY created_at, id LIMIT 5"
    )
    explain = "EXPLAIN" if store.database is None else "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        if store.database is None:
            connection.execute(text("SET enable_seqscan = off"))
        plan = " ".join(str(row) for row in connection.execute(text(f"{explain} {query}")))
    assert "ix_inspections_product_created_at" in plan
