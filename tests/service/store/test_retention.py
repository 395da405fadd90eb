"""Retention removes the right artefacts and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text

from service.bundle.bundle import Bundle
from service.deployment.recipes import recipe_in_force
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.serving.record_removal import BUSY_SWEEP_S
from service.serving.retention import RetentionSweeper
from service.store.artefacts.files import image_name, map_name
from service.store.artefacts.local import LocalFiles
from service.store.ids import created_at, new_id
from service.store.inspections import get_inspection
from service.store.recipes import append_recipe
from service.store.retention import mark_removed, past_retention
from service.store.store import Store
from tests.service.store.test_store import ADA, make_row

NOW = datetime.now(UTC)
FUTURE = (NOW + timedelta(days=1), NOW + timedelta(days=2))
MAP = np.zeros((2, 2), np.float32)


@pytest.fixture
def store(database_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(database_url, tmp_path / "data")
    yield opened
    opened.close()


def local(store: Store) -> LocalFiles:
    assert isinstance(store.files, LocalFiles)
    return store.files


def root(store: Store) -> Path:
    return local(store).root


def aged_id(age: timedelta) -> UUID:
    """Return an id of this age."""
    milliseconds = int((datetime.now(UTC) - age).timestamp() * 1000)
    return UUID(int=(milliseconds << 80) | (new_id().int & ((1 << 80) - 1)))


def add(store: Store, age: timedelta, **changes: Any) -> UUID:
    """Store an inspection of this age with image and map."""
    inspection_id = aged_id(age)
    store.files.write_image(inspection_id, "image/png", b"png").sync()
    store.files.write_map(inspection_id, MAP).sync()
    store.writer.write(make_row(id=str(inspection_id), created_at=created_at(inspection_id), **changes))
    return inspection_id


def past(store: Store, **changes: Any) -> list[UUID]:
    rules: dict[str, Any] = {
        "older_than": None,
        "beyond": None,
        "protected": (NOW + timedelta(days=1),) * 2,
        "limit": 100,
    }
    found = past_retention(store.engine, "widget", "fail", **(rules | changes))
    return [item.inspection_id for item in found]


def test_limits_of_age_and_number_select_the_artefacts(store: Store) -> None:
    ids = [add(store, timedelta(days=days)) for days in (40, 30, 20, 10)]
    add(store, timedelta(days=50), decision="pass")
    add(store, timedelta(days=50), product="gadget")

    assert past(store) == [], "no limit selects nothing"
    assert past(store, older_than=NOW - timedelta(days=25)) == ids[:2]
    assert past(store, older_than=NOW - timedelta(days=60)) == []
    assert past(store, beyond=3) == ids[:1]
    assert past(store, beyond=4) == []
    assert past(store, beyond=0) == ids
    assert past(store, beyond=3, older_than=NOW - timedelta(days=25)) == ids[:2], "either limit is enough"
    assert past(store, beyond=0, protected=(NOW - timedelta(days=15), NOW + timedelta(days=1))) == ids[:3]
    assert past(store, beyond=0, limit=2) == ids[:2], "the oldest first"

    mark_removed(store.engine, ids[:2], NOW)
    assert past(store, beyond=0) == ids[2:], "removed artefacts are not returned again"
    assert past(store, beyond=1) == ids[2:3], "and not counted"


def test_query_uses_the_partial_index(store: Store) -> None:
    query = (
        "SELECT id FROM inspections WHERE product = 'a' AND decision = 'fail' "
        "AND artefacts_removed_at IS NULL AND id < 'x' ORDER BY id LIMIT 5"
    )
    explain = "EXPLAIN" if store.database is None else "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        if store.database is None:  # an empty table is read as a whole otherwise
            connection.execute(text("SET enable_seqscan = off"))
        plan = " ".join(str(row) for row in connection.execute(text(f"{explain} {query}")))
    assert "ix_inspections_kept" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


@pytest.fixture
def sweeper(store: Store, tiny_bundle: Bundle) -> RetentionSweeper:
    recipe_in_force(store.engine, tiny_bundle)
    return RetentionSweeper(store, lambda: ["widget", "never-served"], Metrics(), interval_s=600, limit=3)


ADMIN = replace(ADA, is_admin=True)


def retain(store: Store, bundle: Bundle, **retention: Any) -> None:
    recipe = Recipe.default(bundle.card.scores).changed({"retention": retention})
    append_recipe(store.engine, bundle, recipe, actor=ADMIN, reason="b", confirm_removal=100)


def files(store: Store) -> set[str]:
    return {path.name for path in root(store).rglob("*") if path.is_file()}


def test_product_without_a_bundle_is_swept(store: Store, tiny_bundle: Bundle) -> None:
    recipe_in_force(store.engine, tiny_bundle)
    retain(store, tiny_bundle, fail={"days": 7})
    add(store, timedelta(days=8))
    RetentionSweeper(store, list, Metrics(), interval_s=600).sweep()
    assert files(store) == set()


def test_records_have_little_time_while_images_wait(store: Store, tiny_bundle: Bundle) -> None:
    recipe_in_force(store.engine, tiny_bundle)
    retain(store, tiny_bundle, fail={"days": 7})
    for _ in range(2):
        add(store, timedelta(days=8))
    limits: list[float | None] = []

    def records(_stop: threading.Event, longest_s: float | None) -> bool:
        limits.append(longest_s)
        return False

    sweeper = RetentionSweeper(store, list, Metrics(), interval_s=600, limit=1, records=records)
    while sweeper.sweep():
        pass
    assert limits == [BUSY_SWEEP_S, BUSY_SWEEP_S, None]


def test_sweep_removes_files_and_keeps_records(store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle) -> None:
    old, young = add(store, timedelta(days=8)), add(store, timedelta(days=6))
    old_pass = add(store, timedelta(days=8), decision="pass")
    assert not sweeper.sweep()
    assert len(files(store)) == 6, "by default everything is kept"

    retain(store, tiny_bundle, fail={"days": 7})
    assert not sweeper.sweep()

    assert files(store) == {f"{kept}{suffix}" for kept in (young, old_pass) for suffix in (".png", ".npy")}
    row = get_inspection(store.engine, old)
    assert row.artefacts_removed_at is not None
    assert abs(row.artefacts_removed_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert row.score == make_row().score
    assert get_inspection(store.engine, young).artefacts_removed_at is None
    exposed = sweeper._metrics.expose().decode()
    assert 'inspection_artefacts_removed_total{decision="fail",product="widget"} 1.0' in exposed


def test_sweep_is_bounded_and_returns_whether_more_is_left(
    store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle
) -> None:
    for days in range(8):
        add(store, timedelta(days=1 + days))
    retain(store, tiny_bundle, fail={"count": 1})
    left = []
    while sweeper.sweep():
        left.append(len(files(store)) // 2)
    assert left == [5, 2]
    assert len(files(store)) // 2 == 1


def test_recent_inspection_keeps_its_files_for_an_interval(
    store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle
) -> None:
    add(store, timedelta(minutes=1))
    add(store, timedelta(minutes=20))
    retain(store, tiny_bundle, fail={"count": 0})
    sweeper.sweep()
    assert len(files(store)) == 2


def test_empty_folders_of_past_days_are_removed(store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle) -> None:
    add(store, timedelta(days=400))
    add(store, timedelta(minutes=15))
    retain(store, tiny_bundle, fail={"count": 0})
    sweeper.sweep()
    folders = [path for path in root(store).rglob("*") if path.is_dir()]
    today = (datetime.now(UTC) - timedelta(minutes=15)).date()
    assert [path for path in folders if path.name == f"{today:%d}"] != [], "files may still be written there"
    assert {path.name for path in root(store).iterdir()} == {f"{today:%Y}"}


def test_removal_interrupted_by_a_crash_is_finished(
    store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle
) -> None:
    inspection_id = add(store, timedelta(days=8))
    (root(store) / image_name(inspection_id, "image/png")).unlink()
    retain(store, tiny_bundle, fail={"days": 7})
    sweeper.sweep()
    assert files(store) == set()
    assert get_inspection(store.engine, inspection_id).artefacts_removed_at is not None


def test_file_that_cannot_be_removed_is_counted_and_retried(
    store: Store, sweeper: RetentionSweeper, tiny_bundle: Bundle
) -> None:
    stuck, free = add(store, timedelta(days=9)), add(store, timedelta(days=8))
    # A folder in place of the file: unlinking it fails for root, too.
    path = root(store) / map_name(stuck)
    path.unlink()
    path.mkdir()
    retain(store, tiny_bundle, fail={"days": 7})
    assert not sweeper.sweep()
    assert get_inspection(store.engine, stuck).artefacts_removed_at is None
    assert get_inspection(store.engine, free).artefacts_removed_at is not None, "one failure does not stop the others"
    assert "inspection_retention_failures_total 1.0" in sweeper._metrics.expose().decode()
    path.rmdir()
    sweeper.sweep()
    assert get_inspection(store.engine, stuck).artefacts_removed_at is not None


def test_thread_survives_an_unexpected_error(store: Store, tiny_bundle: Bundle) -> None:
    calls: list[int] = []

    def products() -> list[str]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("unexpected")
        return ["widget"]

    inspection_id = add(store, timedelta(days=8))
    recipe_in_force(store.engine, tiny_bundle)
    retain(store, tiny_bundle, fail={"days": 7})
    sweeper = RetentionSweeper(store, products, Metrics(), interval_s=0.01)
    sweeper.start()
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    while get_inspection(store.engine, inspection_id).artefacts_removed_at is None and datetime.now(UTC) < deadline:
        time.sleep(0.01)
    sweeper.close()
    assert files(store) == set()
