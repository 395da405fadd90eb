"""Replicas that share a bundle store: uploads, roll-outs, outages and damage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import MODEL
from service.deployment.errors import ProductNotReady, UnknownBundle, UnknownProduct
from service.deployment.failures import BrokenBundle
from service.deployment.memory_limits import MemoryLimits
from service.deployment.replay import Replayer
from service.store.audit import AuditFilter, list_audit
from service.store.bundles.objects import LocalObjects
from service.store.errors import BundleStoreUnavailable
from service.store.recipes import current_recipe
from tests.bundles import SCORES, write_tiny_bundle
from tests.running_service import GOOD
from tests.service.deployment.conftest import SIGNATURE
from tests.service.deployment.replicas import Replica, WatchedObjects, run_replica

Run = Callable[..., AbstractContextManager[Replica]]
PINNED_NUT = MemoryLimits(2**30, frozenset({"nut"}))
WAIT_S = 30.0


@pytest.fixture
def objects(tmp_path: Path) -> WatchedObjects:
    (tmp_path / "store").mkdir()
    return WatchedObjects(tmp_path / "store")


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The shared database: SQLite, and PostgreSQL where a test asks for both (`on_both`)."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'plumbline.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


on_both = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True, ids=str
)


@pytest.fixture
def run(url: str, tmp_path: Path, objects: WatchedObjects) -> Run:
    """Start a replica: `with run("a") as replica`."""

    def start(name: str, **options: Any) -> AbstractContextManager[Replica]:
        return run_replica(url, tmp_path / name, objects, **options)

    return start


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Bundle, Bundle]:
    """An older and a newer bundle of the product "widget", outside of every replica."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old, new = (
        write_tiny_bundle(
            tmp_path / "made", created_at=start + timedelta(days=day), scores=[(1 + day) * one for one in SCORES]
        )
        for day in (0, 1)
    )
    return old, new


