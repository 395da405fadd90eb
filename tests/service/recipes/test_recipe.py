import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.inspection.area import Area
from service.inspection.decision import Criteria, Thresholds
from service.inspection.regions import RegionFilter
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe
from service.recipes.sections import HeatmapSetting, RecipeParts, differences, merge
from service.schemas.recipe import RecipeChange, RecipeValues

HUNDRED = [float(value) for value in range(1, 100)]  # 99 scores
FORTY_TWO = [float(value) for value in range(1, 43)]


def test_default_recipe_certifies_one_percent_where_it_can() -> None:
    recipe = Recipe.default(HUNDRED)

    assert (recipe.fail_threshold, recipe.target_false_reject_rate) == (99.0, 0.01)
    assert (recipe.review_threshold, recipe.review_rate) == (95.0, 0.05)
    assert (recipe.certified, recipe.calibration_images) == (True, 99)


def test_default_recipe_uses_the_smallest_certifiable_rate_of_few_images() -> None:
    recipe = Recipe.default(FORTY_TWO)

    assert recipe.fail_threshold == 42.0
    assert recipe.target_false_reject_rate == pytest.approx(1 / 43)
    assert recipe.review_threshold < recipe.fail_threshold


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 19, 99, 1000])
def test_default_recipe_exists_for_any_number_of_images(n: int) -> None:
    recipe = Recipe.default([float(value) for value in range(n)])

    assert recipe.review_threshold < recipe.fail_threshold or n == 1


def test_recipe_for_stated_rates() -> None:
    recipe = Recipe.for_rates(HUNDRED, 0.1, 0.2)

    assert (recipe.fail_threshold, recipe.review_threshold) == (90.0, 80.0)


@pytest.mark.parametrize(
    ("fail", "review", "message"),
    [(0.001, None, "needs 999 images"), (0.1, 0.05, "smaller than"), (1.5, None, "between 0 and 1")],
)
def test_impossible_rates_are_refused_and_nothing_changes(fail: float, review: float | None, message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message) as caught:
        Recipe.for_rates(HUNDRED, fail, review)
    assert "Nothing was changed" in caught.value.detail


@pytest.mark.parametrize(
    "values",
    [
        {"fail_threshold": 1.0, "review_threshold": 2.0},
        {"fail_threshold": float("nan"), "review_threshold": 0.0},
        {"fail_threshold": 1.0, "review_threshold": 0.5, "thresold": 3.0},
        {"fail_threshold": 1.0},
    ],
)
def test_recipe_is_validated_as_a_whole(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(values)


def test_threshold_set_by_hand_has_no_guarantee() -> None:
    recipe = Recipe(fail_threshold=2.0, review_threshold=1.0)

    assert (recipe.certified, recipe.target_false_reject_rate) == (False, None)


def test_rate_that_cannot_be_certified_is_extrapolated_on_request_and_not_certified() -> None:
    recipe = Recipe.for_rates(FORTY_TWO, 0.001, extrapolate=True)

    assert recipe.fail_threshold > max(FORTY_TWO)
    assert (recipe.certified, recipe.target_false_reject_rate) == (False, 0.001)
    assert recipe.review_threshold < recipe.fail_threshold


def test_extrapolation_is_not_used_where_enough_images_exist() -> None:
    assert Recipe.for_rates(HUNDRED, 0.1, extrapolate=True) == Recipe.for_rates(HUNDRED, 0.1)


def test_extrapolation_needs_five_scores() -> None:
    with pytest.raises(InvalidRecipe, match="5 are needed"):
        Recipe.for_rates([1.0, 2.0, 3.0], 0.01, extrapolate=True)


@pytest.mark.parametrize(
    ("change", "merged"),
    [
        ({}, {"a": 1, "b": {"c": 2, "d": [3, 4]}}),
        ({"a": 5}, {"a": 5, "b": {"c": 2, "d": [3, 4]}}),
        ({"b": {"c": 5}}, {"a": 1, "b": {"c": 5, "d": [3, 4]}}),
        ({"b": {"d": [5]}}, {"a": 1, "b": {"c": 2, "d": [5]}}),
        ({"b": {"c": None}}, {"a": 1, "b": {"d": [3, 4]}}),
        ({"b": None}, {"a": 1}),
        ({"e": {"f": 6}}, {"a": 1, "b": {"c": 2, "d": [3, 4]}, "e": {"f": 6}}),
    ],
)
def test_values_that_a_change_omits_are_kept(change: dict[str, Any], merged: dict[str, Any]) -> None:
    current = {"a": 1, "b": {"c": 2, "d": [3, 4]}}

    assert merge(current, change) == merged
    assert current == {"a": 1, "b": {"c": 2, "d": [3, 4]}}, "the original is not modified"


values = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
recipes = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(recipes, recipes)
def test_differences_turn_one_recipe_into_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = list(differences(before, after))

    assert bool(found) == (list(differences(after, before)) != [])
    for path, old, new in found:
        assert old != new
        assert at(before, path) == old
        assert at(after, path) == new
    assert list(differences(before, before)) == []


def at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def test_sections_and_thresholds_change_independently() -> None:
    recipe = Recipe.default(HUNDRED).changed({"heatmap": {"low": 1.0, "high": 2.0}})
    assert recipe.heatmap == HeatmapSetting(low=1.0, high=2.0)
    assert recipe.thresholds == Recipe.default(HUNDRED).thresholds

    recipe = recipe.changed({"heatmap": {"low": None}}, Recipe.for_rates(HUNDRED, 0.1))

    assert recipe.heatmap == HeatmapSetting(high=2.0)
    assert (recipe.fail_threshold, recipe.derivation) == (90.0, "card")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"heatmap": {"low": 3.0}}, r"heatmap: heatmap.low 3 is not below heatmap.high 2"),
        ({"heatmap": {"hihg": 3.0}}, r"heatmap.hihg: unknown field `hihg` \(did you mean `high`\?\)"),
        ({"colour": 1}, r"colour: unknown field `colour` \(expected one of: calibration_images,"),
        ({"heatmap": {"low": float("inf")}}, r"heatmap.low: .*finite"),
    ],
)
def test_invalid_change_is_refused_with_its_location(parts: dict[str, Any], message: str) -> None:
    recipe = Recipe(fail_threshold=2.0, review_threshold=1.0, heatmap=HeatmapSetting(high=2.0))

    with pytest.raises(InvalidRecipe, match=message):
        recipe.changed(parts)


