"""A change of bundles is stored as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.bundle.errors import BundleInvalid
from service.deployment.recipes import RecipeSources
from service.deployment.startup import Startup
from service.store import choices as choices_module
from service.store.audit import AuditEntry
from service.store.bundles.removals import mark_removal
from service.store.choices import BundleChoices
from service.store.errors import StoreUnavailable
from service.store.recipes import recipe_history
from service.store.records import BundleChoice, ChoiceDraft, Role
from service.store.session import writing
from tests.service.deployment.conftest import ADA, SIGNATURE, Deployment


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


def test_bundle_of_a_model_repository_is_deployed_although_it_was_removed_from_a_bundle_store(
    deployment: Deployment,
) -> None:
    """The service used a bundle store before, and a person put the bundle into the model repository since."""
    old, new = deployment.old["bolt"], deployment.new["bolt"]
    with writing(deployment.store.engine, "test") as session:
        for bundle in (old, new):
            mark_removal(session, bundle.digest, "bolt", ADA)
    deployment.rollout.start_shadow("bolt", old.version, **SIGNATURE)
    deployment.activate("bolt", old)
    assert deployment.rollout.roll_back("bolt", **SIGNATURE).version == new.version


@pytest.mark.slow
@pytest.mark.parametrize("chosen_before", [True, False])
@pytest.mark.parametrize("fails", ["insert_recipe", "first choice", "last choice", "commit"])
def test_failed_activation_stores_nothing(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, fails: str, chosen_before: bool
) -> None:
    bundle, registry, engine = deployment.old["bolt"], deployment.registry, deployment.store.engine
    if chosen_before:
        deployment.activate("bolt", deployment.new["bolt"])
    deployment.rollout.start_shadow("bolt", bundle.version, **SIGNATURE)  # so that activating it stores two choices

    def stored() -> tuple[object, ...]:
        roles: tuple[Role, ...] = ("active", "shadow")
        choices = [list(deployment.rollout.choices.history("bolt", role)) for role in roles]
        return (recipe_history(engine, "bolt"), *choices)

    before, active, shadow = stored(), registry.get("bolt"), registry.shadows["bolt"]
    insert, drafts = choices_module._insert, []

    def fail_at(number: int) -> Callable[[Session, ChoiceDraft], tuple[BundleChoice, AuditEntry]]:
        def choose(session: Session, draft: ChoiceDraft) -> tuple[BundleChoice, AuditEntry]:
            drafts.append(draft)
            return unavailable() if len(drafts) == number else insert(session, draft)

        return choose

    def fail_to_commit(*_: object) -> NoReturn:
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        if fails == "insert_recipe":
            patch.setattr("service.store.choices.insert_recipe", unavailable)
        elif fails == "commit":
            patch.setattr(engine.dialect, "do_commit", fail_to_commit)
        else:
            last = 2 if chosen_before else 3
            patch.setattr("service.store.choices._insert", fail_at(1 if fails == "first choice" else last))
        with pytest.raises(StoreUnavailable):
            deployment.activate("bolt", bundle)

    assert stored() == before
    assert registry.get("bolt") is active
    assert registry.shadows["bolt"] is shadow
    assert registry.broken == ()
    deployment.activate("bolt", bundle)
    assert registry.get("bolt").recipe == recipe_history(engine, "bolt")[0], "memory and database agree"
    assert deployment.rollout.roll_back("bolt", **SIGNATURE).version == deployment.new["bolt"].version


def test_bundle_that_cannot_be_loaded_stores_nothing(deployment: Deployment) -> None:
    bundle = deployment.old["bolt"]
    (bundle.path / "model.onnx").write_bytes(b"bit rot")
    with pytest.raises(BundleInvalid):
        deployment.activate("bolt", bundle)
    assert deployment.rollout.choices.history("bolt", "active") == []
    assert len(recipe_history(deployment.store.engine, "bolt")) == 1


def test_activation_of_the_shadow_ends_the_shadow_deployment(deployment: Deployment) -> None:
    bundle = deployment.old["bolt"]
    deployment.rollout.start_shadow("bolt", bundle.version, **SIGNATURE)
    shadow = deployment.registry.shadows["bolt"]
    deployment.activate("bolt", bundle)

    assert deployment.registry.shadows == {}
    assert shadow.served.ended.is_set(), "its own inspector is unloaded"
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
    assert len(calls) == 4, "products are loaded in parallel, and each waits for the database"
    assert unloaded.registry.active.keys() == {"bolt", "nut"}
    assert not unloaded.registry.loading


def test_closed_registry_loads_nothing(unloaded: Deployment) -> None:
    unloaded.registry.close()
    Startup(unloaded.registry, unloaded.store.engine).run()
    assert unloaded.registry.active == {}
    assert not unloaded.registry.loading
