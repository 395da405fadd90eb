"""Bundles that are loaded after the start, because their products were inspected lately."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert

from service.deployment.memory_limits import MemoryLimits, memory_bytes
from service.deployment.prefetch import prefetch
from service.deployment.served import LoadResult, ServedBundle
from service.deployment.used_products import USED_PRODUCTS, UsedProducts
from service.store.bundles.objects import LocalObjects
from service.store.errors import BundleStoreUnavailable
from service.store.ids import new_id
from service.store.models import InspectionRow
from service.store.recent_use import most_used_products
from tests.bundles import write_tiny_bundle
from tests.databases import migrated_engine, recorded_statements
from tests.folder_watch import wait_for
from tests.service.deployment.replicas import Replica, WatchedObjects, run_replica
from tests.service.store.test_store import make_row

HOUR = timedelta(hours=1)


def add_inspections(engine: Engine, product: str, count: int, age: timedelta) -> None:
    moment = datetime.now(UTC) - age
    milliseconds = int(moment.timestamp() * 1000)
    rows = []
    for _ in range(count):
        inspection_id = UUID(int=(milliseconds << 80) | (new_id().int & ((1 << 80) - 1)))
        rows.append(make_row(id=str(inspection_id), created_at=moment, product=product).columns())
    with engine.begin() as connection:
        connection.execute(insert(InspectionRow), rows)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = migrated_engine(database_url)
    yield opened
    opened.dispose()


def test_products_with_most_inspections_of_the_last_day_come_first(engine: Engine) -> None:
    assert most_used_products(engine) == []
    add_inspections(engine, "bolt", 9, 25 * HOUR)
    add_inspections(engine, "nut", 2, 23 * HOUR)
    add_inspections(engine, "rivet", 3, 2 * HOUR)
    add_inspections(engine, "washer", 2, HOUR)
    with recorded_statements(engine) as statements:
        assert most_used_products(engine) == ["rivet", "washer", "nut"]
    assert len([one for one in statements if "inspections" in one]) == 1
    assert most_used_products(engine, max_inspections=4) == ["washer", "rivet"], "only the newest ones are counted"
    assert most_used_products(engine, period=timedelta(minutes=30)) == []


@pytest.fixture
def replica(tmp_path: Path, objects: WatchedObjects) -> Iterator[Replica]:
    """A replica with four products and memory for two bundles. The first one is loaded at the start."""
    url = f"sqlite:///{tmp_path / 'plumbline.db'}"
    names = ("bolt", "nut", "rivet", "washer")
    bundles = [write_tiny_bundle(tmp_path / "made", name) for name in names]
    with run_replica(url, tmp_path / "a", objects) as first:
        for bundle in bundles:
            first.upload(bundle)
            first.activate(bundle)
        for number, name in enumerate(names):
            add_inspections(first.store.engine, name, 1 + number, HOUR)
    limits = MemoryLimits(int(2.5 * memory_bytes(bundles[0].manifest)))
    with run_replica(url, tmp_path / "b", objects, memory=limits) as second:
        yield second


def test_free_memory_is_filled_and_no_bundle_is_unloaded(replica: Replica) -> None:
    def loaded() -> set[str]:
        return {name for name, active in replica.registry.active.items() if active.served.is_loaded}

    first = loaded()
    assert len(first) == 1
    prefetch(replica.registry, replica.store.engine, replica.metrics.bundle_store)
    most_used = "washer" if first != {"washer"} else "rivet"
    assert loaded() == first | {most_used}
    assert replica.metrics.bundle_store.prefetched._value.get() == 1
    assert replica.metrics.memory.evictions._value.get() == 0
    prefetch(replica.registry, replica.store.engine, replica.metrics.bundle_store)
    assert loaded() == first | {most_used}


def test_what_was_in_memory_before_is_loaded_first_and_leaves_last(replica: Replica) -> None:
    registry = replica.registry
    first = next(name for name, active in registry.active.items() if active.served.is_loaded)
    rest = [name for name in ("bolt", "nut", "rivet", "washer") if name != first]
    before = registry.get(first).served.used_at
    prefetch(registry, replica.store.engine, replica.metrics.bundle_store, ["unknown", *rest])
    assert registry.get(rest[0]).served.is_loaded, "although others were inspected more often"
    assert not registry.get(rest[1]).served.is_loaded
    ahead = registry.get(rest[0]).served
    with registry.lease(rest[0]):
        pass
    used_at = ahead.used_at
    assert used_at > before
    ahead.set_loaded_ahead(before)
    assert ahead.used_at == used_at, "it was used since it was loaded"


def test_bundles_loaded_ahead_leave_in_the_order_of_their_use(replica: Replica, tmp_path: Path) -> None:
    size = memory_bytes(replica.registry.get("bolt").bundle.manifest)
    limits, objects = MemoryLimits(5 * size), LocalObjects(tmp_path / "store")
    with run_replica(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "c", objects, memory=limits) as third:
        (first,) = (name for name, active in third.registry.active.items() if active.served.is_loaded)
        prefetch(third.registry, third.store.engine, third.metrics.bundle_store, ["nut", "bolt"])
        used_at = {name: active.served.used_at for name, active in third.registry.active.items() if name != first}
        assert all(third.registry.get(name).served.is_loaded for name in used_at)
    expected = [name for name in ("nut", "bolt", "washer", "rivet") if name != first]
    assert sorted(used_at, key=used_at.__getitem__, reverse=True) == expected


def test_list_of_used_products_survives_a_restart(replica: Replica, tmp_path: Path) -> None:
    registry = replica.registry
    used = UsedProducts(registry, tmp_path / USED_PRODUCTS, 0.01)
    assert used.read() == []
    (first,) = (name for name, active in registry.active.items() if active.served.is_loaded)
    other = next(name for name in registry.active if name != first)
    with registry.lease(other):
        pass
    used.start()
    wait_for(lambda: used.read() == [other, first])
    used.close()
    for text in ("[", '{"a": 1}', "\xff"):
        (tmp_path / USED_PRODUCTS).write_text(text, encoding="latin-1")
        assert used.read() == []
    missing = UsedProducts(registry, tmp_path / "unmounted" / USED_PRODUCTS)
    missing.write()
    assert not (tmp_path / "unmounted").exists()


def test_bundle_that_does_not_fit_is_passed_over(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    has_room_for = replica.registry.memory.has_room_for
    names: list[str] = []

    def has_room(served: ServedBundle) -> bool:
        names.append(served.bundle.manifest.product)
        return len(names) > 1 and has_room_for(served)

    monkeypatch.setattr(replica.registry.memory, "has_room_for", has_room)
    prefetch(replica.registry, replica.store.engine, replica.metrics.bundle_store)
    assert replica.metrics.bundle_store.prefetched._value.get() == 1
    assert not replica.registry.active[names[0]].served.is_loaded
    assert replica.registry.active[names[1]].served.is_loaded


def test_outage_of_the_bundle_store_ends_it(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "hidden")
    prefetch(replica.registry, replica.store.engine, replica.metrics.bundle_store)
    (broken,) = replica.registry.broken
    assert broken.slug == BundleStoreUnavailable.slug, "the others are not tried"


def test_closing_ends_it(replica: Replica) -> None:
    replica.registry.close()
    prefetch(replica.registry, replica.store.engine, replica.metrics.bundle_store)
    assert replica.metrics.bundle_store.prefetched._value.get() == 0


def test_loads_for_images_delay_it_no_longer_than_its_limit(replica: Replica, objects: WatchedObjects) -> None:
    registry, metrics = replica.registry, replica.metrics.bundle_store
    rest = [name for name, active in registry.active.items() if not active.served.is_loaded]

    def duration_s(limit_s: float) -> float:
        started = time.monotonic()
        prefetch(registry, replica.store.engine, metrics, rest[2:], limit_s)
        return time.monotonic() - started

    def request(product: str) -> LoadResult:
        load = registry.request(product)
        assert load is not None
        return load

    objects.may_read.clear()
    load = request(rest[0])
    assert 0.1 <= duration_s(0.1) < 5
    objects.may_read.set()
    assert load.result(30) is None
    objects.may_read.clear()
    load = request(rest[1])
    assert duration_s(20) < 10, "nothing else fits, so nothing is waited for"
    objects.may_read.set()
    assert load.result(30) is None
    assert metrics.prefetched._value.get() == 0
