"""Two processes on one database: changes by one are in force in the other before its next inspection.

The processes are two registries with a store of their own each, without the lock that refuses a second process.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.bundle.archive import write_archive
from service.bundle.bundle import Bundle
from service.deployment.errors import ProductNotReady
from service.deployment.passed_tests import PassedSelfTests
from service.deployment.registry import Registry
from service.deployment.repository import BundleLoader
from service.deployment.retries import LoadRetries
from service.deployment.revisions import RevisionFollower, SharedQuery
from service.deployment.rollout import Rollout
from service.deployment.startup import Startup
from service.deployment.uploads import BundleUploads, UploadLimits
from service.inspection.inspector import Inspector
from service.inspection.runtime.isolation import SelfTestLimits
from service.monitoring.metrics import Metrics
from service.store.errors import StoreUnavailable
from service.store.store import Store
from tests.bundles import write_tiny_bundle
from tests.databases import recorded_statements
from tests.folder_watch import wait_for
from tests.running_service import shared_self_tests
from tests.service.deployment.conftest import ADA, SIGNATURE, TIMEOUT_S, Deployment
from tests.service.deployment.test_retries import Clock


class CountingLoader(BundleLoader):
    """Counts the attempts to load a bundle."""

    loads = 0

    def load(self, *arguments: Any, **options: Any) -> Inspector:
        self.loads += 1
        return super().load(*arguments, **options)


@pytest.fixture
def store_url(database_url: str) -> str:
    return database_url


@pytest.fixture
def other(deployment: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    """The second process, which follows the first one only when it is asked."""
    url = deployment.store.engine.url.render_as_string(hide_password=False)
    store = Store.open(url, tmp_path / "other", is_exclusive=False)
    metrics = Metrics()
    models = deployment.registry.models
    options = deployment.registry.loader.options
    loader = CountingLoader(options, SelfTestLimits(), PassedSelfTests(shared_self_tests()))
    registry = Registry(models, loader, metrics)
    uploads = BundleUploads(models, UploadLimits(2**20, max_uploads=2, reserve_bytes=0))
    rollout = Rollout(registry, store.engine, metrics, uploads)
    second = Deployment(store, registry, rollout, metrics, deployment.old, deployment.new)
    Startup(registry, store.engine).run()
    yield second
    registry.close()
    store.close()


def follow(process: Deployment) -> RevisionFollower:
    follower = RevisionFollower(process.registry, process.store.engine)
    process.registry.synchronise = follower.require_current
    return follower


def damage(bundle: Bundle, *, repair: bool = False) -> None:
    """Change a byte of the graph, or change it back."""
    model = bundle.path / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(bytes(content))
    if repair:
        Bundle.load(bundle.path)


def add_product(process: Deployment, product: str) -> Bundle:
    """Upload the first bundle of a product through one process."""
    source = process.registry.models.parent / "elsewhere"
    bundle = write_tiny_bundle(source, product)
    archive = io.BytesIO()
    write_archive(bundle, archive)
    version, _ = process.rollout.upload(product, archive, actor=ADA, create_product=True)
    assert version.version == bundle.version
    return bundle


def revision_in_force(process: Deployment, product: str) -> int:
    with process.registry.lease(product) as active:
        return active.recipe.revision


def test_recipe_changed_by_another_process_judges_the_next_image(deployment: Deployment, other: Deployment) -> None:
    follow(other)
    for threshold in (2.0, 3.0):
        changed = deployment.change_recipe("bolt", threshold)
        with other.registry.lease("bolt") as active:
            assert active.recipe.revision == changed.revision
            assert active.recipe.recipe.fail_threshold == threshold
    follow(deployment)
    changed = other.change_recipe("bolt", 4.0)
    assert revision_in_force(deployment, "bolt") == changed.revision


def test_without_following_the_other_process_is_stale(deployment: Deployment, other: Deployment) -> None:
    changed = deployment.change_recipe("bolt", 2.0)
    assert revision_in_force(other, "bolt") == changed.revision - 1


def test_change_is_based_on_the_change_by_another_process(deployment: Deployment, other: Deployment) -> None:
    follow(other)
    first = deployment.change_recipe("bolt", 2.0)
    assert other.change_recipe("bolt", 3.0).revision == first.revision + 1
    assert other.registry.get("bolt").recipe.revision == first.revision + 1


def test_bundle_activated_by_another_process_is_loaded_before_anything_is_judged(
    deployment: Deployment, other: Deployment
) -> None:
    follower = follow(other)
    deployment.activate("bolt", deployment.old["bolt"])
    with pytest.raises(ProductNotReady, match="another process activated"), other.registry.lease("bolt"):
        pass
    assert revision_in_force(other, "nut") >= 1, "other products are not affected"
    follower.poll()
    with other.registry.lease("bolt") as active:
        assert active.bundle.digest == deployment.old["bolt"].digest
        assert active.recipe == deployment.registry.get("bolt").recipe
    deployment.rollout.roll_back("bolt", **SIGNATURE)
    follower.poll()
    assert other.version("bolt") == deployment.new["bolt"].version


def test_product_that_another_process_activates_first_is_served(deployment: Deployment, other: Deployment) -> None:
    follower = follow(other)
    bundle = add_product(deployment, "washer")
    follower.poll()
    with pytest.raises(ProductNotReady, match="none of its bundles is activated"):
        other.registry.get("washer")
    assert [version.version for version in other.rollout.versions("washer")] == [bundle.version]
    deployment.activate("washer", bundle)
    follower.poll()
    assert other.version("washer") == bundle.version
    assert other.registry.get("washer").recipe == deployment.registry.get("washer").recipe


def test_product_that_could_not_be_loaded_at_the_start_is_served_when_it_is_repaired(
    unloaded: Deployment, tmp_path: Path
) -> None:
    Startup(unloaded.registry, unloaded.store.engine).run()
    unloaded.rollout.start_shadow("bolt", unloaded.old["bolt"].version, **SIGNATURE)
    for bundle in (unloaded.old["bolt"], unloaded.new["bolt"]):
        damage(bundle)
    store = Store.open(
        unloaded.store.engine.url.render_as_string(hide_password=False), tmp_path / "other", is_exclusive=False
    )
    registry = Registry(unloaded.registry.models, unloaded.registry.loader, Metrics())
    try:
        Startup(registry, store.engine).run()
        assert "bolt" not in registry.active
        clock = Clock()
        follower = RevisionFollower(registry, store.engine, retries=LoadRetries(registry.models, clock))
        follower.poll()
        assert "bolt" not in registry.active
        for bundle in (unloaded.old["bolt"], unloaded.new["bolt"]):
            damage(bundle, repair=True)
        clock.now += 100
        follower.poll()
        assert registry.get("bolt").bundle.version == unloaded.new["bolt"].version
        assert registry.shadows["bolt"].bundle.version == unloaded.old["bolt"].version
        assert registry.broken == ()
    finally:
        registry.close()
        store.close()


@pytest.mark.parametrize("role", ["active", "shadow"])
def test_refused_bundle_is_loaded_again_after_a_growing_delay(
    deployment: Deployment, other: Deployment, role: str
) -> None:
    clock = Clock()
    loader = other.registry.loader
    assert isinstance(loader, CountingLoader)
    loader.loads = 0
    follower = RevisionFollower(other.registry, other.store.engine, retries=LoadRetries(other.registry.models, clock))
    other.registry.synchronise = follower.require_current
    bundle = deployment.old["bolt"]
    if role == "active":
        deployment.activate("bolt", bundle)
    else:
        deployment.rollout.start_shadow("bolt", bundle.version, **SIGNATURE)
    damage(bundle)
    changed = deployment.change_recipe("nut", 3.0)
    attempts = []
    for _ in range(32):
        follower.poll()
        attempts.append(loader.loads)
        clock.now += 1
    assert attempts[:8] == [1, 2, 2, 3, 3, 3, 3, 4]
    assert loader.loads <= 6
    assert other.registry.get("nut").recipe.revision == changed.revision, "other products are followed"
    assert [broken.product for broken in other.registry.broken] == (["bolt"] if role == "active" else [])
    damage(bundle, repair=True)
    follower.poll()
    follower.poll()  # the files did not change between these two polls
    deployed = other.registry.active if role == "active" else other.registry.shadows
    assert deployed["bolt"].bundle.digest == bundle.digest
    assert other.registry.broken == ()


def test_return_to_the_active_bundle_ends_a_failure(deployment: Deployment, other: Deployment) -> None:
    follower = follow(other)
    deployment.activate("bolt", deployment.old["bolt"])
    damage(deployment.old["bolt"])
    follower.poll()
    assert [broken.version for broken in other.registry.broken] == [deployment.old["bolt"].version]
    deployment.rollout.roll_back("bolt", **SIGNATURE)
    assert revision_in_force(other, "bolt") == deployment.registry.get("bolt").recipe.revision
    follower.poll()
    assert other.registry.broken == ()


def test_shadow_of_another_process_is_followed(deployment: Deployment, other: Deployment) -> None:
    follower = follow(other)
    deployment.rollout.start_shadow("bolt", deployment.old["bolt"].version, **SIGNATURE)
    follower.poll()
    with recorded_statements(other.store.engine) as statements:
        follower.poll()
    assert len([one for one in statements if "bundle_choices" in one]) == 1, "whatever the number of products"
    assert other.registry.shadows["bolt"].bundle.digest == deployment.old["bolt"].digest
    deployment.rollout.stop_shadow("bolt", **SIGNATURE)
    follower.poll()
    assert dict(other.registry.shadows) == {}


def test_shadow_that_was_changed_since_the_poll_began_is_not_put_in_force(
    deployment: Deployment, other: Deployment
) -> None:
    follower, old = follow(other), deployment.old["bolt"]
    deployment.rollout.start_shadow("bolt", old.version, **SIGNATURE)
    read = follower._choices.versions("shadow")
    assert read == {"bolt": old.version}
    deployment.rollout.stop_shadow("bolt", **SIGNATURE)
    follower._poll_shadow("bolt", read["bolt"])
    assert dict(other.registry.shadows) == {}
    deployment.rollout.start_shadow("bolt", old.version, **SIGNATURE)
    follower._poll_shadow("bolt", old.version)
    follower._poll_shadow("bolt", None)
    assert other.registry.shadows["bolt"].bundle.digest == old.digest


def test_thread_follows_products_without_images(deployment: Deployment, other: Deployment) -> None:
    follower = RevisionFollower(other.registry, other.store.engine, poll_s=0.01)
    follower.start()
    deployment.activate("nut", deployment.old["nut"])
    changed = deployment.change_recipe("bolt", 2.0)
    for _ in range(int(TIMEOUT_S / 0.05)):
        active = other.registry.active
        is_bundle_followed = active["nut"].bundle.digest == deployment.old["nut"].digest
        if is_bundle_followed and active["bolt"].recipe.revision == changed.revision:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("the change was not followed")
    follower.close()


def test_local_changes_are_never_refused_while_the_process_follows(deployment: Deployment) -> None:
    follow(deployment)
    stop = threading.Event()
    failures: list[Exception] = []

    def judge() -> None:
        while not stop.is_set():
            try:
                with deployment.registry.lease("bolt") as active:
                    assert active.recipe.bundle_digest == active.bundle.digest
            except Exception as error:  # noqa: BLE001 - checked below
                failures.append(error)
                return

    threads = [threading.Thread(target=judge) for _ in range(3)]
    for thread in threads:
        thread.start()
    for bundle in (deployment.old, deployment.new, deployment.old):
        deployment.activate("bolt", bundle["bolt"])
        deployment.change_recipe("bolt", 2.0)
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert failures == []


def test_query_is_shared_and_never_older_than_the_call() -> None:
    entered, released = threading.Event(), threading.Event()
    answers = [{"p": 1}, {"p": 2}, {"p": 3}]
    calls: list[int] = []

    def query(_products: frozenset[str]) -> Mapping[str, int]:
        calls.append(1)
        if len(calls) == 1:
            entered.set()
            assert released.wait(TIMEOUT_S)
        return answers[len(calls) - 1]

    shared = SharedQuery(query)
    results: list[Mapping[str, int]] = []
    first = threading.Thread(target=lambda: results.append(shared("p")))
    first.start()
    assert entered.wait(TIMEOUT_S)
    late = [threading.Thread(target=lambda: results.append(shared("p"))) for _ in range(8)]
    for thread in late:
        thread.start()
    threading.Event().wait(0.1)
    released.set()
    for thread in (first, *late):
        thread.join(TIMEOUT_S)
    assert sorted(result["p"] for result in results) == [1] + [2] * 8
    assert len(calls) == 2
    assert shared("p") == {"p": 3}


def test_failed_query_is_shared_like_a_result() -> None:
    entered, released = threading.Event(), threading.Event()
    calls: list[int] = []

    def query(_products: frozenset[str]) -> Mapping[str, int]:
        calls.append(1)
        entered.set()
        assert released.wait(TIMEOUT_S)
        if len(calls) <= 2:
            raise StoreUnavailable("the server does not respond")
        return {"p": 3}

    shared = SharedQuery(query)
    failures: list[StoreUnavailable] = []

    def call() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            shared("p")
        failures.append(caught.value)

    first = threading.Thread(target=call)
    first.start()
    assert entered.wait(TIMEOUT_S)
    late = [threading.Thread(target=call) for _ in range(8)]
    for thread in late:
        thread.start()
    threading.Event().wait(0.1)
    released.set()
    for thread in (first, *late):
        thread.join(TIMEOUT_S)
    assert len(calls) == 2
    assert {error.reason for error in failures} == {"the server does not respond"}
    assert len(set(map(id, failures))) == 9, "each caller raises an error of its own"
    assert shared("p") == {"p": 3}


def test_query_after_one_that_broke_names_the_product_of_its_caller() -> None:
    asked: list[frozenset[str]] = []

    def query(products: frozenset[str]) -> Mapping[str, int]:
        asked.append(products)
        if len(asked) == 1:
            raise RuntimeError("no failure of the store, so it is not shared")
        return dict.fromkeys(products, 1)

    shared = SharedQuery(query)
    with ThreadPoolExecutor(2) as pool:
        with shared._lock:  # so that both have arrived before the first query begins
            calls = {product: pool.submit(shared, product) for product in ("p", "q")}
            wait_for(lambda: shared._wanted == calls.keys())
        errors = {product: call.exception(TIMEOUT_S) for product, call in calls.items()}
    (product,) = (product for product, error in errors.items() if error is None)
    assert asked[0] == {"p", "q"}
    assert calls[product].result() == {product: 1}
