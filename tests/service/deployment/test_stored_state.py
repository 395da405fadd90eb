"""What a replica that starts reads of all products at once, and what changes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.deployment.errors import ProductNotReady
from service.deployment.memory_limits import MemoryLimits
from service.deployment.recipes import replace_recipe
from service.deployment.registry import Registry
from service.deployment.startup import Startup
from service.deployment.stored_state import StoredState
from service.monitoring.metrics import Metrics
from service.recipes.recipe import Recipe
from service.store.recipes import append_recipe
from service.store.records import RecipeRevision
from tests.bundles import SCORES, write_tiny_bundle
from tests.databases import recorded_statements
from tests.service.deployment.conftest import ADA
from tests.service.deployment.replicas import Replica, Run, WatchedObjects, run_replica

ON_DEMAND = MemoryLimits(2**30)


def change_recipe(replica: Replica, product: str, threshold: float) -> RecipeRevision:
    engine, recipe = replica.store.engine, Recipe(fail_threshold=threshold, review_threshold=0.1)
    return replace_recipe(
        replica.registry,
        engine,
        product,
        lambda active: append_recipe(engine, active.bundle, recipe, actor=ADA, reason="test"),
    )


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Run a function in each start, after the state was read and before the products are loaded."""

    def set_change(change: Callable[[], object]) -> None:
        read = StoredState.read

        def read_and_change(*given: object) -> StoredState:
            state = read(*given)  # type: ignore[arg-type]
            change()
            return state

        monkeypatch.setattr("service.deployment.startup.StoredState.read", read_and_change)

    return set_change


def test_number_of_queries_of_a_start_does_not_depend_on_the_number_of_products(
    tmp_path: Path, objects: WatchedObjects
) -> None:
    url, counts = f"sqlite:///{tmp_path / 'plumbline.db'}", list[int]()
    with run_replica(url, tmp_path / "a", objects, memory=ON_DEMAND, is_followed=True) as replica:
        for names in (("bolt", "nut"), ("rivet", "screw", "washer")):
            for name in names:
                bundle = write_tiny_bundle(tmp_path / "made", name)
                replica.upload(bundle)
                replica.activate(bundle)
            registry = Registry(replica.source.root, replica.registry.loader, Metrics(), ON_DEMAND, replica.source)
            with recorded_statements(replica.store.engine) as statements:
                Startup(registry, replica.store.engine, is_followed=True).run()
            counts.append(len(statements))
            active = {product: (one.bundle.digest, one.recipe) for product, one in registry.active.items()}
            expected = {name: (one.bundle.digest, one.recipe) for name, one in replica.registry.active.items()}
            assert active == expected
            assert len(active) == (2 if len(counts) == 1 else 5)
    assert counts[0] == counts[1]


def test_recipe_that_is_changed_while_a_replica_starts_is_in_force_before_the_first_image(
    run: Run, tmp_path: Path, before: Callable[[Callable[[], object]], None]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "made", "nut")
    with run("a") as first:
        first.upload(bundle)
        first.activate(bundle)
        changed: list[RecipeRevision] = []
        before(lambda: changed.append(change_recipe(first, "nut", 0.77)))
        with run("b", memory=ON_DEMAND, is_followed=True) as second:
            assert second.registry.get("nut").recipe.revision < changed[0].revision, "the state was outdated"
            with second.registry.lease("nut") as active:
                assert active.recipe == changed[0]


def test_bundle_that_is_activated_while_a_replica_starts_serves_before_the_first_image(
    run: Run, tmp_path: Path, before: Callable[[Callable[[], object]], None]
) -> None:
    old, new = (write_tiny_bundle(tmp_path / "made", "nut", scores=[k * one for one in SCORES]) for k in (1, 2))
    with run("a") as first:
        for bundle in (old, new):
            first.upload(bundle)
        first.activate(old)
        before(lambda: first.activate(new))
        with run("b", memory=ON_DEMAND, is_followed=True) as second:
            revision = first.registry.get("nut").recipe
            with pytest.raises(ProductNotReady), second.registry.lease("nut"):
                pass
            second.follower.poll()
            with second.registry.lease("nut") as active:
                assert (active.bundle.digest, active.recipe) == (new.digest, revision)
            assert first.registry.get("nut").recipe == revision, "the replica that started appended no recipe"


def test_product_whose_recipe_belongs_to_another_bundle_is_read_again(run: Run, tmp_path: Path) -> None:
    old, new = (write_tiny_bundle(tmp_path / "made", "nut", scores=[k * one for one in SCORES]) for k in (1, 2))
    with run("a") as first:
        for bundle in (old, new):
            first.upload(bundle)
        first.activate(old)
        engine = first.store.engine
        assert StoredState.read(engine, first.source).version("nut") == old.version
        append_recipe(engine, new, Recipe(fail_threshold=0.8, review_threshold=0.1), actor=ADA, reason="test")
        assert StoredState.read(engine, first.source).version("nut") is None
        with run("b", memory=ON_DEMAND, is_followed=True) as second, second.registry.lease("nut") as active:
            assert active.bundle.digest == active.recipe.bundle_digest == old.digest


def test_bundle_without_a_choice_is_known_if_it_is_the_only_one(run: Run, tmp_path: Path) -> None:
    bolt, nut = (write_tiny_bundle(tmp_path / "made", name) for name in ("bolt", "nut"))
    with run("a") as first:
        for bundle in (bolt, nut):
            first.source.store(bundle)()
        first.source.store(write_tiny_bundle(tmp_path / "made", "nut", scores=[2 * one for one in SCORES]))()
        for bundle in (bolt, nut):
            recipe = Recipe(fail_threshold=0.8, review_threshold=0.1)
            append_recipe(first.store.engine, bundle, recipe, actor=ADA, reason="test")
        state = StoredState.read(first.store.engine, first.source)
        assert state.version("bolt") == bolt.version
        assert state.version("nut") is None
        assert state.recipe("bolt", nut.digest) is None
