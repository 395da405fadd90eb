import pytest
from pydantic import ValidationError

from service.errors import InvalidRecipe
from service.recipe import Recipe

HUNDRED = [float(value) for value in range(1, 100)]  # 99 scores
FORTY_TWO = [float(value) for value in range(1, 43)]


def test_default_recipe_certifies_one_percent_where_it_can() -> None:
    recipe = Recipe.default(HUNDRED)

    assert (recipe.fail_threshold, recipe.target_false_reject_rate) == (99.0, 0.01)
    assert (recipe.review_threshold, recipe.review_rate) == (95.0, 0.05)
    assert (recipe.certified, recipe.calibration_images) == (True, 99)


def test_default_recipe_states_the_rate_that_few_images_can_certify() -> None:
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
    [(0.001, None, "999 would be needed"), (0.1, 0.05, "smaller than"), (1.5, None, "between 0 and 1")],
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


def test_threshold_set_by_hand_claims_no_guarantee() -> None:
    recipe = Recipe(fail_threshold=2.0, review_threshold=1.0)

    assert (recipe.certified, recipe.target_false_reject_rate) == (False, None)


def test_rate_beyond_the_images_is_extrapolated_on_request_and_never_called_certified() -> None:
    recipe = Recipe.for_rates(FORTY_TWO, 0.001, extrapolate=True)

    assert recipe.fail_threshold > max(FORTY_TWO)
    assert (recipe.certified, recipe.target_false_reject_rate) == (False, 0.001)
    assert recipe.review_threshold < recipe.fail_threshold


def test_extrapolation_is_not_used_where_the_images_suffice() -> None:
    assert Recipe.for_rates(HUNDRED, 0.1, extrapolate=True) == Recipe.for_rates(HUNDRED, 0.1)


def test_extrapolation_needs_a_tail() -> None:
    with pytest.raises(InvalidRecipe, match="5 are needed"):
        Recipe.for_rates([1.0, 2.0, 3.0], 0.01, extrapolate=True)
