"""Contradictory values of a recipe are refused when it is changed."""

from __future__ import annotations

from typing import Any

import pytest

from service.inspection.quality import QualityLimits
from service.recipes.contradictions import PAIRS, require_consistent
from service.recipes.errors import InvalidRecipe
from service.recipes.recipe import Recipe, parse_recipe
from service.schemas import sections

BUNDLE = QualityLimits(min_brightness=50, max_brightness=200, min_aspect=0.9, max_aspect=1.1)
SCALE = (0.1, 1.0)


def recipe(**parts: Any) -> Recipe:
    return Recipe(fail_threshold=1.0, review_threshold=0.5).changed(parts)


def test_every_pair_of_limits_of_the_recipe_is_examined() -> None:
    names = set(sections.QualityLimits.model_fields)
    own = {(f"min_{measure}", f"max_{measure}") for measure in (name.removeprefix("min_") for name in names)} & {
        (lower, upper) for lower in names for upper in names
    }
    assert own, "the recipe has pairs of limits"
    assert own <= set(PAIRS)


@pytest.mark.parametrize(
    ("quality", "loc", "message"),
    [
        (
            {"min_brightness": 150, "max_brightness": 100},
            "min_brightness",
            "min_brightness 150 is above quality.max_brightness 100",
        ),
        (
            {"min_brightness": 201},
            "min_brightness",
            "min_brightness 201 is above max_brightness 200, which follows from",
        ),
        (
            {"max_brightness": 49.5},
            "max_brightness",
            "max_brightness 49.5 is below min_brightness 50, which follows from",
        ),
    ],
)
def test_limits_that_no_image_satisfies_are_refused(quality: dict[str, float], loc: str, message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message) as caught:
        require_consistent(recipe(quality=quality), BUNDLE, SCALE)
    (found,) = caught.value.extensions["errors"]
    assert found["loc"] == ("quality", loc)
    assert "expected" in found["msg"] or "as well" in found["msg"], "it says what to do"


@pytest.mark.parametrize(
    "quality",
    [
        {},
        {"min_brightness": 100, "max_brightness": 100},
        {"min_brightness": 210, "max_brightness": 220},
        {"min_brightness": 150, "max_brightness": 100, "off": ["over-exposed"]},
    ],
)
def test_limits_that_an_image_can_satisfy_are_accepted(quality: dict[str, Any]) -> None:
    require_consistent(recipe(quality=quality), BUNDLE, SCALE)


def test_limits_without_a_bundle_have_no_opposite() -> None:
    require_consistent(recipe(quality={"min_brightness": 255}), QualityLimits(), SCALE)


def test_empty_heatmap_scale_is_refused_only_if_the_recipe_states_it() -> None:
    require_consistent(recipe(), BUNDLE, (1.0, 1.0))
    with pytest.raises(InvalidRecipe, match=r"The heatmap's scale would run from 1.5 to 1"):
        require_consistent(recipe(heatmap={"low": 1.5}), BUNDLE, (1.5, 1.0))


def test_stored_recipe_with_contradictory_limits_stays_readable() -> None:
    values = recipe().model_dump() | {"quality": {"min_brightness": 150, "max_brightness": 100}}
    assert parse_recipe(values).quality.min_brightness == 150


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({"heatmap": {"low": 2, "high": 2}}, "heatmap_order"),
        ({"pixels": {"black_level": 20, "white_level": 20}}, "level_order"),
        ({"fail_threshold": 1.0, "review_threshold": 1.5}, "threshold_order"),
    ],
)
def test_pairs_of_one_section_are_refused_with_their_type(parts: dict[str, Any], kind: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        recipe(**parts)
    assert [found["type"] for found in caught.value.extensions["errors"]] == [kind]


def test_review_rate_below_the_false_reject_rate_is_refused_at_its_field() -> None:
    with pytest.raises(InvalidRecipe, match=r"review rate 0.1 is smaller than the false-reject rate 0.2") as caught:
        Recipe.for_rates([float(score) for score in range(100)], 0.2, 0.1)
    assert caught.value.extensions["errors"][0]["loc"] == ("review_rate",)


def test_rate_that_the_card_cannot_certify_is_refused_at_its_field() -> None:
    with pytest.raises(
        InvalidRecipe, match=r"9 good images can certify a false-reject rate of 0.1 at best; 0.01 needs 99"
    ) as caught:
        Recipe.for_rates([float(score) for score in range(9)], 0.01)
    (found,) = caught.value.extensions["errors"]
    assert (found["loc"], found["type"]) == (("target_false_reject_rate",), "rate_not_certifiable")
