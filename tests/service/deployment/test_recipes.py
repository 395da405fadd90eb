"""The recipe that a bundle is served with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.bundle.bundle import Bundle
from service.deployment.recipes import RecipeSources, recipe_in_force
from service.recipes.recipe import Recipe
from service.recipes.sections import HeatmapSetting
from service.store.audit import AuditAction
from service.store.recipes import append_recipe
from service.store.records import RecipeRevision
from service.store.store import Store
from tests.bundles import tiny_draft, write_tiny_bundle
from tests.service.deployment.conftest import ADA


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'plumbline.db'}", tmp_path / "data")
    yield opened
    opened.close()


def seeded_bundle(models: Path, seed: int) -> Bundle:
    """A bundle that differs from the others in its seed."""
    training = tiny_draft().training.model_copy(update={"seed": seed})
    return write_tiny_bundle(models, training=training)


def test_bundle_that_serves_again_gets_its_own_recipe(store: Store, tmp_path: Path) -> None:
    first = seeded_bundle(tmp_path, 1)
    second = seeded_bundle(tmp_path, 2)
    by_hand = Recipe(fail_threshold=2, review_threshold=1)
    recipe_in_force(store.engine, first)
    append_recipe(store.engine, first, by_hand, actor=ADA, reason="b")

    assert recipe_in_force(store.engine, second).recipe != by_hand, "its scores are on another scale"
    assert recipe_in_force(store.engine, first).recipe == by_hand


def test_values_on_the_score_scale_are_reset_for_another_bundle(store: Store, tmp_path: Path) -> None:
    first, second = seeded_bundle(tmp_path, 1), seeded_bundle(tmp_path, 2)
    chosen = recipe_in_force(store.engine, first).recipe.changed({"heatmap": {"high": 9.0}})
    append_recipe(store.engine, first, chosen, actor=ADA, reason="b")

    assert recipe_in_force(store.engine, second).recipe.heatmap == HeatmapSetting()
    assert recipe_in_force(store.engine, first).recipe == chosen


def test_change_of_another_section_is_no_choice_of_a_rate(store: Store, tmp_path: Path) -> None:
    few = write_tiny_bundle(tmp_path, scores=[0.01, 0.02, 0.03])
    many = write_tiny_bundle(tmp_path)
    default = recipe_in_force(store.engine, few).recipe
    append_recipe(store.engine, few, default.changed({"heatmap": {"high": 9.0}}), actor=ADA, reason="b")

    assert default.target_false_reject_rate == 0.25
    assert recipe_in_force(store.engine, many).recipe.target_false_reject_rate == 0.01


def test_chosen_rate_is_kept_for_several_bundles(store: Store, tmp_path: Path) -> None:
    bundles = [seeded_bundle(tmp_path, seed) for seed in range(3)]
    chosen = Recipe.for_rates(bundles[0].card.scores, 0.1)
    append_recipe(store.engine, bundles[0], chosen, actor=ADA, reason="b")

    rates = [recipe_in_force(store.engine, bundle).recipe.target_false_reject_rate for bundle in bundles]

    assert rates == [0.1, 0.1, 0.1]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["recipe:put", "recipe:derive"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rate", [0.1, None])
def test_sources_after_an_append_are_those_that_the_database_returns(
    store: Store, tmp_path: Path, action: AuditAction, own: bool, rate: float | None
) -> None:
    active, shadow = seeded_bundle(tmp_path, 1), seeded_bundle(tmp_path, 2)
    recipe_in_force(store.engine, active)
    before = RecipeSources.read(store.engine, shadow)
    scores = active.card.scores
    recipe = Recipe.default(scores) if rate is None else Recipe.for_rates(scores, rate)
    revision: RecipeRevision = append_recipe(
        store.engine, shadow if own else active, recipe, actor=ADA, action=action, reason=f"{datetime.now(UTC)}"
    )
    assert before.after(revision, shadow) == RecipeSources.read(store.engine, shadow)
