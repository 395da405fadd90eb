"""Reviews in the store, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from service.reviews.errors import NoReviewToWithdraw
from service.reviews.labels import CombinedLabel
from service.store.audit import Actor, read_audit
from service.store.errors import UnknownInspection
from service.store.ids import new_id
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import list_inspections
from service.store.records import ShadowRecord
from service.store.review_queries import (
    count_labelled,
    creation_times,
    current_reviews,
    invalid_labels,
    judged_images,
    kinds_of,
    labelled_ids,
    labelled_inspections,
    labels_of,
    reviewed_ids,
)
from service.store.reviews import ReviewDraft, add_review, get_reviews, withdraw_review
from service.store.shadows import add_shadow_verdicts, disagreeing_ids
from service.store.store import Store
from tests.service.store.test_store import make_row

START = datetime(2026, 3, 1, tzinfo=UTC)
ADA, BOB = Actor("account", "1", "Ada", "127.0.0.1", "request"), Actor("account", "2", "Bob")


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def write(store: Store, **changes: Any) -> UUID:
    row = make_row(**changes)
    store.writer.write(row)
    return UUID(row.id)


def add(store: Store, name: UUID, actor: Actor, label: Any, second: float = 0.0, **fields: Any) -> bool:
    draft = ReviewDraft(actor, label, **fields)
    return add_review(store.engine, name, draft, START + timedelta(seconds=second))[2]


def shadow_of(name: UUID, decision: str, digest: str = "e" * 64) -> ShadowRecord:
    return ShadowRecord(
        inspection_id=str(name),
        bundle_digest=digest,
        bundle_version=digest[:12],
        decision=decision,
        score=1.0,
        p_value=0.5,
        fail_threshold=2.0,
        review_threshold=1.5,
        provider="cpu",
        infer_ms=1.0,
    )


def test_label_and_history_follow_every_change(store: Store) -> None:
    name = write(store)
    assert labels_of(store.engine, [str(name)]) == {}
    assert add(store, name, ADA, "defect", kind="dent", note="deep")
    assert not add(store, name, ADA, "defect", 9, kind="dent", note="deep"), "a double click"
    assert add(store, name, ADA, "defect", 11, kind="dent", note="deep")
    assert labels_of(store.engine, [str(name)]) == {str(name): CombinedLabel("defect", "dent")}
    assert add(store, name, BOB, "good", 12)
    assert labels_of(store.engine, [str(name)]) == {str(name): CombinedLabel("disputed")}
    found = get_reviews(store.engine, name)
    assert [(review.reviewer, review.note) for review in found.items] == [
        ("Ada", "deep"),
        ("Ada", "deep"),
        ("Bob", None),
    ]
    first, second, third = found.items
    after = withdraw_review(store.engine, name, ADA, second.id, START + timedelta(seconds=20))
    assert after.current["Ada"].id == first.id
    assert after.items[1].withdrawn_at == START + timedelta(seconds=20)
    with pytest.raises(NoReviewToWithdraw):
        withdraw_review(store.engine, name, BOB, first.id, START)
    withdraw_review(store.engine, name, BOB, third.id, START)
    withdraw_review(store.engine, name, ADA, None, START)
    assert labels_of(store.engine, [str(name)]) == {}
    with pytest.raises(NoReviewToWithdraw):
        withdraw_review(store.engine, name, ADA, None, START)
    with pytest.raises(UnknownInspection):
        add(store, new_id(), ADA, "good")


def test_every_change_is_in_the_audit_log(store: Store) -> None:
    name = write(store)
    add(store, name, ADA, "good", note="clean")
    add(store, name, ADA, "good", 1, note="clean")
    add(store, name, ADA, "defect", 20, kind="dent")
    withdraw_review(store.engine, name, ADA, None, START)
    entries = list(read_audit(store.engine))
    assert [(entry.action, entry.actor, entry.address, entry.product, entry.object) for entry in entries] == [
        ("review:add", "Ada", "127.0.0.1", "widget", str(name)),
        ("review:add", "Ada", "127.0.0.1", "widget", str(name)),
        ("review:undo", "Ada", "127.0.0.1", "widget", str(name)),
    ]
    assert [entry.note for entry in entries] == ["clean", "", ""]
    assert [(entry.before or {}).get("label") for entry in entries] == [None, "good", "defect"]
    assert [(entry.after or {}).get("label") for entry in entries] == ["good", "defect", "good"]


def test_simultaneous_reviews_are_all_counted_and_repetitions_stored_once(store: Store) -> None:
    name = write(store)
    barrier = threading.Barrier(8)

    def send(number: int) -> bool:
        barrier.wait()
        return add(store, name, Actor("account", str(number), f"R{number // 2}"), "good" if number > 1 else "defect")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(send, range(8))) == [False] * 4 + [True] * 4
    assert len(get_reviews(store.engine, name).items) == 4
    assert labels_of(store.engine, [str(name)]) == {str(name): CombinedLabel("disputed")}


def test_queries_by_label_period_and_reviewer(store: Store) -> None:
    names = [write(store, created_at=START + timedelta(hours=hour)) for hour in range(6)]
    invalid = write(store, created_at=START, decision="invalid", score=None, p_value=None)
    other = write(store, product="gadget", created_at=START)
    for name, label in zip([*names, invalid, other], ("good", "defect", "unsure", "good", "good"), strict=False):
        add(store, name, ADA, label)
    add(store, invalid, ADA, "defect")
    add(store, other, ADA, "good")
    add(store, names[0], BOB, "good")
    add(store, names[1], BOB, "good")
    withdraw_review(store.engine, names[1], BOB, None, START)
    engine, later = store.engine, START + timedelta(hours=3)

    assert labelled_ids(engine, "widget", "good", None, None, 10) == [names[0], names[3], names[4]]
    assert labelled_ids(engine, "widget", "good", later, None, 1) == [names[3]]
    assert labelled_ids(engine, "widget", "good", None, later, 10) == [names[0]]
    assert (count_labelled(engine, "widget", None, None), count_labelled(engine, "widget", later, None)) == (5, 2)
    assert [
        (UUID(record.id), label.label) for record, label in labelled_inspections(engine, "widget", None, later)
    ] == [
        (names[0], "good"),
        (names[1], "defect"),
        (invalid, "defect"),
    ]
    listed = list_inspections(engine, InspectionFilter(label="good"), before=names[4], limit=2)
    assert [UUID(record.id) for record in listed] == [names[3], names[0]]
    images = judged_images(engine, "widget", START, later, 10)
    assert [(UUID(image.id), image.label, image.has_image) for image in images] == [
        (names[2], "unsure", True),
        (names[1], "defect", True),
        (names[0], "good", True),
    ]
    assert invalid_labels(engine, "widget", START, None) == {"defect": 1}
    assert reviewed_ids(engine, "widget", "Bob") == {str(names[0])}
    reviews, is_cut = current_reviews(engine, "widget", 100)
    assert not is_cut
    assert current_reviews(engine, "widget", 2)[1]
    assert creation_times(engine, [str(names[2])]) == {str(names[2]): START + timedelta(hours=2)}
    assert reviews[str(names[0])] == {"Ada": "good", "Bob": "good"}
    assert reviews[str(names[1])] == {"Ada": "defect"}
    assert str(other) not in reviews


def test_queries_are_limited_to_stations(store: Store) -> None:
    names = {station: write(store, created_at=START, station=station) for station in ("a", "b", None)}
    for station, name in names.items():
        add(store, name, ADA, "defect", kind=f"of {station}")
    engine, at_a = store.engine, str(names["a"])

    assert count_labelled(engine, "widget", None, None, stations=["a"]) == 1
    assert count_labelled(engine, "widget", None, None, stations=["a", "b"]) == 2
    assert [record.id for record, _ in labelled_inspections(engine, "widget", None, None, stations=["a"])] == [at_a]
    assert kinds_of(engine, "widget", 10, stations=["a"]) == [("of a", 1)]
    assert len(kinds_of(engine, "widget", 10)) == 3
    assert current_reviews(engine, "widget", 10, stations=["a"]) == ({at_a: {"Ada": "defect"}}, False)
    assert current_reviews(engine, "widget", 10, stations=["c"]) == ({}, False)
    assert kinds_of(engine, "widget", 10, stations=[]) == [], "no station, not all of them"


def test_labelled_inspections_are_read_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.review_queries._AT_ONCE", 2)
    names = [write(store) for _ in range(5)]
    for name in names:
        add(store, name, ADA, "good")
    assert [UUID(record.id) for record, _ in labelled_inspections(store.engine, "widget", None, None)] == names
    assert len(labels_of(store.engine, [str(name) for name in names])) == 5


def test_disagreements_with_a_shadow_are_found(store: Store) -> None:
    names = [write(store, created_at=START + timedelta(hours=hour), decision="pass") for hour in range(3)]
    verdicts = [shadow_of(names[0], "fail"), shadow_of(names[1], "pass"), shadow_of(names[2], "review")]
    add_shadow_verdicts(store.engine, [*verdicts, shadow_of(names[0], "review", "f" * 64)])

    found = disagreeing_ids(store.engine, "widget", START, None, 10)
    assert [UUID(name) for name in found] == [names[2], names[0]]
    assert disagreeing_ids(store.engine, "widget", START, START + timedelta(hours=1), 10) == [str(names[0])]
    assert disagreeing_ids(store.engine, "gadget", START, None, 10) == []


def test_lists_by_label_use_the_index_of_labels(tmp_path: Path) -> None:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    statement = (
        "EXPLAIN QUERY PLAN SELECT i.* FROM inspections i JOIN inspection_labels l ON l.inspection_id = i.id "
        "WHERE i.product = 'widget' AND l.product = 'widget' AND l.label = 'good' "
        "ORDER BY l.inspection_id DESC LIMIT 50"
    )
    with opened.engine.connect() as connection:
        plan = " ".join(str(row) for row in connection.execute(text(statement)))
    opened.close()
    assert "ix_inspection_labels_product_label_inspection_id" in plan
    assert "TEMP B-TREE" not in plan
