"""Bundles that are loaded on demand, within a limit on their memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from service.bundle.bundle import Bundle
from service.bundle.errors import BundleInvalid
from service.deployment import retries
from service.deployment.errors import ProductNotReady
from service.deployment.lease import ActiveProduct
from service.deployment.memory_limits import MemoryLimits, memory_bytes, stay_s
from service.deployment.registry import Registry
from service.deployment.repository import BundleLoader
from service.deployment.rollout import Rollout
from service.deployment.startup import Startup
from service.errors import PlumblineError, ShuttingDown
from service.inspection.inspector import Inspector
from service.monitoring.metrics import Metrics
from tests.bundles import write_tiny_bundle
from tests.running_service import BAD
from tests.service.deployment.conftest import SIGNATURE, TIMEOUT_S, Deployment, is_closed

PRODUCTS = ("bolt", "nut", "rivet")
Open = Callable[..., Registry]


@pytest.fixture(autouse=True)
def no_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bundles leave at once; tests of the stay set another one."""
    monkeypatch.setattr("service.deployment.bundle_memory.stay_s", lambda _: 0.0)


@pytest.fixture
def bundles(unloaded: Deployment) -> dict[str, Bundle]:
    return unloaded.new | {"rivet": write_tiny_bundle(unloaded.registry.models, "rivet")}


@pytest.fixture
def open_registry(unloaded: Deployment, bundles: dict[str, Bundle]) -> Iterator[Open]:
    """Return a function that opens a registry of three products with memory for a number of bundles."""
    opened: list[Registry] = []

    def open_one(count: int, *pinned: str, metrics: Metrics | None = None) -> Registry:
        limit = count * memory_bytes(bundles["bolt"].manifest) + 2**20
        limits = MemoryLimits(limit, frozenset(pinned))
        registry = Registry(unloaded.registry.models, unloaded.registry.loader, metrics or Metrics(), limits)
        opened.append(registry)
        Startup(registry, unloaded.store.engine).run()
        return registry

    yield open_one
    for registry in opened:
        registry.close()


def in_memory(registry: Registry) -> set[str]:
    return {product for product, active in registry.active.items() if active.served.is_loaded}


def score(registry: Registry, product: str) -> float:
    with registry.lease(product, TIMEOUT_S) as active:
        return active.inspector.inspect(BAD, active.recipe.recipe.criteria).score


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


