"""Files, group commit, recipes and migrations."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine, func, select, text

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.recipes.recipe import Recipe
from service.store.artefacts.files import image_name
from service.store.artefacts.local import LocalFiles, write_atomically
from service.store.audit import Actor
from service.store.database import _upgrade, make_engine
from service.store.errors import ArtefactGone, RecipeConflict, StoreUnavailable, UnknownInspection, UnknownRevision
from service.store.ids import created_at, new_id, parse_id
from service.store.inspection_filter import InspectionFilter
from service.store.inspections import get_inspection, list_inspections
from service.store.models import Base, InspectionRow, ShadowRow
from service.store.recipes import append_recipe, current_recipe, get_recipe, recipe_history
from service.store.records import InspectionRecord, ShadowRecord
from service.store.session import reading
from service.store.store import Store
from tests.databases import migrated_engine

ADA = Actor("local", "local", "Ada")


def make_row(**changes: Any) -> InspectionRecord:
    inspection_id = new_id()
    values: dict[str, Any] = {
        "id": str(inspection_id),
        "created_at": created_at(inspection_id),
        "product": "widget",
        "decision": "fail",
        "score": 0.1 + 0.2,
        "p_value": 1 / 3,
        "fail_threshold": 0.2,
        "review_threshold": 0.1,
        "target_false_reject_rate": 0.01,
        "certified": True,
        "calibration_count": 99,
        "heatmap_low": 0.0,
        "heatmap_high": 0.2,
        "regions": [{"bbox": [1, 2, 3, 4], "polygon": [[1, 2]], "area_px": 5, "peak": 0.5, "peak_xy": [1, 2]}],
        "bundle_digest": "d" * 64,
        "bundle_version": "d" * 12,
        "method": "m",
        "provider": "cpu",
        "recipe_revision": 1,
        "image_media_type": "image/png",
        "image_width": 64,
        "image_height": 64,
        "image_bytes": 100,
        "image_sha256": "e" * 64,
        "timings_ms": {"infer": 1.5},
        "batch_size": 1,
    }
    return InspectionRecord(**(values | changes))


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def test_record_is_read_as_it_was_written(store: Store) -> None:
    taken = datetime(2026, 3, 1, 9, 30, tzinfo=timezone(timedelta(hours=1)))
    row = make_row(captured_at=taken, part_id="4711")
    store.writer.write(row)
    read = get_inspection(store.engine, UUID(row.id))
    assert read.score == 0.1 + 0.2, "bit-identical"
    assert read.regions == row.regions
    assert read.captured_at == taken
    assert read.captured_at.tzinfo is UTC
    assert read.created_at == row.created_at


def test_time_without_a_zone_is_rejected(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="time zone"):
        store.writer.write(make_row(captured_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - the rejected value


def test_many_writers_share_commits_and_lose_nothing(store: Store) -> None:
    rows = [make_row() for _ in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store.writer.write, rows))
    listed = list_inspections(store.engine, InspectionFilter(), limit=1000)
    assert [row.id for row in listed] == sorted((row.id for row in rows), reverse=True)
    assert store.writer.commits < len(rows)


def test_written_record_is_visible_to_another_connection_at_once(store: Store) -> None:
    for expected in range(1, 6):
        store.writer.write(make_row())
        other = create_engine(store.engine.url, poolclass=NullPool)
        with other.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM inspections")) == expected


def test_invalid_record_does_not_fail_the_others_of_its_group(store: Store) -> None:
    twin = make_row()
    store.writer.write(twin)
    rows = [make_row(), make_row(id=twin.id), make_row()]
    barrier = threading.Barrier(len(rows))

    def write(row: InspectionRecord) -> str | None:
        barrier.wait()
        try:
            store.writer.write(row)
        except StoreUnavailable as error:
            return error.detail
        return None

    # While an open transaction blocks the commit, all three gather in one group.
    with store.engine.connect() as blocker:
        is_sqlite = store.database is not None
        blocker.execute(text("BEGIN IMMEDIATE" if is_sqlite else "LOCK TABLE inspections IN EXCLUSIVE MODE"))
        with ThreadPoolExecutor(3) as pool:
            outcomes = pool.map(write, rows)
            blocker.rollback()
            results = list(outcomes)
    assert results[0] is None
    assert results[2] is None
    assert results[1] is not None
    assert "already exists" in results[1]


def test_sqlite_pragmas_are_set(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path)
    with store.engine.connect() as connection:
        pragma = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    store.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_reopened_store_keeps_its_records(database_url: str, tmp_path: Path) -> None:
    first = Store.open(database_url, tmp_path)
    first.writer.write(make_row())
    first.close()
    second = Store.open(database_url, tmp_path)
    with second.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(InspectionRow)) == 1
    second.close()


@pytest.mark.parametrize("name", ["folder", "text"])
def test_error_names_the_database_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, but long enough to have a header " * 50)
    with pytest.raises(StoreUnavailable, match=name):
        migrated_engine(f"sqlite:///{tmp_path / name}")


def test_page_starts_after_the_cursor(store: Store) -> None:
    rows = [make_row() for _ in range(3)]
    for row in rows:
        store.writer.write(row)
    page = list_inspections(store.engine, InspectionFilter(), before=UUID(rows[2].id), limit=1)
    assert [row.id for row in page] == [rows[1].id]


def test_error_names_the_unknown_inspection(store: Store) -> None:
    missing = new_id()
    with pytest.raises(UnknownInspection, match=str(missing)):
        get_inspection(store.engine, missing)


def test_ids_are_ordered_by_time_and_contain_it() -> None:
    before = datetime.now(UTC)
    ids = [new_id() for _ in range(1000)]
    assert [str(one) for one in ids] == sorted(str(one) for one in ids)
    assert abs(created_at(ids[0]) - before) < timedelta(seconds=2)


@pytest.mark.parametrize("text_of_id", ["", "x", "../../etc/passwd", "4c1848c4-ae53-4fde-b6aa-10560e5fb00d"])
def test_invalid_id_is_rejected(text_of_id: str) -> None:
    with pytest.raises(UnknownInspection):
        parse_id(text_of_id)


def test_artefacts_are_stored_in_the_folder_of_their_day(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    inspection_id = UUID("01a200cf-24a2-74fb-a0f8-9e8d0de452cf")  # 2026-11-22 01:11:45 UTC
    files.write_image(inspection_id, "image/jpeg", b"jpeg").sync()
    files.write_map(inspection_id, np.eye(3, dtype=np.float32)).sync()
    day = tmp_path / "2026" / "11" / "22"
    assert {path.name for path in day.iterdir()} == {f"{inspection_id}.jpg", f"{inspection_id}.npy"}
    assert (files.root / image_name(inspection_id, "image/jpeg")).read_bytes() == b"jpeg"
    files.remove(inspection_id, "image/jpeg")
    assert list(day.iterdir()) == []
    with pytest.raises(ArtefactGone, match="map"):
        files.map_of(make_row(id=str(inspection_id)))


def test_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(StoreUnavailable, match="taken cannot be written"):
        write_atomically(tmp_path / "taken", b"a file cannot replace a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_recipes_are_append_only(store: Store, tiny_bundle: Bundle) -> None:
    assert current_recipe(store.engine, "widget") is None
    first = recipe_in_force(store.engine, tiny_bundle)
    assert recipe_in_force(store.engine, tiny_bundle) == first, "reading changes nothing"
    other = Recipe(fail_threshold=2, review_threshold=1)
    second = append_recipe(store.engine, tiny_bundle, other, actor=ADA, reason="b", expected_revision=1)
    assert current_recipe(store.engine, "widget") == second
    assert recipe_history(store.engine, "widget") == [second, first]
    assert get_recipe(store.engine, "widget", 1) == first
    with pytest.raises(UnknownRevision):
        get_recipe(store.engine, "widget", 3)
    with pytest.raises(RecipeConflict):
        append_recipe(store.engine, tiny_bundle, other, actor=ADA, reason="b", expected_revision=1)


def test_concurrent_changes_get_different_revisions(store: Store, tiny_bundle: Bundle) -> None:
    recipe = Recipe(fail_threshold=2, review_threshold=1)

    def change(_: int) -> int:
        return append_recipe(store.engine, tiny_bundle, recipe, actor=ADA, reason="b").revision

    with ThreadPoolExecutor(4) as pool:
        revisions = list(pool.map(change, range(8)))
    assert sorted(revisions) == list(range(1, 9))


def test_migration_that_recreates_a_table_keeps_referring_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'plumbline.db'}"
    _upgrade(create_engine(url), "0005_bundles")
    with sqlite3.connect(tmp_path / "plumbline.db") as database:
        for table in ("inspections", "shadow_verdicts"):
            columns = database.execute(f"PRAGMA table_info({table})").fetchall()
            values = ["x" if "CHAR" in column[2] else 1 if column[3] else None for column in columns]
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
    database.close()
    engine = migrated_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(ShadowRow)) == 1
    engine.dispose()


@pytest.mark.parametrize(("record", "row"), [(InspectionRecord, InspectionRow), (ShadowRecord, ShadowRow)])
def test_records_have_the_fields_of_their_tables(record: type[Any], row: type[Base]) -> None:
    assert [field.name for field in fields(record)] == [column.name for column in row.__table__.columns]


def test_advice_about_a_database_server_is_to_check_the_server_and_the_url() -> None:
    engine = make_engine("postgresql+psycopg://plumbline@127.0.0.1:1/plumbline")
    with pytest.raises(StoreUnavailable) as caught, reading(engine) as session:
        session.execute(text("SELECT 1"))
    assert "Check that the database server runs" in caught.value.detail
    assert "PLUMBLINE_DATABASE_URL" in caught.value.detail
    assert "disk space" not in caught.value.detail