@pytest.fixture
def pair(run: Run, bundles: tuple[Bundle, Bundle]) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas; the older bundle is active in both."""
    with run("a") as first:
        first.upload(bundles[0])
        first.activate(bundles[0])
        with run("b") as second:
            yield first, second


@on_both
def test_upload_and_activation_reach_the_other_replica(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle]
) -> None:
    (first, second), (old, new) = pair, bundles
    assert second.version("widget") == old.version
    before = first.source._cache.used_bytes
    assert first.upload(new)
    assert first.source._cache.used_bytes > before > 0
    assert not first.upload(new)
    assert not second.upload(new), "it is in the store already, though not on the disk of this replica"
    versions = [(one.version, one.state) for one in second.rollout.versions("widget")]
    assert versions == [(new.version, "available"), (old.version, "active")]
    first.activate(new)
    with pytest.raises(ProductNotReady), second.registry.lease("widget"):
        pass
    second.follower.poll()
    with second.registry.lease("widget") as active:
        assert active.bundle.digest == new.digest
    actions = [(one.action, one.object) for one in list_audit(first.store.engine, AuditFilter(), limit=50)]
    assert actions.count(("bundle:upload", new.version)) == 1


def test_new_product_reaches_the_other_replica(pair: tuple[Replica, Replica], tmp_path: Path) -> None:
    first, second = pair
    nut, bolt = (write_tiny_bundle(tmp_path / "made", name) for name in ("nut", "bolt"))
    first.upload(nut)
    second.follower.poll()
    assert "nut" in second.registry.known
    second.activate(nut)
    first.follower.poll()
    assert first.version("nut") == nut.version
    # Before the next poll.
    first.upload(bolt)
    assert not second.upload(bolt, create_product=False)
    second.activate(bolt)
    with pytest.raises(ProductNotReady, match="another process activated") as raised, first.registry.lease("bolt"):
        pass
    assert raised.value.retry_after_s is not None
    with pytest.raises(UnknownProduct), first.registry.lease("washer"):
        pass
    first.follower.poll()
    with first.registry.lease("bolt") as active:
        assert active.bundle.version == bolt.version


def test_listing_downloads_nothing(pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle]) -> None:
    (first, second), (_, new) = pair, bundles
    first.upload(new)
    before = second.downloads()
    found = second.rollout.version("widget", new.version)
    assert (found.digest, found.manifest) == (new.digest, new.manifest)
    assert second.downloads() == before
    assert not second.files("widget", new.version)
    with pytest.raises(UnknownBundle, match="000000000000"):
        second.rollout.version("widget", "0" * 12)


def test_roll_back_downloads_a_version_that_left_the_cache(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects
) -> None:
    (first, second), (old, new) = pair, bundles
    first.upload(new)
    first.activate(new)
    second.follower.poll()
    second.source._cache.remove(("widget", old.version))
    before = objects.reads[MODEL]
    second.rollout.roll_back("widget", **SIGNATURE)
    assert second.version("widget") == old.version
    assert objects.reads[MODEL] > before
    first.follower.poll()
    assert first.version("widget") == old.version


@on_both
def test_store_that_is_down_affects_only_what_is_not_on_the_disk(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects
) -> None:
    (first, second), (old, new) = pair, bundles
    first.upload(new)
    first.activate(new)
    objects.is_down = True
    second.follower.poll()
    assert second.version("widget") == old.version, "it cannot serve the new bundle"
    (broken,) = second.registry.broken
    assert broken.slug == BundleStoreUnavailable.slug
    with pytest.raises(ProductNotReady), second.registry.lease("widget"):
        pass  # never judged by the bundle of before
    with first.registry.lease("widget") as active:
        assert active.bundle.digest == new.digest
    with pytest.raises(BundleStoreUnavailable) as raised:
        second.upload(write_tiny_bundle(first.source.root.parent / "made", "bolt"))
    assert raised.value.retry_after_s is not None
    assert "bolt" not in second.source.products()
    assert not (second.source.root / "bolt").exists(), "nothing is half-written"
    objects.is_down = False
    second.follower._retries.clear("widget", "active")
    second.follower.poll()
    assert second.version("widget") == new.version
    second.follower.poll()
    assert not second.registry.broken


def test_replica_that_starts_while_the_store_is_down_loads_later(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects, run: Run
) -> None:
    first, _ = pair
    first.upload(bundles[1])
    first.activate(bundles[1])
    objects.is_down = True
    with run("c") as third:
        assert not third.registry.active, "no older bundle replaces the chosen one"
        (broken,) = third.registry.broken
        assert (broken.product, broken.version) == ("widget", bundles[1].version)
        assert third.downloads("failed") == 1
        with pytest.raises(ProductNotReady, match="bundle store") as raised:
            third.registry.get("widget")
        assert raised.value.retry_after_s is not None
        later = threading.Thread(target=third.startup.fetch_again, args=(0.01,))
        later.start()
        objects.is_down = False
        later.join(WAIT_S)
        assert third.version("widget") == bundles[1].version
        assert not third.registry.broken


@on_both
def test_damaged_file_in_the_store_is_never_served(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects, run: Run
) -> None:
    (first, second), (old, new) = pair, bundles
    first.upload(new)
    objects.write(f"{new.digest}/{MODEL}", b"x" * new.manifest.files[MODEL].bytes)
    with pytest.raises(BundleStoreUnavailable, match="SHA-256 differs"):
        second.activate(new)
    assert second.version("widget") == old.version
    assert MODEL not in second.files("widget", new.version)
    assert second.downloads("damaged") == 1
    for replica in pair:
        listed = {one.version: one.state for one in replica.rollout.versions("widget")}
        assert listed == {old.version: "active", new.version: "broken"}
    assert not first.upload(new), "it is not new, and repairs the store"
    second.activate(new)
    assert second.version("widget") == new.version


def test_damaged_default_is_reported_and_not_rolled_back(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects
) -> None:
    _, new = bundles
    with run("a") as first:
        for bundle in bundles:
            first.source.store(bundle)()
        objects.write(f"{new.digest}/{MODEL}", b"x")
        first.source._table.set_status(new.digest, "damaged")
    with run("b") as second:
        assert second.source.default_digest("widget") == new.digest
        assert "widget" not in second.registry.active
        (broken,) = second.registry.broken
        assert (broken.version, broken.slug) == (new.version, BundleStoreUnavailable.slug)
        assert current_recipe(second.store.engine, "widget") is None, "nothing that the other replicas would follow"


def test_chosen_bundle_that_is_broken_stays_reported_after_an_outage(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle]
) -> None:
    (first, _), (old, new) = pair, bundles
    chosen = BrokenBundle("widget", new.version, "bundle-integrity", "it is damaged")
    unreachable = BrokenBundle("widget", old.version, BundleStoreUnavailable.slug, "the store is down", 5.0)
    for broken in (unreachable, chosen):
        first.registry.failures.add_broken(broken)
    first.startup._fetch_again("widget")
    assert first.registry.broken == (chosen,)


def test_only_products_that_nobody_else_loads_are_fetched_again(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects, tmp_path: Path
) -> None:
    nut, damaged = (write_tiny_bundle(tmp_path / "made", name) for name in ("nut", "rivet"))
    with run("a") as first:
        assert first.source.empty_remedy.startswith("Upload a bundle")
        with pytest.raises(UnknownProduct, match=r"'nut' in the bundle store\. It contains no product\.$"):
            first.registry.get("nut")
        first.upload(bundles[0])
        first.activate(bundles[0])
        for bundle in (nut, damaged):
            first.source.store(bundle)()
    objects.write(f"{damaged.digest}/{MODEL}", b"x")
    with run("b") as second:
        assert second.startup._unfetched == set(), "a damaged bundle has to be repaired"
    objects.is_down = True
    with run("c") as third:
        assert third.startup._unfetched == {"nut", "rivet", "widget"}
    with run("d", is_followed=True) as fourth:
        assert fourth.startup._unfetched == {"rivet"}, "the others have a recipe, which the follower reads"
        objects.is_down = False
        with fourth.startup.fetching_again():
            fourth.follower.poll()
        assert fourth.startup._unfetched == set()
        assert fourth.registry.active.keys() == {"nut", "widget"}


def test_damaged_file_on_the_disk_is_downloaded_again(run: Run, bundles: tuple[Bundle, Bundle]) -> None:
    old, _ = bundles
    with run("a") as first:
        first.upload(old)
        first.activate(old)
    path = first.source.root / "widget" / old.version / MODEL
    path.write_bytes(b"x" * old.manifest.files[MODEL].bytes)
    with run("a") as again:
        assert again.version("widget") == old.version
        assert path.read_bytes() == old.read_model()


def test_cache_without_the_store_serves_after_a_restart(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects
) -> None:
    with run("a") as first:
        first.upload(bundles[0])
        first.activate(bundles[0])
    objects.is_down = True
    with run("a") as again:
        assert again.version("widget") == bundles[0].version


def test_bundle_on_demand_is_described_at_the_start_and_fetched_by_its_first_image(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects, run: Run, tmp_path: Path
) -> None:
    first, _ = pair
    nut = write_tiny_bundle(tmp_path / "made", "nut")
    first.upload(nut)
    first.activate(nut)
    with run("c", memory=PINNED_NUT) as third:
        old = bundles[0]
        assert third.files("widget", old.version) == {"manifest.json", "calibration.json"}
        objects.is_down = True
        with pytest.raises(ProductNotReady) as raised, third.registry.lease("widget", WAIT_S):
            pass
        assert raised.value.retry_after_s is not None
        with pytest.raises(ProductNotReady) as raised, third.registry.lease("widget", WAIT_S):
            pass  # refused at once, until the next attempt is due
        assert raised.value.retry_after_s is not None
        with third.registry.lease("nut"):
            pass
        objects.is_down = False
        third.registry.memory._retries.clear("widget", "active")
        objects.reads.clear()
        objects.may_read.clear()
        leases = [threading.Thread(target=partial(lease, third)) for _ in range(4)]
        for thread in leases:
            thread.start()
        assert objects.is_held.wait(WAIT_S)
        with third.registry.lease("nut"):
            pass  # does not wait for the download
        objects.may_read.set()
        for thread in leases:
            thread.join(WAIT_S)
        assert objects.reads[MODEL] == 1, "one download for all"
        assert third.registry.get("widget").served.is_loaded


def lease(replica: Replica) -> None:
    with replica.registry.lease("widget", WAIT_S):
        pass


def test_products_are_not_broken_any_more_when_the_store_is_back(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects, tmp_path: Path
) -> None:
    made = [bundles[0], *(write_tiny_bundle(tmp_path / "made", name) for name in ("bolt", "nut"))]
    with run("a") as first:
        for bundle in made:
            first.upload(bundle)
            first.activate(bundle)
    objects.write(f"{made[1].digest}/{MODEL}", b"x")
    with run("c", memory=PINNED_NUT) as third:
        objects.is_down = True
        with pytest.raises(ProductNotReady), third.registry.lease("widget", WAIT_S):
            pass
        objects.is_down = False
        with pytest.raises(ProductNotReady, match="is not the file"), third.registry.lease("bolt", WAIT_S):
            pass
        assert {one.product for one in third.registry.broken} == {"widget", "bolt"}
        third.registry.memory._end_outage()
        assert {one.product for one in third.registry.broken} == {"bolt"}, "somebody has to repair it"
        third.registry.memory._retries.clear("widget", "active")
        with third.registry.lease("widget", WAIT_S):
            pass


def test_old_inspection_is_replayed_with_a_bundle_that_left_the_cache(
    run: Run, bundles: tuple[Bundle, Bundle], objects: LocalObjects
) -> None:
    old, _ = bundles
    with run("a") as first:
        for bundle in bundles:
            first.upload(bundle)
        first.source._cache.remove(("widget", old.version))
        row = stored_inspection(first, old)
        with Replayer(first.source, first.store, first.registry.loader) as replayer:
            assert replayer.replay(row).stored.decision == "pass"
            assert first.files("widget", old.version) >= {MODEL}
            with pytest.raises(UnknownBundle):
                replayer.replay(stored_inspection(first, write_tiny_bundle(first.store.data, "widget", gain=True)))


def stored_inspection(replica: Replica, bundle: Bundle) -> Any:
    from service.deployment.recipes import recipe_in_force
    from service.store.ids import created_at, new_id
    from tests.service.store.test_store import make_row

    recipe = recipe_in_force(replica.store.engine, bundle)
    inspection_id = new_id()
    replica.store.files.write_image(inspection_id, "image/png", GOOD).sync()
    return make_row(
        id=str(inspection_id), created_at=created_at(inspection_id), product="widget", bundle_digest=bundle.digest,
        bundle_version=bundle.version, recipe_revision=recipe.revision, decision="pass", provider="cpu",
    )  # fmt: skip


def test_replica_closes_while_it_downloads(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects, tmp_path: Path
) -> None:
    with run("a") as first:
        for bundle in (bundles[0], write_tiny_bundle(tmp_path / "made", "nut")):
            first.upload(bundle)
            first.activate(bundle)
    with run("c", memory=PINNED_NUT) as third:
        objects.may_read.clear()
        load = third.registry.request("widget")
        assert load is not None
        assert objects.is_held.wait(WAIT_S)
        closing = threading.Thread(target=third.registry.close)
        closing.start()
        closing.join(WAIT_S)
        assert not closing.is_alive(), "it does not wait for the download"
        objects.may_read.set()
        assert load.result(WAIT_S) is not None
        assert MODEL not in third.files("widget", bundles[0].version)
        assert not list((third.source.root / ".downloads").iterdir())