class Hanging:
    """Loads of one product that hang until they are released."""

    def __init__(self, product: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.released, self.count = threading.Event(), threading.Event(), 0
        load = BundleLoader.load

        def wait_and_load(loader: BundleLoader, path: Path, *arguments: Any, **options: Any) -> Inspector:
            if path.parent.name == product:
                self.count += 1
                self.entered.set()
                assert self.released.wait(TIMEOUT_S)
            return load(loader, path, *arguments, **options)

        monkeypatch.setattr(BundleLoader, "load", wait_and_load)


def test_all_bundles_stay_in_memory_without_a_limit(deployment: Deployment) -> None:
    assert in_memory(deployment.registry) == {"bolt", "nut"}
    assert all(active.served.is_pinned for active in deployment.registry.active.values())


def test_products_are_in_force_at_the_start_and_one_shows_that_the_provider_works(open_registry: Open) -> None:
    metrics = Metrics()
    registry = open_registry(3, metrics=metrics)

    assert registry.active.keys() == set(PRODUCTS)
    assert len(in_memory(registry)) == 1
    assert not registry.loading
    assert registry.broken == ()
    (loaded,) = in_memory(registry)
    exposed = metrics.expose().decode()
    for product in PRODUCTS:
        active = registry.get(product)
        assert active.served.provider == ("cpu" if product == loaded else None)
        provider = "cpu" if product == loaded else "none"
        assert f'inspection_model_info{{product="{product}",provider="{provider}"' in exposed


def test_lease_loads_the_bundle_once(open_registry: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    registry = open_registry(3, "bolt", metrics=metrics)
    hanging = Hanging("nut", monkeypatch)
    with ThreadPoolExecutor(8) as threads:
        scores = [threads.submit(score, registry, "nut") for _ in range(8)]
        assert hanging.entered.wait(TIMEOUT_S)
        assert score(registry, "bolt") > 0, "other products are served meanwhile"
        hanging.released.set()
        assert len({future.result(TIMEOUT_S) for future in scores}) == 1
    assert hanging.count == 1
    assert value(metrics, "inspection_bundle_leases_total", result="miss") == 8
    score(registry, "nut")
    assert value(metrics, "inspection_bundle_leases_total", result="hit") == 2
    assert value(metrics, "inspection_bundle_load_seconds_count") == 1
    assert value(metrics, "inspection_bundles_loaded") == 2
    assert value(metrics, "inspection_bundle_memory_bytes") == registry.memory.used_bytes


def test_pinned_bundles_are_loaded_at_the_start_and_stay(open_registry: Open) -> None:
    registry = open_registry(2, "nut")
    assert in_memory(registry) == {"nut"}
    for product in ("bolt", "rivet", "bolt", "rivet"):
        score(registry, product)
        assert in_memory(registry) == {"nut", product}


def test_bundle_in_use_leaves_when_its_last_lease_ends(open_registry: Open) -> None:
    registry = open_registry(1, metrics=Metrics())
    with ThreadPoolExecutor(2) as threads:
        with registry.lease("bolt") as first, registry.lease("bolt"):
            waiting = threads.submit(score, registry, "nut")
            while first.served.is_loaded:
                assert not waiting.done()
            inspector = first.inspector
            assert inspector.inspect(BAD, first.recipe.recipe.criteria).score > 0, "its leases keep it"
            again = threads.submit(score, registry, "bolt")
            assert not waiting.done()
        assert waiting.result(TIMEOUT_S) > 0
        assert is_closed(inspector)
        assert again.result(TIMEOUT_S) > 0, "a lease that came too late waits for the next load"


def test_bundle_stays_for_a_while_so_that_products_do_not_replace_each_other_with_every_image(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(1)
    score(registry, "bolt")
    monkeypatch.setattr("service.deployment.bundle_memory.stay_s", lambda _: 3600.0)
    score(registry, "nut")
    with pytest.raises(ProductNotReady, match="being loaded") as refused, registry.lease("bolt", 0.1):
        pass
    assert refused.value.retry_after_s is not None
    assert in_memory(registry) == {"nut"}
    score(registry, "nut")


@pytest.mark.parametrize(("load_s", "expected"), [(0.01, 0.5), (0.2, 2.0), (3.0, 5.0)])
def test_a_tenth_of_the_time_is_spent_on_loading_within_bounds(load_s: float, expected: float) -> None:
    assert stay_s(load_s) == pytest.approx(expected)


def test_load_continues_after_the_deadline_of_a_lease(open_registry: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_registry(3, "bolt")
    hanging = Hanging("nut", monkeypatch)
    with pytest.raises(ProductNotReady, match="being loaded") as refused, registry.lease("nut", 0.05):
        pass
    assert refused.value.retry_after_s is not None
    load = registry.request("nut")
    assert load is not None
    hanging.released.set()
    assert load.result(TIMEOUT_S) is None
    assert registry.request("nut") is None
    assert hanging.count == 1


def test_bundle_that_cannot_be_loaded_affects_only_its_product_until_it_is_repaired(
    open_registry: Open, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.deployment.retries._FIRST_DELAY_S", 3600.0)  # so only the repair is a reason to retry
    metrics = Metrics()
    model = bundles["nut"].path / "model.onnx"
    intact = model.read_bytes()
    model.write_bytes(intact[:-1])

    registry = open_registry(2, "bolt", metrics=metrics)
    for _ in range(2):
        with pytest.raises(ProductNotReady, match="model\\.onnx is not the file") as refused, registry.lease("nut"):
            pass
        assert refused.value.retry_after_s is None, "somebody has to act"
    assert value(metrics, "inspection_bundle_load_failures_total") == 1, "it is not tried with every image"
    (broken,) = registry.broken
    assert (broken.product, broken.version) == ("nut", bundles["nut"].version)
    assert score(registry, "bolt") > 0
    assert score(registry, "rivet") > 0

    model.write_bytes(intact)
    is_served = threading.Event()
    while not is_served.wait(0.05):
        try:
            score(registry, "nut")
        except ProductNotReady:
            continue
        is_served.set()
    assert registry.broken == ()


def test_request_for_a_bundle_that_was_refused_lists_no_file(
    open_registry: Open, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(3, "bolt")
    model = bundles["nut"].path / "model.onnx"
    model.write_bytes(b"x" + model.read_bytes())
    with pytest.raises(ProductNotReady), registry.lease("nut"):
        pass
    listing, listed = retries._list_files, list[str]()

    def watch(folder: Path) -> Any:
        listed.append(threading.current_thread().name)
        return listing(folder)

    monkeypatch.setattr(retries, "_list_files", watch)
    load = registry.request("nut")
    assert load is not None
    assert isinstance(load.result(TIMEOUT_S), PlumblineError)
    assert listed
    assert threading.current_thread().name not in listed, "the event loop requests bundles"


def test_bundle_that_does_not_fit_is_refused_with_the_setting_to_change(open_registry: Open) -> None:
    registry = open_registry(1, "bolt")
    with (
        pytest.raises(ProductNotReady, match="of which pinned products take 5 MiB"),
        registry.lease("nut"),
    ):
        pass
    assert score(registry, "bolt") > 0


def test_replacement_of_a_pinned_bundle_breaks_no_other_product(open_registry: Open, unloaded: Deployment) -> None:
    registry = open_registry(2, "bolt")
    with ThreadPoolExecutor(1) as pool:
        new = registry.load_bundle("bolt", unloaded.old["bolt"].version)
        try:
            waiting = pool.submit(score, registry, "nut")
            wait([waiting], 0.5)  # time to be refused; it waits for the memory instead
        finally:
            new.retire()
        assert waiting.result(TIMEOUT_S) > 0
    assert registry.failures.broken == ()


def test_bundle_that_could_never_be_loaded_again_is_not_activated(open_registry: Open, unloaded: Deployment) -> None:
    registry = open_registry(1, "bolt")
    rollout = Rollout(registry, unloaded.store.engine, Metrics(), unloaded.rollout.uploads)
    before = registry.get("nut").bundle.version
    with pytest.raises(BundleInvalid, match="Raise PLUMBLINE_BUNDLE_MEMORY_BYTES"):
        rollout.activate("nut", unloaded.old["nut"].version, **SIGNATURE)
    assert registry.get("nut").bundle.version == before
    rollout.activate("bolt", unloaded.old["bolt"].version, **SIGNATURE)
    assert in_memory(registry) == {"bolt"}, "pinned bundles are loaded in any case"


def test_reload_verifies_the_files_and_repeats_neither_the_self_test_nor_other_scores(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch, bundles: dict[str, Bundle]
) -> None:
    registry = open_registry(1)
    first = score(registry, "nut")
    score(registry, "bolt")
    monkeypatch.setattr(BundleLoader, "load", None)
    assert score(registry, "nut") == first
    score(registry, "bolt")
    (bundles["nut"].path / "model.onnx").write_bytes(b"bit rot")
    with pytest.raises(ProductNotReady, match="not the file that the manifest lists"):
        score(registry, "nut")


def test_activation_replaces_a_bundle_within_the_memory(open_registry: Open, unloaded: Deployment) -> None:
    registry = open_registry(2)
    rollout = Rollout(registry, unloaded.store.engine, Metrics(), unloaded.rollout.uploads)
    score(registry, "nut")
    nut = registry.get("nut").inspector
    rollout.activate("nut", unloaded.old["nut"].version, **SIGNATURE)
    assert is_closed(nut)
    assert registry.get("nut").bundle.version == unloaded.old["nut"].version
    assert "nut" in in_memory(registry)
    assert registry.memory.used_bytes <= registry.memory.limits.limit_bytes  # type: ignore[operator]
    rollout.activate("rivet", registry.get("rivet").bundle.version, **SIGNATURE)
    assert "rivet" in in_memory(registry)
    assert len(in_memory(registry)) == 2, "others leave for a bundle that was activated"


def test_shadow_is_loaded_on_demand(open_registry: Open, unloaded: Deployment) -> None:
    registry = open_registry(1)
    rollout = Rollout(registry, unloaded.store.engine, Metrics(), unloaded.rollout.uploads)
    rollout.start_shadow("nut", unloaded.old["nut"].version, **SIGNATURE)
    score(registry, "bolt")
    assert not registry.shadows["nut"].served.is_loaded
    with registry.lease_shadow("nut") as shadow:
        assert shadow is not None
        assert shadow.inspector.inspect(BAD, shadow.recipe.criteria).score > 0
    assert in_memory(registry) == set()


def test_changes_by_other_processes_are_followed_after_the_wait_for_a_load(open_registry: Open) -> None:
    registry = open_registry(3, "bolt")
    followed: list[bool] = []
    registry.synchronise = lambda product: followed.append(registry.get(product).served.is_loaded)
    score(registry, "nut")
    assert followed == [False, True]


def test_requests_that_wait_end_when_the_registry_is_closed(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(1)
    score(registry, "bolt")
    monkeypatch.setattr("service.deployment.bundle_memory.stay_s", lambda _: 3600.0)
    score(registry, "nut")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(score, registry, "bolt")
        while registry.memory._loads == {}:
            pass
        registry.close()
        with pytest.raises(ShuttingDown):
            waiting.result(TIMEOUT_S)
    with pytest.raises(ShuttingDown), registry.lease("rivet"):
        pass


def test_held_bundle_is_loaded_first(open_registry: Open) -> None:
    registry = open_registry(1, "bolt")
    active: ActiveProduct = open_registry(2).get("nut")
    with active.held() as inspector:
        assert not is_closed(inspector)
    active.served.retire()
    with pytest.raises(ProductNotReady, match="another bundle was activated"), active.held():
        pass
    assert registry.get("bolt").served.is_loaded
