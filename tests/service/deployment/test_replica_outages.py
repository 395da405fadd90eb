"""Replicas that share a bundle store: outages and damage."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import MODEL
from service.deployment.errors import ProductNotReady, UnknownProduct
from service.deployment.failures import BrokenBundle
from service.deployment.sources.cache import CacheLimits
from service.store.errors import BundleStoreUnavailable
from service.store.recipes import current_recipe
from tests.bundles import write_tiny_bundle
from tests.service.deployment.replicas import PINNED_NUT, WAIT_S, Replica, Run, WatchedObjects, on_both


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


def test_damaged_file_is_not_downloaded_again_before_it_was_changed(
    pair: tuple[Replica, Replica],
    bundles: tuple[Bundle, Bundle],
    objects: WatchedObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, second), (_, new) = pair, bundles
    first.upload(new)
    model, intact = f"{new.digest}/{MODEL}", new.read_model()
    objects.write(model, b"x" * len(intact))

    def attempt() -> int:
        before = objects.reads[MODEL]
        with pytest.raises(BundleStoreUnavailable, match="SHA-256 differs"):
            second.source.fetch("widget", new.version)
        return objects.reads[MODEL] - before

    assert [attempt() for _ in range(3)] == [2, 0, 0], "read twice, to be sure"
    objects.write(model, b"y" * len(intact))
    assert [attempt() for _ in range(2)] == [2, 0], "another file is downloaded"
    monkeypatch.setattr("service.deployment.sources.damaged.KEPT_S", -1.0)
    objects.write(model, b"z" * len(intact))
    assert [attempt() for _ in range(2)] == [2, 2], "after an hour"
    objects.write(model, intact)
    second.source.fetch("widget", new.version)
    listed = {one.version: one.state for one in first.rollout.versions("widget")}
    assert listed[new.version] == "available", "it is not broken any more"


def test_file_that_is_repaired_during_the_download_is_not_recorded_as_damaged(
    pair: tuple[Replica, Replica],
    bundles: tuple[Bundle, Bundle],
    objects: WatchedObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, second), (_, new) = pair, bundles
    first.upload(new)
    model, intact, read = f"{new.digest}/{MODEL}", new.read_model(), objects.read
    objects.write(model, b"x" * len(intact))

    def read_and_repair(name: str, start: int, length: int) -> bytes:
        piece = read(name, start, length)
        if name == model:
            objects.write(model, intact)
        return piece

    monkeypatch.setattr(objects, "read", read_and_repair)
    with pytest.raises(BundleStoreUnavailable, match="SHA-256 differs"):
        second.source.fetch("widget", new.version)
    listed = {one.version: one.state for one in first.rollout.versions("widget")}
    assert listed[new.version] == "available"
    second.source.fetch("widget", new.version)


def test_look_at_a_damaged_file_keeps_the_pause_after_a_failed_request(
    run: Run, bundles: tuple[Bundle, Bundle], objects: WatchedObjects, tmp_path: Path
) -> None:
    _, new = bundles
    with run("a") as first:
        first.upload(new)
    model, intact, moved = f"{new.digest}/{MODEL}", new.read_model(), tmp_path / "moved"
    objects.write(model, b"x" * len(intact))
    with run("b", limits=CacheLimits(None, grace_s=0, pause_s=60)) as second:
        with pytest.raises(BundleStoreUnavailable, match="SHA-256 differs"):
            second.source.fetch("widget", new.version)
        (tmp_path / "store").rename(moved)
        with pytest.raises(BundleStoreUnavailable, match="does not exist"):
            second.source.fetch("widget", new.version)
        moved.rename(tmp_path / "store")
        objects.write(model, intact)
        with pytest.raises(BundleStoreUnavailable, match="does not exist"):
            second.source.fetch("widget", new.version)


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
        (broken,) = second.registry.broken
        assert (broken.product, broken.retry_after_s) == ("rivet", None)
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
