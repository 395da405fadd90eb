"""A change of bundles is stored as a whole or not at all."""

from __future__ import annotations

from typing import NoReturn

import pytest

from service.deployment.recipes import RecipeSources
from service.deployment.startup import Startup
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.recipes import recipe_history
from tests.service.deployment.conftest import SIGNATURE, Deployment


def unavailable(*_: object) -> NoReturn:
    raise StoreUnavailable("test")


def test_choice_that_cannot_be_stored_leaves_no_recipe_revision(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.activate("bolt", deployment.new["bolt"])
    active, history = deployment.registry.get("bolt"), recipe_history(deployment.store.engine, "bolt")
    with monkeypatch.context() as patch:
        patch.setattr("service.store.choices._insert", unavailable)
        with pytest.raises(StoreUnavailable):
            deployment.activate("bolt", deployment.old["bolt"])

    assert deployment.registry.get("bolt") is active
    assert recipe_history(deployment.store.engine, "bolt") == history
    deployment.activate("bolt", deployment.old["bolt"])
    assert deployment.registry.get("bolt").recipe.revision == history[0].revision + 1


def test_activation_of_the_shadow_ends_the_shadow_deployment(deployment: Deployment) -> None:
    bundle = deployment.old["bolt"]
    deployment.rollout.start_shadow("bolt", bundle.version, **SIGNATURE)
    shadow = deployment.registry.shadows["bolt"]
    deployment.activate("bolt", bundle)

    assert deployment.registry.shadows == {}
    assert shadow.leases.ended.is_set(), "its own inspector is unloaded"
    current = deployment.rollout.choices.current("bolt", "shadow")
    assert current is not None
    assert (current.bundle_digest, current.author) == (None, "Ada")


def test_recipe_is_not_stored_if_the_shadows_recipe_cannot_be_determined(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.rollout.start_shadow("bolt", deployment.old["bolt"].version, **SIGNATURE)
    active, history = deployment.registry.get("bolt"), recipe_history(deployment.store.engine, "bolt")
    with monkeypatch.context() as patch:
        patch.setattr(RecipeSources, "read", unavailable)
        with pytest.raises(StoreUnavailable):
            deployment.change_recipe("bolt", 9.0)
    assert deployment.registry.get("bolt") is active
    assert recipe_history(deployment.store.engine, "bolt") == history


def test_startup_waits_for_the_database(unloaded: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.deployment.startup.RETRY_S", 0.01)
    lineage, calls = BundleChoices.lineage, []

    def fail_twice(self: BundleChoices, product: str) -> object:
        calls.append(product)
        return unavailable() if len(calls) <= 2 else lineage(self, product)

    monkeypatch.setattr(BundleChoices, "lineage", fail_twice)
    Startup(unloaded.registry, unloaded.store.engine).run()
    assert calls == ["bolt", "bolt", "bolt", "nut"]
    assert unloaded.registry.active.keys() == {"bolt", "nut"}
    assert not unloaded.registry.loading


def test_closed_registry_loads_nothing(unloaded: Deployment) -> None:
    unloaded.registry.close()
    Startup(unloaded.registry, unloaded.store.engine).run()
    assert unloaded.registry.active == {}
    assert not unloaded.registry.loading
