"""Replicas that share a bundle store: uploads and roll-outs."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from service.bundle.manifest import MODEL
from service.deployment.errors import ProductNotReady, UnknownBundle, UnknownProduct
from service.deployment.replay import Replayer
from service.store.audit import AuditFilter, list_audit
from service.store.bundles.errors import BundleRemoved
from service.store.bundles.objects import LocalObjects
from service.store.bundles.pruning import find_unneeded, unlist
from service.store.bundles.removals import finish_removal
from tests.bundles import write_tiny_bundle
from tests.running_service import GOOD
from tests.service.deployment.conftest import ADA, SIGNATURE
from tests.service.deployment.replicas import PINNED_NUT, WAIT_S, Replica, Run, WatchedObjects, on_both


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
    shutil.rmtree(second.source.root / "widget" / old.version)
    before = objects.reads[MODEL]
    second.rollout.roll_back("widget", **SIGNATURE)
    assert second.version("widget") == old.version
    assert objects.reads[MODEL] > before
    first.follower.poll()
    assert first.version("widget") == old.version


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


def test_old_inspection_is_replayed_with_a_bundle_that_left_the_cache(
    run: Run, bundles: tuple[Bundle, Bundle], objects: LocalObjects
) -> None:
    old, _ = bundles
    with run("a") as first:
        for bundle in bundles:
            first.upload(bundle)
        shutil.rmtree(first.source.root / "widget" / old.version)
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


def test_request_for_a_bundle_looks_at_no_file(
    run: Run, bundles: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run("a") as first:
        for bundle in (bundles[0], write_tiny_bundle(tmp_path / "made", "nut")):
            first.upload(bundle)
            first.activate(bundle)
    with run("c", memory=PINNED_NUT) as third:
        looked: list[threading.Thread] = []
        is_local = third.source.is_local

        def watch(bundle: Bundle) -> bool:
            looked.append(threading.current_thread())
            return is_local(bundle)

        monkeypatch.setattr(third.source, "is_local", watch)
        load = third.registry.request("widget")
        assert load is not None
        assert load.result(WAIT_S) is None
        assert len(looked) == 1
        assert looked[0] is not threading.current_thread(), "the event loop requests bundles"


def remove_bundle(replica: Replica, objects: LocalObjects, bundle: Bundle) -> None:
    """Remove a bundle from the bundle store, as a command in another process."""
    engine = replica.store.engine
    found = find_unneeded(engine, datetime.now(UTC) + timedelta(days=1))
    (listed,) = [one for one in found.bundles if one.digest == bundle.digest]
    assert unlist(engine, listed, found, ADA) == "removed"
    objects.remove(bundle.digest)
    finish_removal(engine, bundle.digest)


def test_bundle_that_is_removed_while_it_is_downloaded_is_reported(
    pair: tuple[Replica, Replica], bundles: tuple[Bundle, Bundle], objects: WatchedObjects
) -> None:
    (first, second), (old, new) = pair, bundles
    first.upload(new)
    errors: list[BaseException] = []

    def activate() -> None:
        try:
            second.activate(new)
        except BundleRemoved as error:
            errors.append(error)

    objects.may_read.clear()
    activating = threading.Thread(target=activate)
    activating.start()
    assert objects.is_held.wait(WAIT_S)
    remove_bundle(first, objects, new)
    objects.may_read.set()
    activating.join(WAIT_S)
    assert "was removed from the bundle store" in str(errors[0])
    assert second.version("widget") == old.version
    # It is on the disk of the first replica, whose activation is refused by the database.
    with pytest.raises(BundleRemoved):
        first.activate(new)
    with pytest.raises(BundleRemoved):
        first.rollout.start_shadow("widget", new.version, **SIGNATURE)
    assert first.version("widget") == old.version
    assert [one.version for one in first.rollout.versions("widget")] == [old.version]
    assert first.source._removable()["widget", new.version] is False, (
        "it leaves the cache with those that are not in force"
    )
    assert first.upload(new)
    first.activate(new)
    assert first.version("widget") == new.version