@pytest.mark.parametrize(
    ("stored", "derivation"),
    [
        ({"target_false_reject_rate": 0.01, "certified": True}, "card"),
        ({"target_false_reject_rate": 0.01, "certified": False}, "tail"),
        ({"target_false_reject_rate": None}, "hand"),
    ],
)
def test_derivation_of_recipes_stored_by_older_versions_is_inferred(stored: dict[str, Any], derivation: str) -> None:
    recipe = Recipe.model_validate({"fail_threshold": 2.0, "review_threshold": 1.0, **stored})

    assert recipe.derivation == derivation
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@given(st.lists(st.floats(1, 50), min_size=3, max_size=40), st.booleans())
def test_star_shaped_polygon_is_accepted(radii: list[float], backwards: bool) -> None:
    angles = [2 * math.pi * number / len(radii) for number in range(len(radii))]
    star = [(50 + r * math.cos(angle), 50 + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]

    parts = RecipeParts.model_validate({"roi": [star[::-1] if backwards else star]})

    assert len(parts.roi[0]) == len(radii)


@given(st.integers(5, 40), st.data())
def test_polygon_that_winds_around_twice_is_refused(corners: int, data: st.DataObject) -> None:
    turns = data.draw(st.integers(2, (corners - 1) // 2))
    angles = [2 * math.pi * turns * number / corners + 0.1 for number in range(corners)]
    star = [(50 + 40 * math.cos(angle), 50 + 40 * math.sin(angle)) for angle in angles]

    with pytest.raises(ValidationError, match=r"intersects the edge|is repeated"):
        RecipeParts.model_validate({"roi": [star]})


def test_criteria_follow_the_recipe() -> None:
    recipe = Recipe.default(HUNDRED).changed(
        {"roi": [[[0, 0], [9, 0], [9, 9]]], "regions": {"min_area_px": 5, "min_peak": 3, "max_count": 7}}
    )

    assert recipe.criteria == Criteria(
        Thresholds(fail=99.0, review=95.0),
        Area(roi=(((0, 0), (9, 0), (9, 9)),)),
        RegionFilter(min_area_px=5, min_peak=3, max_count=7),
    )
    assert Recipe.default(HUNDRED).criteria == Criteria(recipe.thresholds), "by default nothing is excluded or filtered"


def test_recipe_for_another_bundle_keeps_polygons_and_drops_values_on_the_old_scale() -> None:
    mine = Recipe.default(HUNDRED).changed(
        {"roi": [[[0, 0], [9, 0], [9, 9]]], "regions": {"min_area_px": 5, "min_peak": 3}, "heatmap": {"high": 7}}
    )

    moved = mine.adapted_to(Recipe.default(FORTY_TWO))

    assert moved == Recipe.default(FORTY_TWO).changed({"roi": mine.roi, "regions": {"min_area_px": 5}})


def test_every_section_of_a_recipe_is_in_the_http_schemas() -> None:
    parts = set(RecipeParts.model_fields)

    assert parts <= set(RecipeChange.model_fields), "a new section must be added to RecipeChange"
    # Whether the guarantee holds depends on the inspections since, too.
    assert set(RecipeValues.model_fields) - {"guarantee"} == set(Recipe.model_fields)
    assert all(RecipeChange.model_fields[name].default is None for name in parts), "null resets a section"
