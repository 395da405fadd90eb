"""Locks, leases and swaps of the registry."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from service.deployment.errors import ChangeUnderWay, ProductNotReady, UnknownProduct
from service.deployment.failures import BrokenBundle, LoadFailures
from service.deployment.lease import ActiveProduct
from service.deployment.recipes import replace_recipe
from service.errors import ShuttingDown
from service.recipes.recipe import Recipe
from service.store.errors import StoreUnavailable
from service.store.recipes import append_recipe, recipe_history
from service.store.records import RecipeRevision
from tests.service.deployment.conftest import ADA, TIMEOUT_S, Deployment, HangingWrite, is_closed


def unavailable(*_: object) -> NoReturn:
    raise StoreUnavailable("test")


def change_recipe_slowly(deployment: Deployment, product: str, hanging: HangingWrite) -> RecipeRevision:
    def append(active: ActiveProduct) -> RecipeRevision:
        hanging.wait()
        recipe = Recipe(fail_threshold=7, review_threshold=6)
        return append_recipe(deployment.store.engine, active.bundle, recipe, actor=ADA, reason="test")

    return replace_recipe(deployment.registry, deployment.store.engine, product, append)


def swap_slowly(deployment: Deployment, product: str, hanging: HangingWrite) -> None:
    registry = deployment.registry
    recipe = registry.get(product).recipe

    def store() -> tuple[RecipeRevision, None]:
        hanging.wait()
        return recipe, None

    with registry.changing(product):
        registry.swap(product, registry.load_bundle(product, deployment.old[product].version), store)


def test_recipe_write_that_hangs_delays_no_other_product(deployment: Deployment, hanging: HangingWrite) -> None:
    hanging.run(lambda: change_recipe_slowly(deployment, "bolt", hanging))

    assert deployment.change_recipe("nut", 9.0).recipe.fail_threshold == 9.0
    deployment.activate("nut", deployment.old["nut"])
    assert deployment.version("nut") == deployment.old["nut"].version
    assert deployment.registry.get("bolt").recipe.recipe.fail_threshold != 7, "not in force before it is stored"

    hanging.release()
    assert hanging.error is None
    assert deployment.registry.get("bolt").recipe.recipe.fail_threshold == 7


def test_swap_whose_write_hangs_delays_no_other_product(deployment: Deployment, hanging: HangingWrite) -> None:
    hanging.run(lambda: swap_slowly(deployment, "bolt", hanging))

    deployment.activate("nut", deployment.old["nut"])
    assert deployment.change_recipe("nut", 9.0).recipe.fail_threshold == 9.0
    with deployment.registry.lease("bolt") as active:
        assert active.bundle.version == deployment.new["bolt"].version, "readers get the old bundle until it is stored"

    hanging.release()
    assert hanging.error is None
    assert deployment.version("bolt") == deployment.old["bolt"].version


def test_recipe_changes_of_one_product_wait_for_each_other(deployment: Deployment, hanging: HangingWrite) -> None:
    hanging.run(lambda: change_recipe_slowly(deployment, "bolt", hanging))
    second = threading.Thread(target=deployment.change_recipe, args=("bolt", 9.0))
    second.start()
    second.join(0.2)
    assert second.is_alive()

    hanging.release()
    second.join(TIMEOUT_S)
    assert not second.is_alive()
    thresholds = [row.recipe.fail_threshold for row in recipe_history(deployment.store.engine, "bolt", limit=2)]
    assert thresholds == [9, 7]
    assert deployment.registry.get("bolt").recipe.recipe.fail_threshold == 9, "memory and database agree"


def test_only_one_bundle_change_per_product(deployment: Deployment, hanging: HangingWrite) -> None:
    hanging.run(lambda: swap_slowly(deployment, "bolt", hanging))
    with pytest.raises(ChangeUnderWay):
        deployment.activate("bolt", deployment.old["bolt"])
    with deployment.registry.changing("nut"), pytest.raises(ChangeUnderWay):
        deployment.activate("nut", deployment.old["nut"])
    hanging.release()


def test_close_completes_the_change_in_progress_and_refuses_others(
    deployment: Deployment, hanging: HangingWrite
) -> None:
    registry = deployment.registry
    bolt, nut = registry.get("bolt").inspector, registry.get("nut").inspector
    hanging.run(lambda: swap_slowly(deployment, "bolt", hanging))
    closing = threading.Thread(target=registry.close)
    closing.start()
    deadline = time.monotonic() + TIMEOUT_S
    while not is_closed(nut):
        assert time.monotonic() < deadline, "the other product is not closed before the change ends"
    with pytest.raises(ShuttingDown):
        deployment.change_recipe("nut", 9.0)
    assert closing.is_alive()

    hanging.release()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    assert hanging.error is None, "the change in progress completes"
    assert deployment.version("bolt") == deployment.old["bolt"].version
    assert is_closed(bolt)
    assert is_closed(registry.get("bolt").inspector)


def test_closed_registry_refuses_every_change(deployment: Deployment) -> None:
    registry, version = deployment.registry, deployment.old["bolt"].version
    loaded = [registry.load_bundle("bolt", version) for _ in range(2)]
    inspectors = [served.inspector for served in loaded]
    recipe = registry.get("bolt").recipe
    registry.close()
    stored: list[str] = []

    def store(change: str) -> str:
        stored.append(change)
        return change

    with pytest.raises(ShuttingDown), registry.changing("bolt"):
        stored.append("changing")
    with pytest.raises(ShuttingDown):
        registry.swap("bolt", loaded[0], lambda: (recipe, store("swap")))
    with pytest.raises(ShuttingDown):
        registry.start_shadow("bolt", loaded[1], lambda: (recipe.recipe, store("start")))
    with pytest.raises(ShuttingDown):
        registry.stop_shadow("bolt", lambda: store("stop"))
    with pytest.raises(ShuttingDown):
        deployment.change_recipe("bolt", 9.0)
    assert stored == []
    assert all(map(is_closed, inspectors))
    assert recipe_history(deployment.store.engine, "bolt") == [recipe]


def test_failed_write_leaves_everything_as_it_was(deployment: Deployment) -> None:
    registry = deployment.registry
    registry.failures.add_broken(BrokenBundle("bolt", "x", "bundle-invalid", "test"))
    active, shadows, exposed = registry.get("bolt"), registry.shadows, _bundle_metrics(deployment)
    swapped, shadow = (registry.load_bundle("bolt", deployment.old["bolt"].version) for _ in range(2))
    inspectors = [served.inspector for served in (swapped, shadow)]

    with pytest.raises(StoreUnavailable):
        registry.swap("bolt", swapped, unavailable)
    with pytest.raises(StoreUnavailable):
        registry.start_shadow("bolt", shadow, unavailable)
    with pytest.raises(StoreUnavailable):
        registry.stop_shadow("bolt", unavailable)
    with pytest.raises(StoreUnavailable):
        registry.change_recipe("bolt", unavailable)

    assert registry.get("bolt") is active
    assert registry.shadows is shadows
    assert [bundle.version for bundle in registry.broken] == ["x"]
    assert _bundle_metrics(deployment) == exposed
    assert all(map(is_closed, inspectors))
    assert not is_closed(active.inspector)


def _bundle_metrics(deployment: Deployment) -> list[str]:
    names = ("inspection_model_info", "inspection_shadow_model_info", "inspection_threshold", "inspection_recipe")
    return [line for line in deployment.metrics.expose().decode().splitlines() if line.startswith(names)]


def test_recipe_of_a_product_that_is_not_active_cannot_be_changed(unloaded: Deployment) -> None:
    with pytest.raises(ProductNotReady, match="being loaded"):
        unloaded.change_recipe("bolt", 9.0)
    with pytest.raises(UnknownProduct):
        unloaded.change_recipe("ghost", 9.0)


def test_product_whose_folder_was_added_after_the_start_is_explained(unloaded: Deployment, tmp_path: Path) -> None:
    (tmp_path / "models" / "late").mkdir()
    with pytest.raises(UnknownProduct, match="restart the service"):
        unloaded.change_recipe("late", 9.0)
    with pytest.raises(UnknownProduct, match=r"Known products: [^.]*\.$"):
        unloaded.change_recipe("ghost", 9.0)


def test_concurrent_load_failures_are_all_kept() -> None:
    failures = LoadFailures()
    bundles = [BrokenBundle("bolt", str(number), "bundle-invalid", "test") for number in range(400)]

    def record(part: list[BrokenBundle]) -> None:
        for bundle in part:
            failures.add_broken(bundle)
            failures.add_refused(bundle)

    threads = [threading.Thread(target=record, args=(bundles[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failures.broken, key=lambda bundle: int(bundle.version)) == bundles
    assert len(failures.refused) == len(bundles)
    failures.clear_broken("bolt")
    failures.clear_refused("bolt", "0")
    assert failures.broken == ()
    assert len(failures.refused) == len(bundles) - 1
